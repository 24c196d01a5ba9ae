"""Bytes of files, plain or compressed, in bounded memory; what cannot be read becomes one clear sentence."""

import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from datamodules.errors import DataError

DAMAGED = (OSError, EOFError, zlib.error, pa.ArrowException)  # what the streams of damaged files raise
COMPRESSIONS = frozenset({".gz", ".zst"})
BUFFER_BYTES = 1 << 20
SNIFFED_BYTES = 8000  # git calls a file binary if a NUL stands in its first 8,000 bytes; so do we


def printable(path: Path | str) -> str:
    """A path for messages and ids: valid UTF-8 on one line, undecodable bytes and control characters as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def is_compressed(path: Path) -> bool:
    return path.suffix.lower() in COMPRESSIONS


def open_plain(path: Path) -> IO[bytes]:
    """The file's own bytes. Raises DataError where it is gone or may not be read."""
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error


def open_range(path: Path, end: int | None) -> IO[bytes]:
    """The bytes, decompressed by the file's extension; `end` is the last byte that planning has promised.

    Raises:
        DataError: where the file is gone, may not be read, or has become shorter since planning.
    """
    file = open_plain(path)
    if end is not None and (size := os.fstat(file.fileno()).st_size) < end:
        file.close()
        raise DataError(
            f"{printable(path)} has become shorter while the corpus was read ({size:,} bytes instead of {end:,}); "
            "run again when it no longer changes"
        )
    match path.suffix.lower():
        case ".gz":
            return io.BufferedReader(gzip.GzipFile(fileobj=file), BUFFER_BYTES)
        case ".zst":
            return io.BufferedReader(pa.CompressedInputStream(file, "zstd"), BUFFER_BYTES)
        case _:
            return file


def fill(file: IO[bytes], size: int, path: Path) -> bytes:
    """Read `size` bytes, fewer only at the end of the file: compressed streams give less when asked once."""
    blocks = []
    try:
        while size > 0 and (block := file.read(size)):
            blocks.append(block)
            size -= len(block)
    except DAMAGED as error:
        raise unreadable(path, error) from error
    return b"".join(blocks)


def lines(
    file: IO[bytes], path: Path, longest: int, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, bytes | None]]:
    """(byte offset, line with its end) of each line that starts in [start, end); None for one of over `longest` bytes.

    A line that is too long is passed over in blocks, so memory is bounded by `longest`; and no further than `end`, or
    each of the many ranges over an endless line would read all of it.
    """
    try:
        offset = start
        if start > 0:  # the line over `start` belongs to the range before, unless it starts right here
            file.seek(start - 1)
            offset += _skip_line(file, end and end - start + 1) - 1
        while end is None or offset < end:
            line: bytes | None = file.readline(longest + 1)
            if not line:
                return
            length = len(line)
            if length > longest and not line.endswith(b"\n"):
                length += _skip_line(file, end and end - offset - length)
                line = None
            yield offset, line
            offset += length
    except DAMAGED as error:
        raise unreadable(path, error) from error


def line_number(path: Path, offset: int) -> int:
    """The number, from 1, of the line that starts at a byte offset; it reads all before it, so only for messages."""
    number = 1
    with open_range(path, None) as file:
        while offset > 0 and (block := fill(file, min(offset, BUFFER_BYTES), path)):
            number += block.count(b"\n")
            offset -= len(block)
    return number


def state(path: Path) -> tuple[int, int] | None:
    """What changes with a file: its size and its time of change. None for what is gone or no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def demand_unchanged(path: Path, before: tuple[int, int]) -> None:
    """Raise DataError where a file is no longer in the state that it was in; its digest stands for that one alone."""
    if (now := state(path)) != before:
        what = "was removed" if now is None else "has changed"
        raise DataError(
            f"{printable(path)} {what} while the corpus was read; run again when it no longer changes, or leave it out"
        )


def unreadable(path: Path | str, error: Exception) -> DataError:
    """The one sentence for a file that is gone, damaged or not ours to read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    reason = (reason or type(error).__name__).splitlines()[0]
    return DataError(f"cannot read {printable(path)} ({reason}); check the file and its access rights, or leave it out")


def _skip_line(file: IO[bytes], enough: int | None) -> int:
    """Read to the end of the line, or until `enough` bytes are passed; the number of bytes."""
    skipped = 0
    while (enough is None or skipped < enough) and (block := file.readline(BUFFER_BYTES)):
        skipped += len(block)
        if block.endswith(b"\n"):
            break
    return skipped
