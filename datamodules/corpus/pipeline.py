"""Raw inputs to clean, unique documents in train and validation: read, clean, find duplicates, split, write."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.artefacts import Artefact, Recipe, find, make
from datamodules.corpus.cleaning import Cleaning
from datamodules.corpus.dedup import ClusterByContent, contained, hash_columns, id_columns, survivors
from datamodules.corpus.readers import DOCUMENTS, DocumentReader, EncodingErrors
from datamodules.corpus.sources import Input, digest, resolve
from datamodules.corpus.split import cut_tail, in_validation, is_near
from datamodules.digests import FileDigests
from datamodules.errors import DataError

log = logging.getLogger(__name__)

VERSION = 1  # raised when the same inputs and settings give other documents
STAGES = (Cleaning(), ClusterByContent())
SHARD_BYTES = 256 << 20  # of text in one parquet file
TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Corpus:
    """What documents are made from, and how; the same corpus always makes the same documents.

    `validation_fraction` of the bytes becomes validation, unless `validation_sources` are given: then these do,
    all of `sources` is train, and train documents that also stand in validation are left out of train.
    """

    sources: str | Sequence[str] = "stdlib"
    validation_sources: str | Sequence[str] | None = None
    text_field: str = "text"
    validation_fraction: float = 0.05
    encoding_errors: EncodingErrors = "replace"
    max_bad_fraction: float = 0.01

    def recipe(self, cache_dir: Path) -> tuple[Recipe, list[Input], list[Input]]:
        """The recipe of the documents folder, and the inputs of train and of validation.

        Raises:
            DataError: for sources that match nothing or cannot be read.
        """
        if not 0 <= self.validation_fraction < 1:
            raise DataError(f"validation_fraction is {self.validation_fraction}; it can be 0 up to (not including) 1")
        train = resolve(self.sources)
        validation = resolve(self.validation_sources) if self.validation_sources else []
        digests = FileDigests(cache_dir)
        inputs = {
            f"{side}: {item.name}": digest(item, digests)
            for side, items in ((TRAIN, train), (VALIDATION, validation))
            for item in items
        }
        digests.save()
        settings = {
            "text_field": self.text_field,
            "validation_fraction": None if validation else self.validation_fraction,
            "encoding_errors": self.encoding_errors,
            "max_bad_fraction": self.max_bad_fraction,
        }
        return Recipe("documents", VERSION, settings, inputs), train, validation

    def prepare(self, cache_dir: Path) -> Artefact:
        """Make the documents folder, or reuse it: `train-*.parquet`, `validation-*.parquet` and `manifest.json`."""
        recipe, train, validation = self.recipe(cache_dir)
        return make(recipe, cache_dir, lambda folder: self._build(folder, train, validation))

    def find(self, cache_dir: Path) -> Artefact | None:
        """The documents folder if it is there."""
        return find(self.recipe(cache_dir)[0], cache_dir)

    def _build(self, folder: Path, train: list[Input], validation: list[Input]) -> dict[str, Any]:
        sides = [_Side(folder / "read-train.parquet", self._reader(train))]
        if validation:
            sides.append(_Side(folder / "read-validation.parquet", self._reader(validation)))
        for side in sides:
            side.read()
        counts, split = self._decide(sides)
        with _Shards(folder, TRAIN) as to_train, _Shards(folder, VALIDATION) as to_validation:
            for side in sides:
                for batch, goes in side.batches():
                    _route(batch, goes, to_train, to_validation, self.validation_fraction)
                side.path.unlink()
        counts["kept"][TRAIN] = to_train.counts()
        counts["kept"][VALIDATION] = to_validation.counts()
        if not to_train.documents:
            raise DataError(
                f"the sources hold no text for training: {counts['read']['documents']} documents read, "
                + ", ".join(f"{number} {reason}" for reason, number in counts["dropped"].items())
            )
        total = to_train.bytes + to_validation.bytes
        split["share_of_bytes"] = round(to_validation.bytes / total, 4)
        log.info("documents: %s", describe(counts, split))
        return {"counts": counts, "split": split}

    def _reader(self, inputs: list[Input]) -> DocumentReader:
        return DocumentReader(
            inputs,
            text_field=self.text_field,
            encoding_errors=self.encoding_errors,
            max_bad_fraction=self.max_bad_fraction,
        )

    def _decide(self, sides: list["_Side"]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Say for each document where it goes, by setting `goes` of each side. Returns the counts and the split."""
        read = [side.reader.counts.to_dict() for side in sides]
        dropped = {"empty": 0, "duplicate": 0, "in_validation": 0}
        for side in sides:
            side.arrays()
            empty = side.sizes == 0
            unique = survivors(side.clusters, side.ids)
            side.goes = np.where(unique & ~empty, GO_TRAIN, DROP).astype(np.uint8)
            dropped["empty"] += int(empty.sum())
            dropped["duplicate"] += int((~unique & ~empty).sum())
        train = sides[0]
        split: dict[str, Any] = {"by": "none", "asked": self.validation_fraction}
        if len(sides) == 2:
            split = {"by": "sources"}
            validation = sides[1]
            validation.goes[validation.goes == GO_TRAIN] = GO_VALIDATION
            also = contained(train.clusters, validation.clusters[validation.goes == GO_VALIDATION])
            dropped["in_validation"] = int((also & (train.goes == GO_TRAIN)).sum())
            train.goes[also] = DROP
        elif self.validation_fraction > 0:
            kept = train.goes == GO_TRAIN
            chosen = in_validation(train.clusters, self.validation_fraction) & kept
            share = train.sizes[chosen].sum() / max(1, train.sizes[kept].sum())
            if is_near(share, self.validation_fraction):
                split["by"] = "documents"
                train.goes[chosen] = GO_VALIDATION
            else:
                split["by"] = "tails"
                train.goes[kept] = GO_BOTH
                log.info(
                    "documents: too few or too unequal to be split whole (validation would hold %.1f %% of the bytes, "
                    "%.1f %% were asked for), so the last part of each document is validation",
                    100 * share,
                    100 * self.validation_fraction,
                )
        kept_documents = sum(int((side.goes != DROP).sum()) for side in sides)
        total = {key: sum(counts[key] for counts in read) for key in read[0]}
        return {"read": total, "dropped": dropped, "kept": {"documents": kept_documents}}, split


DROP, GO_TRAIN, GO_VALIDATION, GO_BOTH = range(4)


class _Side:
    """One pass over the inputs of train or validation: cleaned batches on disk, 40 bytes a document in memory."""

    def __init__(self, path: Path, reader: DocumentReader) -> None:
        self.path = path
        self.reader = reader
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.clusters = self.ids = np.zeros((0, 2), dtype=np.uint64)
        self.sizes = np.zeros(0, dtype=np.int64)
        self.goes = np.zeros(0, dtype=np.uint8)

    def read(self) -> None:
        with pq.ParquetWriter(self.path, DOCUMENTS, compression="zstd", compression_level=1) as writer:
            for batch in self.reader:
                for stage in STAGES:
                    batch = stage.apply(batch)
                sizes = pc.binary_length(batch.column("text")).to_numpy().astype(np.int64)
                blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(batch.column("text"))), 0)
                sizes[blank.to_numpy(zero_copy_only=False)] = 0
                self.parts.append((hash_columns(batch.column("cluster")), id_columns(batch.column("id")), sizes))
                writer.write_batch(batch.select(DOCUMENTS.names))

    def arrays(self) -> None:
        if self.parts:
            self.clusters, self.ids, self.sizes = (np.concatenate(part) for part in zip(*self.parts, strict=True))
            self.parts = []

    def batches(self) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        start = 0
        for batch in read_batches([self.path]):
            yield batch, self.goes[start : start + len(batch)]
            start += len(batch)


class _Shards:
    """Writes documents into `split-00000.parquet`, `split-00001.parquet`, ..."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder = folder
        self.split = split
        self.documents = self.bytes = self.shards = self.in_shard = 0
        self.writer: pq.ParquetWriter | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        if len(batch) == 0:
            return
        if self.writer is None:
            path = self.folder / f"{self.split}-{self.shards:05}.parquet"
            self.writer = pq.ParquetWriter(path, DOCUMENTS, compression="zstd", compression_level=3)
            self.shards += 1
            self.in_shard = 0
        self.writer.write_batch(batch)
        size = pc.sum(pc.binary_length(batch.column("text"))).as_py()
        self.documents += len(batch)
        self.bytes += size
        self.in_shard += size
        if self.in_shard >= SHARD_BYTES:
            self._close()

    def counts(self) -> dict[str, int]:
        return {"documents": self.documents, "bytes": self.bytes}

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()


def _route(batch: pa.RecordBatch, goes: np.ndarray, to_train: _Shards, to_validation: _Shards, fraction: float) -> None:
    if (goes == GO_BOTH).any():
        batch = batch.filter(pa.array(goes == GO_BOTH))
        texts = batch.column("text").to_pylist()
        cuts = [cut_tail(text, fraction) for text in texts]
        heads = pa.array([text[:cut] for text, cut in zip(texts, cuts, strict=True)], pa.string())
        tails = pa.array([text[cut:] for text, cut in zip(texts, cuts, strict=True)], pa.string())
        for shards, part in ((to_train, heads), (to_validation, tails)):
            shards.write(batch.set_column(1, DOCUMENTS.field(1), part).filter(pc.greater(pc.binary_length(part), 0)))
        return
    to_train.write(batch.filter(pa.array(goes == GO_TRAIN)))
    to_validation.write(batch.filter(pa.array(goes == GO_VALIDATION)))


def shards_of(folder: Path, split: str) -> list[Path]:
    """The parquet files of a split in a documents folder, in order."""
    return sorted(folder.glob(f"{split}-*.parquet"))


def read_batches(paths: list[Path]) -> Iterator[pa.RecordBatch]:
    """The record batches of parquet files, one row group (about 8 MiB of text) in memory at a time."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_batches()


def describe(counts: dict[str, Any], split: dict[str, Any]) -> str:
    """The counts of a documents folder in one line."""
    read, kept = counts["read"], counts["kept"]
    dropped = ", ".join(
        f"{number:,} {reason.replace('_', ' ')}" for reason, number in counts["dropped"].items() if number
    )
    notes = [f"{read[key]:,} {key.replace('_', ' ')}" for key in ("bad_rows", "replaced") if read[key]]
    return (
        f"{read['documents']:,} read ({read['bytes']:,} bytes{', ' if notes else ''}{', '.join(notes)}), dropped {dropped or 'none'}; "
        f"train {kept[TRAIN]['documents']:,} ({kept[TRAIN]['bytes']:,} bytes), "
        f"validation {kept[VALIDATION]['documents']:,} ({kept[VALIDATION]['bytes']:,} bytes), split by {split['by']}"
    )
