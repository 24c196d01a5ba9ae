"""Raw inputs to clean, unique documents in train and validation, with a report of what became of every one.

A shard at a time is read and cleaned, and measured; then it is decided over all shards what becomes of each document;
then each shard writes what is kept of it. Each step of each shard is kept under the fingerprint of what made it, so
work that was ended goes on where it was, and a changed setting does anew only what lies behind it.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datamodules.artefacts import Artefact, Recipe, make
from datamodules.corpus.curation import Curation, identity
from datamodules.corpus.decisions import TRAIN, VALIDATION
from datamodules.corpus.engine import Engine
from datamodules.corpus.mixture import demand_sources
from datamodules.corpus.reading.planning import Shard, plan_shards, shard_bytes_for, size_of
from datamodules.corpus.reading.readers import EncodingErrors
from datamodules.corpus.reading.sources import Input, digest, resolve
from datamodules.corpus.reporting.report import write_report
from datamodules.corpus.run import Run
from datamodules.corpus.steps import Stage
from datamodules.digests import FileDigests
from datamodules.errors import DataError

log = logging.getLogger(__name__)

VERSION = 3  # raised when the same inputs and settings give other documents
WORK = "work"  # folder of the cache in which the steps of the shards lie
# Bytes of disk that are needed at least for a byte of input, as much of it may be markup. Plain text needs about 1.5,
# kept as it is and once more compressed; what near-duplicates are found by is another 0.4.
ROOM = 0.5


@dataclass(frozen=True)
class Pipeline:
    """What documents are made from, and how; the same pipeline always makes the same documents.

    Args:
        sources: `stdlib`, files, folders, globs, `hf:owner/name[/config][:split]`; their order plays no part.
        validation_sources: texts for validation alone; then all of `sources` is for training, and what validation has
            as well is left out of it.
        text_field: the field of a row that is the document.
        validation_fraction: share of the bytes that becomes validation where there are no `validation_sources`.
        encoding_errors: `replace` invalid UTF-8 by U+FFFD and count it, or be `strict` and stop there.
        max_bad_fraction: share of rows of one file that may be unusable before it is an error.
        curation: what is done to documents on their way.
        stages: stages of your own, applied to each batch after the cleaning of `curation`.
        engine: where the work is done; it changes nothing else.
        shard_bytes: of input in one shard; None is 16, 64 or 256 MiB by the size of all inputs.
    """

    sources: str | Sequence[str] = "stdlib"
    validation_sources: str | Sequence[str] | None = None
    text_field: str = "text"
    validation_fraction: float = 0.05
    encoding_errors: EncodingErrors = "replace"
    max_bad_fraction: float = 0.01
    curation: Curation = field(default_factory=Curation)
    stages: tuple[Stage, ...] = ()
    engine: Engine = field(default_factory=Engine)
    shard_bytes: int | None = None

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
        matching = self.curation.matching()  # before anything is written, as its files may be wrong
        sides = {TRAIN: resolve(self.sources)}
        if self.validation_sources:
            sides[VALIDATION] = resolve(self.validation_sources)
        named = sorted({item.source for inputs in sides.values() for item in inputs})
        demand_sources(self.curation.weights, named)  # now, and not when all of them have been read
        digests = FileDigests(cache_dir)
        inputs = {f"{side}: {item.name}": digest(item, digests) for side, items in sides.items() for item in items}
        digests.save()
        if matching is not None:
            inputs |= {
                f"benchmark: {path}": digest for path, digest in zip(matching.paths, matching.digests, strict=True)
            }
        settings = {
            **self.reading(),
            "validation_fraction": None if VALIDATION in sides else self.validation_fraction,
            **asdict(self.curation),
            "stages": identity(self.stages),
            "shard_bytes": self.shard_bytes,
        }
        return Plan(self, cache_dir, sides, Recipe("documents", VERSION, settings, inputs))

    def prepare(self, cache_dir: Path) -> Artefact:
        """Make the documents, or reuse them: a folder with what `Plan.prepare` says."""
        return self.plan(cache_dir).prepare()

    def reading(self) -> dict[str, Any]:
        """The settings of the reader."""
        return {
            "text_field": self.text_field,
            "encoding_errors": self.encoding_errors,
            "max_bad_fraction": self.max_bad_fraction,
        }


@dataclass(frozen=True)
class Plan:
    """A pipeline with the inputs that its sources stand for now, and the recipe that they make."""

    pipeline: Pipeline
    cache_dir: Path
    sides: Mapping[str, Sequence[Input]]
    recipe: Recipe

    def prepare(self) -> Artefact:
        """Make the documents folder, or reuse it.

        It holds `train-*.parquet`, `validation-*.parquet`, `report.json`, `report.html` and `manifest.json`.
        """
        return make(self.recipe, self.cache_dir, self._build)

    def _build(self, folder: Path) -> dict[str, Any]:
        pipeline = self.pipeline
        size = sum(map(size_of, self.sides.values()))
        self._check_room(size)
        shard_bytes = pipeline.shard_bytes or shard_bytes_for(size)
        shards = [
            (side == VALIDATION, shard, self._digests(side, shard))
            for side, inputs in self.sides.items()
            for shard in plan_shards(inputs, shard_bytes)
        ]
        run = Run(self.cache_dir / WORK, pipeline.engine.fit(size), pipeline.curation, shards)
        report = run.make(folder, pipeline.reading(), pipeline.stages, pipeline.validation_fraction)
        report |= {"title": self.recipe.name, "fingerprint": self.recipe.fingerprint, "settings": self.recipe.settings}
        write_report(report, folder)
        counts = {key: report[key] for key in ("read", "kept")}
        counts["dropped"] = {reason: told["documents"] for reason, told in report["dropped"].items()}
        log.info("documents: %s", describe(counts, report["split"]))
        return {"counts": counts, "split": report["split"], "digest": report["digest"]}

    def _digests(self, side: str, shard: Shard) -> dict[str, str]:
        return {item.name: self.recipe.inputs[f"{side}: {item.name}"] for item in {part.input for part in shard.parts}}

    def _check_room(self, size: int) -> None:
        """Stop before the work begins where the disk cannot hold even the compressed text of `size` bytes of input."""
        free = shutil.disk_usage(self.cache_dir).free
        if free < ROOM * size:
            raise DataError(
                f"{self.cache_dir} has {free / 1e6:,.0f} MB free, and {size / 1e6:,.0f} MB of input need at least "
                f"{ROOM * size / 1e6:,.0f} MB there; make room, or choose another folder with cache_dir"
            )


def describe(counts: Mapping[str, Any], split: Mapping[str, Any]) -> str:
    """The counts of a documents folder in one line."""
    read, kept = counts["read"], counts["kept"]
    notes = "".join(f", {read[key]:,} {key.replace('_', ' ')}" for key in ("bad_rows", "replaced") if read.get(key))
    not_documents = read.get("not_documents", {})
    if damaged := sum(not_documents.get(reason, 0) for reason in ("damaged", "truncated")):  # in web archives
        notes += f", {damaged:,} damaged records"
    stages: dict[str, int] = {}
    for reason, number in counts["dropped"].items():
        stage = reason.split(".")[0].replace("_", " ")
        stages[stage] = stages.get(stage, 0) + number
    dropped = ", ".join(f"{number:,} {stage}" for stage, number in stages.items())
    sides = ", ".join(
        f"{side} {kept[side]['documents']:,} ({kept[side]['bytes']:,} bytes)" for side in (TRAIN, VALIDATION)
    )
    return (
        f"{read['documents']:,} read ({read['bytes']:,} bytes{notes}), dropped {dropped or 'none'}; "
        f"{sides}, split by {split['by']}"
    )
