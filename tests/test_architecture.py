"""Who may import whom, and how long a room may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Package -> what it must not import, directly or inside a function.
FORBIDDEN = {
    "llm/model": ("lightning", "llm.modules", "llm.cli", "datamodules", "callbacks", "numpy", "tokenizers", "rich"),
    "llm/optim": ("lightning", "llm.modules", "llm.cli", "datamodules", "callbacks"),
    "llm/modules": ("llm.cli", "datamodules", "callbacks"),
    "llm/generation": ("lightning", "llm.modules", "llm.cli", "callbacks"),
    "llm/interop": ("llm.cli", "callbacks", "transformers"),
    "datamodules": ("llm", "callbacks"),
    "datamodules/corpus": ("llm", "callbacks", "torch", "lightning"),
    "datamodules/text": ("llm", "callbacks", "lightning"),
    "datamodules/tokens": ("llm", "callbacks", "lightning"),
    "callbacks": ("llm", "datamodules"),
}


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            yield str(node.module)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_only_what_they_may(package: str):
    for path in (ROOT / package).rglob("*.py"):
        for name in imports_of(path):
            banned = [b for b in FORBIDDEN[package] if name == b or name.startswith(b + ".")]
            assert not banned, f"{path.relative_to(ROOT)} imports {name}"


def test_nothing_imports_the_command_line():
    for package in ("llm", "datamodules", "callbacks"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "__main__.py" and path.parent.name != "commands":
                assert "llm.cli" not in set(imports_of(path)), path


def test_the_model_needs_torch_alone():
    outside = set()
    for path in (ROOT / "llm" / "model").rglob("*.py"):
        outside |= {name.partition(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names)
    assert outside == {"torch", "llm"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["generate", "--help"],
        ["prepare", "--help"],
        ["import", "--help"],
        ["export", "--help"],
    ],
)
def test_light_help_imports_neither_torch_nor_lightning(arguments: list[str]):
    code = (
        "import sys\nfrom llm.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'lightning'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_modules_stay_readable():
    for package in ("llm", "datamodules", "callbacks"):
        for path in (ROOT / package).rglob("*.py"):
            limit = 80 if path.name == "__main__.py" else 350
            assert len(path.read_text(encoding="utf-8").splitlines()) <= limit, path


def test_compiled_functions_call_those_of_their_own_file_alone():
    """What Numba keeps is made anew when its own file changes; a change in another file would go unnoticed."""
    found = 0
    for path in (ROOT / "datamodules").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("datamodules")
            for alias in node.names
        }
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            if any(isinstance(one, ast.Name) and one.id == "compiled" for one in function.decorator_list):
                found += 1
                names = {node.id for body in function.body for node in ast.walk(body) if isinstance(node, ast.Name)}
                assert not names & imported, f"{path.relative_to(ROOT)}: {function.name} uses {names & imported}"
    assert found
