"""What the word after `sources` stands for: specs in, a list of inputs out."""

import difflib
import fnmatch
import glob
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import xxhash

from datamodules.corpus.reading import hub
from datamodules.corpus.reading.files import COMPRESSIONS, printable, state, unreadable
from datamodules.digests import FileDigests
from datamodules.errors import DataError

STDLIB = "stdlib"

TEXT_SUFFIXES = frozenset(
    {".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".java"}
    | {".js", ".ts", ".go", ".rs", ".rb", ".sh", ".sql", ".r", ".jl"}
)
OTHER_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"} | {
    ".arrow": "arrow",
    ".feather": "arrow",
    ".html": "html",
    ".htm": "html",
    ".warc": "warc",
    ".wet": "warc",
}
UNCOMPRESSED = frozenset({".parquet", ".arrow", ".feather"})  # these compress themselves, and are read out of order

# Tests repeat themselves and third-party packages differ from machine to machine: the corpus has neither.
STDLIB_SKIPPED = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
TOPICS = "pydoc_data/topics.py"


@dataclass(frozen=True)
class Input:
    """One thing to read: a file, the topics of `pydoc_data`, or a split of a data set of the `datasets` library.

    `source` and `shard` name it in document ids; neither holds the path above what the user named, so that moving
    a corpus does not change its documents. Both are valid UTF-8 on one line, whatever the file is called.
    `format` is text, jsonl, csv, tsv, parquet, arrow, html, warc (also WET), topics, saved or hub. `state` is that of
    the file when it was found: it must still be so when it has been read.
    """

    source: str
    shard: str
    format: str
    path: Path | None = None
    state: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return f"{self.source}/{self.shard}" if self.shard != self.source else self.source


def resolve(specs: str | Sequence[str]) -> list[Input]:
    """The inputs of all specs, each file once, sorted by (source, shard): the order of the specs plays no part.

    A spec is `stdlib`, a file, a folder (all supported files below it), a glob (`**` included), a folder that
    `datasets` saved, or `hf:owner/name[/config][:split]`. Neither a folder nor `**` leads through links to folders. A
    file that several specs name belongs to the one whose folder is highest.

    Raises:
        DataError: for a spec that matches nothing or something that cannot be read.
    """
    found: dict[Path | str, tuple[Path | None, Input]] = {}  # with the root that the label stands for
    for spec in [specs] if isinstance(specs, str) else specs:
        for root, item in _expanded(str(spec)):
            # Not Path.resolve, which fails for a link to itself: that is told of as all other files that are not there.
            key = item.source if item.format == "hub" or item.path is None else Path(os.path.realpath(item.path))
            if key not in found or _rank(root) < _rank(found[key][0]):
                found[key] = (root, item)
    if not found:
        raise DataError("sources is empty; name files, folders, globs, hf:owner/name, or stdlib")
    labels = _labels({root for root, _ in found.values() if root is not None})
    inputs = []
    for root, item in found.values():
        source = item.source if root is None else labels[root]
        shard = item.shard if item.shard != item.source else source
        inputs.append(replace(item, source=printable(source), shard=printable(shard)))
    return sorted(inputs, key=lambda item: (item.source, item.shard))


def _rank(root: Path | None) -> tuple[int, str]:
    return (len(root.parts), str(root)) if root is not None else (0, "")


def digest(item: Input, files: FileDigests) -> str:
    """What tells whether an input has changed: for files a digest of the contents, for a hub data set its commit."""
    try:
        if item.format == "hub" and item.path is None:
            return files.remember(item.source, hub.revision(item.source, files.recall(item.source)))
        assert item.path is not None
        if item.path.is_dir():
            names = (f"{path.relative_to(item.path)} {files.digest(path)}" for path in _walk(item.path))
            return xxhash.xxh3_128_hexdigest("\n".join(names).encode("utf-8", "surrogateescape"))
        return files.digest(item.path)
    except OSError as error:
        raise unreadable(item.path or Path(item.source), error) from error


def _expanded(spec: str) -> list[tuple[Path | None, Input]]:
    """`_expand`, where a folder may not be read."""
    try:
        return _expand(spec)
    except OSError as error:
        raise unreadable(error.filename or spec, error) from error


def _expand(spec: str) -> list[tuple[Path | None, Input]]:
    if spec == STDLIB:
        return [(None, item) for item in _stdlib()]
    if spec.startswith(hub.HUB):
        return [(None, Input(spec, spec, "hub", hub.local_folder(spec)))]
    if not spec.strip():
        raise DataError("sources holds an empty name, and an empty name names nothing; '.' is this folder")
    path = Path(os.path.expanduser(spec))
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return [(path.resolve(), _file(path, path.name, path.name))]
    if glob.has_magic(spec):
        return _glob(path)
    if path.is_symlink():
        raise DataError(f"{printable(path)} is a link to {str(path.readlink())!r}, which is not there; mend the link")
    raise DataError(f"there is no file or folder {spec!r}{_nearest(path)}")


def _stdlib() -> list[Input]:
    root = Path(sysconfig.get_path("stdlib"))
    files = stdlib_files()
    if not files:
        raise DataError(f"this Python has no readable standard library in {root}; name your own files in sources")
    inputs = [Input(STDLIB, path.relative_to(root).as_posix(), "text", path) for path in files]
    if (root / TOPICS).is_file():
        inputs.append(Input(STDLIB, TOPICS, "topics", root / TOPICS))
    return inputs


def stdlib_files() -> list[Path]:
    """The Python files of the running Python's own library, without its tests and the data of `pydoc`."""
    root = Path(sysconfig.get_path("stdlib"))
    return [
        path
        for path in _walk(root, skipped=STDLIB_SKIPPED)
        if path.suffix == ".py" and path.relative_to(root).as_posix() != TOPICS
    ]


def _walk(root: Path, skipped: frozenset[str] = frozenset()) -> list[Path]:
    """All files below a folder, hidden ones left out, in an order that does not depend on the file system."""
    files: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in skipped and not name.startswith(".")]
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def _folder(path: Path) -> list[tuple[Path | None, Input]]:
    root = path.resolve()
    if (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    ):
        return [(root, Input(path.name, path.name, "saved", path))]
    files = [file for file in _walk(path) if file_format(file) is not None]
    if not files:
        raise DataError(f"the folder {printable(path)} holds no file that can be read; it can be {supported()}")
    return [(root, _file(file, root.name, file.relative_to(path).as_posix())) for file in files]


def _glob(pattern: Path) -> list[tuple[Path | None, Input]]:
    fixed = Path(*_until_magic(pattern.parts))
    files = sorted(path for path in _matches(fixed, pattern.parts[len(fixed.parts) :]) if path.is_file())
    if not files:
        raise DataError(
            f"no file matches {str(pattern)!r} (looked in {fixed.resolve()}); check the spelling and the folder"
        )
    root = fixed.resolve()
    return [(root, _file(path, root.name, path.relative_to(fixed).as_posix())) for path in files]


def _matches(folder: Path, pattern: Sequence[str]) -> set[Path]:
    """What matches as a shell's glob does: `**` is any folders, but no links to folders, which may lead in circles.

    `*` and `**` match no hidden names; glob.glob agrees, but it goes through links, and pathlib the other way round.
    """
    parts = [part if part == "**" else part.replace("**", "*") for part in pattern]
    if parts[-1] == "**":
        parts.append("*")
    hidden = [part for part in parts if part.startswith(".")]

    def is_meant(path: Path) -> bool:
        names = (name for name in path.relative_to(folder).parts if name.startswith("."))
        return all(any(fnmatch.fnmatch(name, part) for part in hidden) for name in names)

    return {path for path in folder.glob("/".join(parts)) if is_meant(path)}


def _until_magic(parts: Sequence[str]) -> list[str]:
    fixed: list[str] = []
    for part in parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed


def _file(path: Path, source: str, shard: str) -> Input:
    kind = file_format(path)
    if kind is None:
        raise DataError(f"{printable(path)} has an unknown extension {path.suffix!r}; it can be {supported()}")
    found = state(path)
    if source == shard and found is not None and found[0] == 0:  # one among others is merely counted
        raise DataError(f"{printable(path)} is empty; name a file with text in sources")
    return Input(source, shard, kind, path, found)


def file_format(path: Path) -> str | None:
    """The format of an input by the file's name, a trailing .gz or .zst left aside; None for what cannot be read."""
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS:
        suffix = path.with_suffix("").suffix.lower()
        if suffix in UNCOMPRESSED:
            return None
    return "text" if suffix in TEXT_SUFFIXES else OTHER_FORMATS.get(suffix)


def supported() -> str:
    """The extensions that can be read, in words."""
    suffixes = " ".join(sorted(TEXT_SUFFIXES | set(OTHER_FORMATS)))
    return f"{suffixes}, all but {' '.join(sorted(UNCOMPRESSED))} also with {' or '.join(sorted(COMPRESSIONS))}"


def _labels(roots: set[Path]) -> dict[Path, str]:
    """The shortest trailing part of each root that names it alone, whatever the order of the sources."""
    labels = {}
    for root in roots:
        parts = PurePosixPath(root.as_posix()).parts
        length = 1
        while length < len(parts) and any(
            other != root and PurePosixPath(other.as_posix()).parts[-length:] == parts[-length:] for other in roots
        ):
            length += 1
        labels[root] = "/".join(parts[-length:])
    return labels


def _nearest(path: Path) -> str:
    names = [STDLIB]
    if path.parent.is_dir():
        names += [entry.name for entry in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=1)
    if not close:
        return f" (looked in {path.parent.resolve()})"
    return f"; did you mean {close[0] if close[0] == STDLIB else str(path.parent / close[0])!r}?"
