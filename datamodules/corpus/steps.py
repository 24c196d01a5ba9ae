"""The work on one shard at a time: read and clean it, measure it, and write what is kept of it.

Each step of each shard is an artefact of its own, named by what it was made from. So whatever ends the work, no more
than the shards in hand is lost; and a changed input or setting makes only what depends on it anew.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from datamodules.artefacts import Artefact, Recipe, find, make, remove_stale, why
from datamodules.corpus.decisions import DROP, TO_BOTH, TO_TRAIN, TO_VALIDATION, TRAIN, VALIDATION
from datamodules.corpus.duplicates.exact import ClusterByContent
from datamodules.corpus.duplicates.lines import (
    DropLines,
    LineCounts,
    Unit,
    count_lines,
    id_hashes,
    line_hashes,
    merge_counts,
)
from datamodules.corpus.duplicates.minhash import MinHash
from datamodules.corpus.engine import Engine
from datamodules.corpus.shards import DOCUMENTS, ShardWriter, read_batches
from datamodules.corpus.spans import text_bytes
from datamodules.corpus.split import cut_tail

log = logging.getLogger(__name__)

DOCUMENTS_FILE = "documents.parquet"
FEATURES_FILE = "features.parquet"
DECISIONS_FILE = "decisions.parquet"
LINES_FILE = "lines.npz"
KEYS_FILE = "keys.npy"
SIGNATURES_FILE = "signatures.npy"
# What lies between the steps is read soon and often: LZ4 would save a third of the room and cost a tenth of the time.
BETWEEN: dict[str, Any] = {"compression": "none", "use_dictionary": ["source"], "write_statistics": False}
SIZE = pa.field("size", pa.int64())  # bytes of text; 0 where there is only blank


class Stage(Protocol):
    """Something that is done to a batch of documents: it changes their text, or adds columns; rows stay as they are."""

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch, worked on."""
        ...


@dataclass(frozen=True)
class ShardTask:
    """One step of one shard: `build(folder)` makes its files and returns its record."""

    recipe: Recipe
    folder: Path
    build: Callable[[Path], dict[str, Any]]
    reason: str = ""

    @property
    def made(self) -> Path:
        """The folder that it makes."""
        return self.folder / self.recipe.name

    def __call__(self) -> dict[str, Any]:
        artefact = make(self.recipe, self.folder, self._timed, reason=self.reason)
        return {"manifest": artefact.manifest}

    def _timed(self, folder: Path) -> dict[str, Any]:
        start = time.process_time()
        record = self.build(folder)
        return {"record": record, "cpu_seconds": round(time.process_time() - start, 3)}


@dataclass(frozen=True)
class Chain:
    """What is to be done with one shard, step after step; returns what each step did, by its name."""

    tasks: Mapping[str, ShardTask]

    def __call__(self) -> dict[str, Any]:
        return {name: task() for name, task in self.tasks.items()}


def run_steps(
    steps: Mapping[str, Sequence[ShardTask]], engine: Engine, tell: Callable[[dict[str, Any]], None]
) -> dict[str, list[Artefact]]:
    """Do what is missing of steps that each shard goes through by itself, and return all their shards, in order.

    A worker takes a shard through all of them, so that workers are started once. `tell` gets a record of each shard as
    it is done.
    """
    found = {name: [find(task.recipe, task.folder) for task in tasks] for name, tasks in steps.items()}
    chains: dict[int, dict[str, ShardTask]] = {}
    for name, tasks in steps.items():
        missing = [number for number, artefact in enumerate(found[name]) if artefact is None]
        if not missing:
            log.info("%s: reused all %d shards (inputs and settings are unchanged)", name, len(tasks))
            continue
        folder = tasks[missing[0]].folder
        folder.mkdir(parents=True, exist_ok=True)
        reason = why(tasks[missing[0]].recipe, folder)
        reused = len(tasks) - len(missing)
        log.info("%s: %d shards to do%s (%s)", name, len(missing), f", {reused} reused" if reused else "", reason)
        for number in missing:
            chains.setdefault(number, {})[name] = replace(tasks[number], reason=reason)
    folders = {task.folder for tasks in steps.values() for task in tasks}
    for folder in folders:
        remove_stale(folder)
    numbers = sorted(chains)
    try:
        for place, made in engine.run([Chain(chains[number]) for number in numbers]):
            number = numbers[place]
            for name, result in made.items():
                task = chains[number][name]
                found[name][number] = Artefact(task.made, result["manifest"], task.reason)
            tell(result["manifest"]["record"])
    except BaseException:
        for folder in folders:  # what workers were at when they were ended
            remove_stale(folder)
        raise
    return {name: [artefact for artefact in artefacts if artefact is not None] for name, artefacts in found.items()}


@dataclass(frozen=True)
class Read:
    """Read a shard, apply stages to each batch, and keep the documents with their size and the hash of their text."""

    batches: Callable[[], Iterator[pa.RecordBatch]]  # has `counts` after the last one
    stages: tuple[Stage, ...]

    def __call__(self, folder: Path) -> dict[str, Any]:
        reader: Any = self.batches()
        first = self._cleaned(pa.RecordBatch.from_pylist([], DOCUMENTS))
        with pq.ParquetWriter(folder / DOCUMENTS_FILE, first.schema, **BETWEEN) as writer:
            for batch in reader:
                writer.write_batch(self._cleaned(batch))
        return reader.counts.to_dict()

    def _cleaned(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for stage in (*self.stages, ClusterByContent()):
            batch = stage.apply(batch)
        text = batch.column("text")
        blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(text)), 0)
        size = np.where(np.asarray(blank), 0, np.asarray(pc.binary_length(text))).astype(np.int64)
        return batch.append_column(SIZE, pa.array(size))


@dataclass(frozen=True)
class Measure:
    """Apply a stage that adds columns to the documents of a shard, and keep only what it added."""

    documents: Path
    stage: Stage

    def __call__(self, folder: Path) -> dict[str, Any]:
        total = {"documents": 0, "bytes": 0}
        with pq.ParquetFile(self.documents) as file:
            empty = pa.RecordBatch.from_pylist([], file.schema_arrow)
        with pq.ParquetWriter(folder / FEATURES_FILE, self._added(empty).schema, **BETWEEN) as writer:
            for batch in read_batches([self.documents]):
                writer.write_batch(self._added(batch))
                total["documents"] += len(batch)
                total["bytes"] += pc.sum(batch.column("size")).as_py()
        return total

    def _added(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        measured = self.stage.apply(batch)
        return measured.select([name for name in measured.schema.names if name not in batch.schema.names])


@dataclass(frozen=True)
class Sign:
    """Write the MinHash keys (uint64 [documents, keys]) and signatures (uint8 [documents, bins]) of a shard.

    As `.npy` files, which are mapped and not read when documents are compared.
    """

    documents: Path
    minhash: MinHash

    def __call__(self, folder: Path) -> dict[str, Any]:
        count = pq.read_metadata(self.documents).num_rows
        widths = (self.minhash.groupings * self.minhash.bands, np.uint64), (self.minhash.bins, np.uint8)
        start = size = 0
        # Written and not mapped: on a full disk, a write fails and can be told of, while a mapping ends the process.
        with (folder / KEYS_FILE).open("wb") as keys, (folder / SIGNATURES_FILE).open("wb") as signatures:
            for file, (width, dtype) in zip((keys, signatures), widths, strict=True):
                about = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (count, width)}
                np.lib.format.write_array_header_1_0(file, about)
            for batch in read_batches([self.documents]):
                sketches = self.minhash.sketch(batch.column("text"))
                keys.write(sketches.keys.tobytes())
                signatures.write(sketches.signatures.tobytes())
                start += len(batch)
                size += pc.sum(batch.column("size")).as_py()
        return {"documents": start, "bytes": size}


@dataclass(frozen=True)
class Write:
    """Write the documents of a shard that were kept, each to its side, after the stages that change what is kept.

    The record has what was written to each side, what the stages counted (the sums of the integer columns that each
    adds), how many documents had no text left, and a digest of everything written, in its order.
    """

    documents: Path
    decisions: Path
    stages: tuple[Stage, ...]
    validation_fraction: float

    def __call__(self, folder: Path) -> dict[str, Any]:
        decisions = pq.read_table(self.decisions, columns=["goes", "copies"])
        goes, copies = (decisions.column(name).to_numpy() for name in ("goes", "copies"))
        counted: dict[str, dict[str, int]] = {}
        emptied = {"documents": 0, "bytes": 0}
        digest = xxhash.xxh3_128()
        start = 0
        with ShardWriter(folder, TRAIN) as train, ShardWriter(folder, VALIDATION) as validation:
            for batch in read_batches([self.documents]):
                rows = slice(start, start + len(batch))
                start += len(batch)
                chosen = goes[rows] != DROP
                if not chosen.all():
                    batch = batch.filter(pa.array(chosen))
                for stage in self.stages:
                    batch = _counting(stage, batch, counted)
                batch = batch.append_column("goes", pa.array(goes[rows][chosen]))
                batch = batch.append_column("copies", pa.array(copies[rows][chosen]))
                blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(batch.column("text"))), 0)
                if len(batch) and pc.any(blank).as_py():
                    emptied["documents"] += pc.sum(blank).as_py()
                    emptied["bytes"] += pc.sum(batch.filter(blank).column("size")).as_py()
                    batch = batch.filter(pc.invert(blank))
                for writer, part in ((train, self._train(batch)), (validation, self._validation(batch))):
                    writer.write(part)
                    digest.update(writer.split.encode())
                    for name in ("id", "text"):
                        data, offsets = text_bytes(part.column(name))
                        digest.update(np.diff(offsets).tobytes())
                        digest.update(data.tobytes())
        return {
            "documents": start,
            "bytes": train.bytes + validation.bytes,
            TRAIN: train.counts(),
            VALIDATION: validation.counts(),
            "counted": counted,
            "emptied": emptied,
            "digest": digest.hexdigest(),
        }

    def _train(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The documents that train reads, those of several epochs as often."""
        copies = np.asarray(batch.column("copies"))
        if (copies != 1).any():
            batch = batch.take(pa.array(np.repeat(np.arange(len(batch)), copies)))
        return self._part(batch, TO_TRAIN, lambda text, cut: text[:cut])

    def _validation(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._part(batch, TO_VALIDATION, lambda text, cut: text[cut:])

    def _part(self, batch: pa.RecordBatch, side: int, cut: Callable[[str, int], str]) -> pa.RecordBatch:
        """Documents that go whole to a side, and what `cut` leaves it of those that both sides share, in order."""
        goes = np.asarray(batch.column("goes"))
        batch = batch.filter(pa.array((goes == side) | (goes == TO_BOTH))).select(DOCUMENTS.names)
        if not (goes == TO_BOTH).any():
            return batch
        texts = [cut(text, cut_tail(text, self.validation_fraction)) for text in batch.column("text").to_pylist()]
        index = DOCUMENTS.get_field_index("text")
        batch = batch.set_column(index, DOCUMENTS.field("text"), pa.array(texts, pa.string()))
        return batch.filter(pc.greater(pc.binary_length(batch.column("text")), 0))


def _counting(stage: Stage, batch: pa.RecordBatch, counted: dict[str, dict[str, int]]) -> pa.RecordBatch:
    """Apply a stage and add up the integer columns that it adds, those inside structs too."""
    before = set(batch.schema.names)
    batch = stage.apply(batch)
    sums = counted.setdefault(type(stage).__name__, {})
    added = batch.select([name for name in batch.schema.names if name not in before])
    for name, column in zip(added.schema.names, added.columns, strict=True):
        parts = {name: column}
        if pa.types.is_struct(column.type):
            parts = {part.name: column.field(number) for number, part in enumerate(column.type)}
        for part, values in parts.items():
            if pa.types.is_integer(values.type):
                sums[part] = sums.get(part, 0) + (pc.sum(values).as_py() or 0)
    return batch


@dataclass(frozen=True)
class CountLines:
    """Count in how many of the documents of a shard that are kept each line stands, and write that."""

    documents: Path
    decisions: Path
    unit: Unit

    def __call__(self, folder: Path) -> dict[str, Any]:
        goes = pq.read_table(self.decisions, columns=["goes"]).column("goes").to_numpy()
        counts = merge_counts([])
        total = {"documents": 0, "bytes": 0}
        start = 0
        for batch in read_batches([self.documents]):
            kept = batch.filter(pa.array(goes[start : start + len(batch)] != DROP))
            start += len(batch)
            lines = line_hashes(kept.column("text"), self.unit)
            counts = merge_counts([counts, count_lines(lines, id_hashes(kept.column("id")))])
            total["documents"] += len(kept)
            total["bytes"] += pc.sum(kept.column("size")).as_py() or 0
        save_counts(folder / LINES_FILE, counts)
        return total


@dataclass(frozen=True)
class DropListedLines:
    """`DropLines` of the lines that a file lists; a worker reads it once."""

    listed: Path
    unit: Unit

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return DropLines(load_counts(self.listed), self.unit).apply(batch)


def save_counts(path: Path, counts: LineCounts) -> None:
    """Write counts of lines as an `.npz` file."""
    np.savez(path, hashes=counts.hashes, documents=counts.documents, keepers=counts.keepers)


@cache
def load_counts(path: Path) -> LineCounts:
    """Read what `save_counts` wrote."""
    with np.load(path) as stored:
        return LineCounts(stored["hashes"], stored["documents"], stored["keepers"])
