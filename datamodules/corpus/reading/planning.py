"""What is read at once: small inputs together, large ones in parts, so that one huge file is parallel and resumable."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from datamodules.corpus.reading import columns, hub
from datamodules.corpus.reading.files import is_compressed, unreadable
from datamodules.corpus.reading.sources import Input

# Bytes of files, as they lie on disk, in a shard: 1/256 of all, so that workers can share a small corpus and a
# large one does not fall into dust. There are few sizes, as another size makes every shard another one.
SHARD_SIZES = (16 << 20, 64 << 20, 256 << 20)
MOST_SHARDS = 256  # of one size, before the next larger one
MOST_FILES = 4096  # in a shard, empty ones too: opening a file costs about as much as reading 64 KiB of it


@dataclass(frozen=True)
class Part:
    """One input, or a range of it: bytes of text and JSON lines, row groups of Parquet, record batches of Arrow files,
    files of a hub data set. `end` is None for the whole; `size` is about how many bytes that is on disk, 0 for unknown.
    """

    input: Input
    start: int = 0
    end: int | None = None
    size: int = 0

    @property
    def name(self) -> str:
        return self.input.name if self.end is None else f"{self.input.name}[{self.start}:{self.end}]"


@dataclass(frozen=True)
class Shard:
    """What one worker reads in one go: several whole inputs, or one part of a large one.

    Documents and their ids do not depend on how inputs are made into shards.
    """

    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """For people; shards of one plan have different names."""
        first, *rest = self.parts
        return f"{first.name} and {len(rest)} more" if rest else first.name

    @property
    def size(self) -> int:
        """Bytes on disk, about."""
        return sum(part.size for part in self.parts)

    @property
    def identity(self) -> str:
        """32 hexadecimal digits: what is read, the contents of the files (their digests) left aside."""
        parts = [[part.input.source, part.input.shard, part.input.format, part.start, part.end] for part in self.parts]
        return xxhash.xxh3_128_hexdigest(json.dumps(parts).encode())


def size_of(inputs: Iterable[Input]) -> int:
    """Bytes of the files among the inputs, as they lie on disk."""
    return sum(_size(item.path) for item in inputs if item.path is not None and item.path.is_file())


def shard_bytes_for(size: int) -> int:
    """Bytes of a shard where all inputs together have `size` bytes."""
    return next((shard for shard in SHARD_SIZES if size <= MOST_SHARDS * shard), SHARD_SIZES[-1])


def plan_shards(inputs: Sequence[Input], shard_bytes: int) -> list[Shard]:
    """Shards of at most `shard_bytes`, in the order of the inputs, each record in one of them.

    Text and JSON lines are cut by bytes, Parquet by row groups and Arrow files by record batches (one of these may be
    larger by itself), data sets of the hub by their files. Compressed files, csv, web pages, archives and Arrow
    streams can be read only from their start: each is in one shard, alone where it is large.

    A group of small inputs also ends behind some of them by the hash of their names: so one file more or less changes
    the group it is in, and the shards behind it stay what they are.

    Raises:
        DataError: for a file that is gone, a table whose directory cannot be read, a data set that cannot be opened.
    """
    shards: list[Shard] = []
    group: list[Part] = []
    weight = 0
    for item in inputs:
        for part in _parts(item, shard_bytes):
            cost = part.size + shard_bytes // MOST_FILES
            alone = part.end is not None or part.size > shard_bytes
            if group and (alone or weight + cost > shard_bytes):
                shards.append(Shard(tuple(group)))
                group, weight = [], 0
            if alone:
                shards.append(Shard((part,)))
                continue
            group.append(part)
            weight += cost
            if _ends_group(item, cost / shard_bytes):
                shards.append(Shard(tuple(group)))
                group, weight = [], 0
    if group:
        shards.append(Shard(tuple(group)))
    return shards


def _ends_group(item: Input, share: float) -> bool:
    """True for an input by chance of its name, such that groups become half a shard in the mean."""
    return xxhash.xxh3_64_intdigest(item.name.encode()) < 2 * share * 2**64


def _parts(item: Input, shard_bytes: int) -> Iterator[Part]:
    if item.format in ("hub", "saved"):
        files = hub.n_files(item.format, item.source, item.path)
        yield from (Part(item, number, number + 1) for number in range(files)) if files > 1 else [Part(item)]
        return
    assert item.path is not None
    size = _size(item.path)
    if size <= shard_bytes:
        yield Part(item, size=size)
        return
    match item.format:
        case "text" | "jsonl" if not is_compressed(item.path):
            for start in range(0, size, shard_bytes):
                end = min(start + shard_bytes, size)
                yield Part(item, start, end, end - start)
        case "parquet":
            yield from _ranges(item, columns.parquet_sizes(item.path), shard_bytes)
        case "arrow":
            batches = columns.arrow_batches(item.path)
            yield from _ranges(item, [size // max(1, batches)] * batches, shard_bytes)
        case _:
            yield Part(item, size=size)


def _ranges(item: Input, sizes: list[int], largest: int) -> Iterator[Part]:
    """Neighbours put together as long as they have `largest` bytes at most; the whole input where that is one range."""
    start = total = 0
    for number, size in enumerate(sizes):
        if number > start and total + size > largest:
            yield Part(item, start, number, total)
            start, total = number, 0
        total += size
    yield Part(item, start, len(sizes), total) if start else Part(item, size=total)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
