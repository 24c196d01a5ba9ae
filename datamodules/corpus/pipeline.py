"""Raw inputs to clean, unique documents in train and validation: read, clean, find duplicates, split, write.

The first pass reads, cleans and hashes, batch by batch, and keeps 40 bytes a document in memory. Then it is decided
where each document goes, from hashes and sizes alone. The second pass writes the splits.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.artefacts import Artefact, Recipe, make
from datamodules.corpus.cleaning import Cleaning
from datamodules.corpus.dedup import ClusterByContent, contained, hash_columns, id_columns, survivors
from datamodules.corpus.readers import DocumentReader, EncodingErrors, ReadCounts
from datamodules.corpus.shards import DOCUMENTS, ShardWriter, read_batches
from datamodules.corpus.sources import Input, digest, resolve
from datamodules.corpus.split import cut_tail, in_validation, is_near
from datamodules.digests import FileDigests
from datamodules.errors import DataError

log = logging.getLogger(__name__)

VERSION = 2  # raised when the same inputs and settings give other documents
STAGES = (Cleaning(), ClusterByContent())
TRAIN, VALIDATION = "train", "validation"
DROP, TO_TRAIN, TO_VALIDATION, TO_BOTH = range(4)  # where a document goes; to both: its tail to validation


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

    def plan(self, cache_dir: Path) -> "Plan":
        """Look at the inputs, without reading them again where they are known to be unchanged.

        Raises:
            DataError: for sources that match nothing or cannot be read, and settings out of range.
        """
        for name, value in (
            ("validation_fraction", self.validation_fraction),
            ("max_bad_fraction", self.max_bad_fraction),
        ):
            if not 0 <= value < 1:
                raise DataError(f"{name} is {value}; it can be 0 up to (not including) 1")
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
        return Plan(self, train, validation, Recipe("documents", VERSION, settings, inputs))


@dataclass(frozen=True)
class Plan:
    """A corpus with the inputs that its sources stand for now, and the recipe that they make."""

    corpus: Corpus
    train: list[Input]
    validation: list[Input]
    recipe: Recipe

    def prepare(self, cache_dir: Path) -> Artefact:
        """Make the documents folder, or reuse it: `train-*.parquet`, `validation-*.parquet` and `manifest.json`."""
        return make(self.recipe, cache_dir, self._build)

    def _build(self, folder: Path) -> dict[str, Any]:
        passes = [Pass(folder / ".train.parquet", self._reader(self.train))]
        if self.validation:
            passes.append(Pass(folder / ".validation.parquet", self._reader(self.validation)))
        for one in passes:
            one.read()
        counts, split = decide(passes, self.corpus.validation_fraction)
        with ShardWriter(folder, TRAIN) as train, ShardWriter(folder, VALIDATION) as validation:
            for one in passes:
                for batch, goes in one.batches():
                    _route(batch, goes, train, validation, self.corpus.validation_fraction)
                one.path.unlink()
        if not train.documents:
            read, dropped = counts["read"], counts["dropped"]
            raise DataError(
                f"the sources hold no text for training: of {read['documents']} documents "
                + ", ".join(f"{number} were dropped as {reason}" for reason, number in dropped.items())
                + "; give more text"
            )
        counts["kept"] |= {TRAIN: train.counts(), VALIDATION: validation.counts()}
        split["share_of_bytes"] = round(validation.bytes / (train.bytes + validation.bytes), 4)
        log.info("documents: %s", describe(counts, split))
        return {"counts": counts, "split": split}

    def _reader(self, inputs: list[Input]) -> DocumentReader:
        return DocumentReader(
            inputs,
            text_field=self.corpus.text_field,
            encoding_errors=self.corpus.encoding_errors,
            max_bad_fraction=self.corpus.max_bad_fraction,
        )


@dataclass
class Pass:
    """The cleaned documents of train or of validation, on disk, and what is known of each in memory.

    `clusters` and `ids` are uint64 [n, 2], `sizes` int64 [n] bytes of text (0 where there is only blank),
    `goes` uint8 [n], where each goes; it is decided after reading.
    """

    path: Path
    reader: DocumentReader
    clusters: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.uint64))
    ids: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.uint64))
    sizes: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    goes: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))

    def read(self) -> None:
        clusters, ids, sizes = [self.clusters], [self.ids], [self.sizes]
        with pq.ParquetWriter(self.path, DOCUMENTS, compression="zstd") as writer:
            for batch in self.reader:
                for stage in STAGES:
                    batch = stage.apply(batch)
                text = batch.column("text")
                blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(text)), 0)
                sizes.append(np.where(np.asarray(blank), 0, np.asarray(pc.binary_length(text))).astype(np.int64))
                clusters.append(hash_columns(batch.column("cluster")))
                ids.append(id_columns(batch.column("id")))
                writer.write_batch(batch.select(DOCUMENTS.names))
        self.clusters, self.ids, self.sizes = map(np.concatenate, (clusters, ids, sizes))

    def batches(self) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """The batches of documents again, with where each document goes."""
        start = 0
        for batch in read_batches([self.path]):
            yield batch, self.goes[start : start + len(batch)]
            start += len(batch)


def decide(passes: Sequence[Pass], validation_fraction: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Set where each document goes. Takes the pass over train, and the one over validation if it has its own sources.

    Returns the counts (read = kept + dropped) and how it was split.
    """
    dropped = {"empty": 0, "duplicate": 0, "in_validation": 0}
    for one in passes:
        empty, unique = one.sizes == 0, survivors(one.clusters, one.ids)
        one.goes = np.where(unique & ~empty, TO_TRAIN, DROP).astype(np.uint8)
        dropped["empty"] += int(empty.sum())
        dropped["duplicate"] += int((~unique & ~empty).sum())
    train = passes[0]
    kept = train.goes == TO_TRAIN
    split: dict[str, Any] = {"by": "none", "asked": validation_fraction}
    if len(passes) == 2:
        split = {"by": "sources"}
        validation = passes[1]
        validation.goes[validation.goes == TO_TRAIN] = TO_VALIDATION
        also = kept & contained(train.clusters, validation.clusters[validation.goes == TO_VALIDATION])
        train.goes[also] = DROP
        dropped["in_validation"] = int(also.sum())
    elif validation_fraction > 0:
        chosen = in_validation(train.clusters, validation_fraction) & kept
        share = train.sizes[chosen].sum() / max(1, train.sizes[kept].sum())
        if is_near(share, validation_fraction):
            split["by"] = "documents"
            train.goes[chosen] = TO_VALIDATION
        else:
            split["by"] = "tails"
            train.goes[kept] = TO_BOTH
            log.info(
                "documents: too few or too unequal to be split whole (validation would hold %.1f %% of the bytes, "
                "%.1f %% were asked for), so the last part of each is validation",
                100 * share,
                100 * validation_fraction,
            )
    return {
        "read": sum((one.reader.counts for one in passes), ReadCounts()).to_dict(),
        "dropped": dropped,
        "kept": {"documents": sum(int((one.goes != DROP).sum()) for one in passes)},
    }, split


def _route(
    batch: pa.RecordBatch, goes: np.ndarray, train: ShardWriter, validation: ShardWriter, fraction: float
) -> None:
    train.write(batch.filter(pa.array(goes == TO_TRAIN)))
    validation.write(batch.filter(pa.array(goes == TO_VALIDATION)))
    both = batch.filter(pa.array(goes == TO_BOTH))
    texts = both.column("text").to_pylist()
    cuts = [cut_tail(text, fraction) for text in texts]
    heads = pa.array([text[:cut] for text, cut in zip(texts, cuts, strict=True)], pa.string())
    tails = pa.array([text[cut:] for text, cut in zip(texts, cuts, strict=True)], pa.string())
    for writer, part in ((train, heads), (validation, tails)):
        some = both.set_column(DOCUMENTS.get_field_index("text"), DOCUMENTS.field("text"), part)
        writer.write(some.filter(pc.greater(pc.binary_length(part), 0)))


def describe(counts: dict[str, Any], split: dict[str, Any]) -> str:
    """The counts of a documents folder in one line."""
    read, kept = counts["read"], counts["kept"]
    notes = "".join(f", {read[key]:,} {key.replace('_', ' ')}" for key in ("bad_rows", "replaced") if read[key])
    dropped = ", ".join(
        f"{number:,} {reason.replace('_', ' ')}" for reason, number in counts["dropped"].items() if number
    )
    sides = ", ".join(
        f"{side} {kept[side]['documents']:,} ({kept[side]['bytes']:,} bytes)" for side in (TRAIN, VALIDATION)
    )
    return (
        f"{read['documents']:,} read ({read['bytes']:,} bytes{notes}), dropped {dropped or 'none'}; "
        f"{sides}, split by {split['by']}"
    )
