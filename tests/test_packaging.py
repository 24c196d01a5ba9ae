"""The wheel carries every package and the shipped configurations, and those are found by name."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from llm.configuration import find_config, resolve_config_flags, run_name, shipped_configs
from llm.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def test_the_list_of_packages_is_that_of_the_tree():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in ("llm", "datamodules", "callbacks")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert set(listed) == found | {"llm.configs"}


def test_configs_are_found_by_name_from_an_installed_wheel(tmp_path: Path):
    source = tmp_path / "source"  # a copy, because a build leaves files behind
    for name in ("llm", "datamodules", "callbacks", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*build, "-w", str(tmp_path), str(source)], check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from llm.configuration import find_config; print(find_config('quickstart'))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(site)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == site / "llm" / "configs" / "quickstart.yaml"
    shipped = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert {
        path.relative_to(site / "llm" / "configs") for path in (site / "llm" / "configs").rglob("*.yaml")
    } == shipped
    for name in ("template.html", "filter.js"):
        within = Path("datamodules", "corpus", "reporting", name)
        assert (site / within).read_bytes() == (ROOT / within).read_bytes()


def test_config_names_and_run_names(tmp_path: Path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("{}")
    assert find_config("quickstart") == shipped_configs()["quickstart"]
    assert find_config(str(mine)) == mine
    shipped = str(shipped_configs()["quickstart"])
    assert resolve_config_flags(["fit", "--config", "quickstart", "--x=1"]) == ["fit", "--config", shipped, "--x=1"]
    given = ["fit", f"--config={mine}", "--config=quickstart", "-c", "quickstart"]
    assert resolve_config_flags(given) == ["fit", f"--config={mine}", f"--config={shipped}", "-c", shipped]
    assert run_name(["fit", "--config", str(mine)]) == "mine"
    assert run_name(["fit", "--config=runs/quickstart-2/config.yaml"]) == "quickstart-2"
    assert run_name(["fit", "--config", "base.yaml", "--config", "mine.yaml"]) == "mine"
    assert run_name(["fit"]) == "run"


def test_an_unknown_config_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        find_config("quikstart")
