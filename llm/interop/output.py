"""Files and folders that are there whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from llm.errors import UserError

PARTIAL = ".partial"


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder under a temporary name beside `folder`, which it becomes once the block has ended without an exception.

    Raises:
        UserError: where `folder` holds anything already, or cannot be made.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"--output {folder} exists already and is not empty: choose another name")
    with _temporary(folder) as partial:
        partial.mkdir()
        yield partial
        for path in partial.iterdir():
            path.chmod(0o666 & ~_umask())  # safetensors lets nobody but the owner read
            _sync(path)
        _sync(partial)
        if folder.is_dir():
            folder.rmdir()  # an empty one
        partial.rename(folder)
        _sync(folder.parent)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """The same for one file."""
    if path.exists():
        raise UserError(f"--output {path} exists already: choose another name")
    with _temporary(path) as partial:
        yield partial
        _sync(partial)
        partial.rename(path)
        _sync(path.parent)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    partial = path.parent / f".{path.name}.{os.getpid()}{PARTIAL}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; make room or grant access there, or choose another "
            "place with --output"
        ) from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """Force a file or a folder to the disk, so that a power cut after the rename finds all of it."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
