"""What the running Python's own library says of itself: functions, methods and classes, with their documentation.

Files are parsed and never imported.
"""

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from datamodules.corpus.reading.sources import stdlib_files
from datamodules.errors import DataError

SHORTEST, LONGEST = 15, 160  # characters of a first sentence
LONGEST_SIGNATURE = 120
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"(])")


class Documented(NamedTuple):
    """Something with a docstring: `textwrap.dedent`, of which kind, how it is called, what its first sentence says."""

    name: str
    kind: str  # function, method or class
    signature: str  # dedent(text); empty for a class, and where it is long
    summary: str
    module: str
    source: str  # file:line, without the folder of the library


def stdlib_digest() -> str:
    """What tells one library from another: the version of Python, and names and sizes of the files."""
    names = [f"{path.relative_to(root()).as_posix()} {path.stat().st_size}" for path in stdlib_files()]
    version = sysconfig.get_config_var("VERSION") or ""
    return hashlib.blake2b("\n".join([str(version), *sorted(names)]).encode(), digest_size=16).hexdigest()


@cache
def documented() -> tuple[Documented, ...]:
    """All public functions, methods and classes whose docstring has a first sentence of usual length.

    Raises:
        DataError: this Python has no readable library.
    """
    found = [one for path in stdlib_files() for one in _of_file(path)]
    if not found:
        raise DataError(f"the Python library in {root()} documents nothing; name your own files in sources")
    return tuple(found)


def root() -> Path:
    """The folder of the library."""
    return Path(sysconfig.get_path("stdlib"))


def module_of(path: Path) -> str:
    """The dotted name of a file's module."""
    parts = list(path.relative_to(root()).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parsed(path: Path) -> ast.Module | None:
    """The syntax tree of a file, or None where it has none."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return None


def _of_file(path: Path) -> Iterator[Documented]:
    tree, module = parsed(path), module_of(path)
    if tree is None or any(part.startswith("_") for part in module.split(".")):
        return
    name = path.relative_to(root()).as_posix()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(node, module, f"{module}.{node.name}", "function", name)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _documented(node, module, f"{module}.{node.name}", "class", name)
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from _documented(inner, module, f"{module}.{node.name}.{inner.name}", "method", name)


def _documented(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, module: str, name: str, kind: str, file: str
) -> Iterator[Documented]:
    summary = first_sentence(ast.get_docstring(node) or "")
    if node.name.startswith("_") or not SHORTEST <= len(summary) <= LONGEST:
        return
    signature = "" if isinstance(node, ast.ClassDef) else f"{node.name}({ast.unparse(node.args)})"
    signature = signature if len(signature) <= LONGEST_SIGNATURE else ""
    yield Documented(name, kind, signature, summary, module, f"{file}:{node.lineno}")


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring on one line, ending with a full stop; empty where it is no sentence."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    sentence = _SENTENCE.split(paragraph)[0].rstrip(":;, ")
    if not sentence or not sentence[0].isalpha() or not sentence.isascii() or "->" in sentence:
        return ""
    return sentence if sentence[-1] in ".!?" else f"{sentence}."
