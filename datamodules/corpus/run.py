"""One run of a pipeline: its steps in their order, over all shards, and the report of what became of everything."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import xxhash

from datamodules.artefacts import Artefact, Recipe, make
from datamodules.corpus.curation import Curation, identity
from datamodules.corpus.decisions import TRAIN, VALIDATION, Documents, gather
from datamodules.corpus.decontamination import overlap as decontamination
from datamodules.corpus.decontamination.matching import MatchBenchmarks
from datamodules.corpus.duplicates import minhash
from datamodules.corpus.duplicates.lines import frequent_lines, merge_counts
from datamodules.corpus.engine import Engine
from datamodules.corpus.judging import judge
from datamodules.corpus.progress import StepProgress
from datamodules.corpus.quality import features
from datamodules.corpus.quality.features import Features
from datamodules.corpus.reading.planning import Shard
from datamodules.corpus.reading.readers import DocumentReader
from datamodules.corpus.reporting import summary
from datamodules.corpus.steps import (
    DECISIONS_FILE,
    DOCUMENTS_FILE,
    FEATURES_FILE,
    LINES_FILE,
    CountLines,
    DropListedLines,
    Measure,
    Read,
    ShardTask,
    Sign,
    Stage,
    Write,
    load_counts,
    run_steps,
    save_counts,
)
from datamodules.errors import DataError

log = logging.getLogger(__name__)

READ_VERSION, WRITE_VERSION, LINES_VERSION = 1, 2, 1  # each raised when the step makes something else of the same


@dataclass
class Run:
    """The steps over all shards; `work` is the folder in which each leaves what it made, to be used again.

    `shards` are (whether it is validation, the shard, the digests of its inputs by name).
    """

    work: Path
    engine: Engine
    curation: Curation
    shards: Sequence[tuple[bool, Shard, Mapping[str, str]]]

    def __post_init__(self) -> None:
        self.started = time.perf_counter()
        self.cpu: dict[str, float] = {}
        self.bytes: dict[str, int] = {}  # of text, that each step worked on

    def make(
        self, folder: Path, reading: Mapping[str, Any], stages: tuple[Stage, ...], fraction: float
    ) -> dict[str, Any]:
        """Fill `folder` with `train-*.parquet` and `validation-*.parquet`, and return the report.

        Raises:
            DataError: for what cannot be read or written, and where nothing is left to train on.
        """
        tasks = {"read": self.reading(reading, (*self.curation.cleaning(), *stages))}
        if self.curation.filters:
            tasks["measure"] = self.measuring(tasks["read"])
        if self.curation.near_duplicates is not None:
            tasks["sign"] = self.signing(tasks["read"])
        if (benchmarks := self.curation.matching()) is not None:
            tasks["match"] = self.matching(tasks["read"], benchmarks)
        made = self.run(tasks)
        read, matched = made["read"], made.get("match", [])
        paths = [artefact.folder / DOCUMENTS_FILE for artefact in read]
        documents = gather(paths, [side for side, _, _ in self.shards])
        excerpts = summary.Excerpts(documents, paths)
        told = judge(
            documents,
            self.curation,
            fraction,
            [artefact.folder / FEATURES_FILE for artefact in made.get("measure", [])],
            [artefact.folder for artefact in made.get("sign", [])],
            [artefact.folder / FEATURES_FILE for artefact in matched],
            lambda row: excerpts.samples(np.array([row]))[0]["text"],
        )
        decided = [self.decisions(documents, number) for number in range(len(read))]
        written = self.write(read, decided, self.listed_lines(read, decided), fraction)
        link_all(folder, [artefact.folder for artefact in written])
        report = self.report(documents, excerpts, read, written, told)
        if matched:
            report["contamination"] = summary.contamination(
                documents, [artefact.folder / FEATURES_FILE for artefact in matched]
            )
        if not report["kept"][TRAIN]["documents"]:
            raise DataError(nothing_left(report))
        return report

    # ---- steps ---------------------------------------------------------------------------------------------------

    def run(self, steps: Mapping[str, Sequence[ShardTask]]) -> dict[str, list[Artefact]]:
        """All shards of some steps, made where they are missing."""
        with StepProgress(", ".join(steps), len(self.shards)) as progress:
            made = run_steps(steps, self.engine, progress)
        for name, artefacts in made.items():
            self.cpu[name] = sum(artefact.manifest["cpu_seconds"] for artefact in artefacts)
            self.bytes[name] = sum(artefact.manifest["record"]["bytes"] for artefact in artefacts)
        return made

    def reading(self, settings: Mapping[str, Any], stages: tuple[Stage, ...]) -> list[ShardTask]:
        """The documents of each shard, cleaned."""
        told = {**settings, "stages": identity(stages)}
        tasks = []
        for _, shard, inputs in self.shards:
            recipe = Recipe("read", READ_VERSION, told, {**inputs, "shard": shard.identity})
            tasks.append(ShardTask(recipe, self.work, Read(partial(DocumentReader, shard, **settings), stages)))
        return tasks

    def measuring(self, read: Sequence[ShardTask]) -> list[ShardTask]:
        """What the chosen quality filters look at."""
        names = features.in_order(name for quality in self.curation.quality() for name in quality.needs)
        recipe = partial(Recipe, "measure", features.VERSION, {"features": list(names)})
        return [self.behind(task, recipe, Measure(task.made / DOCUMENTS_FILE, Features(names))) for task in read]

    def matching(self, read: Sequence[ShardTask], stage: MatchBenchmarks) -> list[ShardTask]:
        """Where documents hold text of benchmarks."""
        settings = {key: value for key, value in asdict(stage).items() if key != "paths"}
        recipe = partial(Recipe, "match", decontamination.VERSION, settings)
        return [self.behind(task, recipe, Measure(task.made / DOCUMENTS_FILE, stage)) for task in read]

    def signing(self, read: Sequence[ShardTask]) -> list[ShardTask]:
        """What near-duplicates are found by."""
        recipe = partial(Recipe, "sign", minhash.VERSION, {"minhash": identity(self.curation.minhash)})
        return [self.behind(task, recipe, Sign(task.made / DOCUMENTS_FILE, self.curation.minhash)) for task in read]

    def behind(
        self, read: ShardTask, recipe: Callable[[dict[str, str]], Recipe], build: Callable[[Path], dict[str, Any]]
    ) -> ShardTask:
        """What is made from the documents of a shard alone."""
        return ShardTask(recipe({"read": read.made.name}), self.work, build)

    def listed_lines(self, read: Sequence[Artefact], decided: Sequence[Artefact]) -> tuple[Stage, ...]:
        """The stage that drops lines which stand in many of the kept documents; none where that was not asked for."""
        unit = self.curation.duplicate_lines
        if unit is None:
            return ()
        tasks = []
        for documents, decisions in zip(read, decided, strict=True):
            inputs = {"read": documents.folder.name, "decisions": decisions.folder.name}
            build = CountLines(documents.folder / DOCUMENTS_FILE, decisions.folder / DECISIONS_FILE, unit)
            tasks.append(ShardTask(Recipe("lines", LINES_VERSION, {"unit": unit}, inputs), self.work, build))
        counted = self.run({"lines": tasks})["lines"]

        def list_frequent(folder: Path) -> dict[str, Any]:
            merged = merge_counts(load_counts(artefact.folder / LINES_FILE) for artefact in counted)
            frequent = frequent_lines(merged, self.curation.duplicate_lines_from)
            save_counts(folder / LINES_FILE, frequent)
            return {"lines": len(frequent.hashes)}

        settings = {"unit": unit, "from": self.curation.duplicate_lines_from}
        inputs = {artefact.folder.name: "" for artefact in counted}
        listed = make(Recipe("listed", LINES_VERSION, settings, inputs), self.work, list_frequent, reason="counted")
        return (DropListedLines(listed.folder / LINES_FILE, unit),)

    def write(
        self, read: Sequence[Artefact], decided: Sequence[Artefact], before: tuple[Stage, ...], fraction: float
    ) -> list[Artefact]:
        """The documents that are kept, in train and validation; a shard of which nothing changed is not done again."""
        matching = self.curation.matching()
        cutting = (matching,) if matching is not None and matching.action == "cut" else ()
        stages = (*cutting, *before, *self.curation.finishing())
        settings = {"stages": identity(stages), "fraction": fraction}
        tasks = []
        for documents, decisions in zip(read, decided, strict=True):
            inputs = {"read": documents.folder.name, "decisions": decisions.folder.name}
            build = Write(documents.folder / DOCUMENTS_FILE, decisions.folder / DECISIONS_FILE, stages, fraction)
            tasks.append(ShardTask(Recipe("write", WRITE_VERSION, settings, inputs), self.work, build))
        return self.run({"write": tasks})["write"]

    def decisions(self, documents: Documents, shard: int) -> Artefact:
        """What was decided of one shard, in a folder named by its content."""
        table = documents.table(shard)
        recipe = Recipe("decisions", 2, {}, {"content": documents.digest(shard)})

        def build(folder: Path) -> dict[str, Any]:
            pq.write_table(table, folder / DECISIONS_FILE)
            return {}

        return make(recipe, self.work, build, reason="decided")

    # ---- what to tell ----------------------------------------------------------------------------------------------

    def report(
        self,
        documents: Documents,
        excerpts: summary.Excerpts,
        read: Sequence[Artefact],
        written: Sequence[Artefact],
        told: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Everything counted, added up from the records of the shards and the decisions."""
        reading = summary.add_up(artefact.manifest["record"] for artefact in read)
        writing = summary.add_up(artefact.manifest["record"] for artefact in written)
        sides = {side: writing.get(side, {"documents": 0, "bytes": 0}) for side in (TRAIN, VALIDATION)}
        total = sides[TRAIN]["bytes"] + sides[VALIDATION]["bytes"]
        dropped = summary.dropped(documents, excerpts)
        stages = summary.funnel(documents, reading)
        emptied = writing.get("emptied", {"documents": 0, "bytes": 0})
        kept = int(documents.kept.sum()) - emptied["documents"]
        if emptied["documents"]:
            dropped["emptied"] = {**emptied, "samples": []}
        last = stages[-1]
        stages.append(
            {
                "name": "write",
                "documents_in": last["documents_out"],
                "documents_out": kept,
                "bytes_in": last["bytes_out"],
                "bytes_out": total,
            }
        )
        sources = summary.by_name(documents, documents.sources, documents.source_names)
        for name, epochs in told["epochs"].items():
            sources[name]["epochs"] = epochs
        counted = writing.get("counted", {})
        lines = counted.get("DropListedLines", {})
        digest = xxhash.xxh3_128()
        for artefact in written:
            digest.update(artefact.manifest["record"]["digest"].encode())
        report = {
            "read": reading,
            "stages": [{**stage, **self.cost(stage["name"])} for stage in stages],
            "dropped": dropped,
            "duplicates": summary.duplicates(documents, excerpts),
            "languages": summary.by_name(documents, documents.languages, documents.language_names),
            "kept_languages": self.curation.languages or [],
            "sources": sources,
            "pii": {kind: number for kind, number in counted.get("PII", {}).items() if number},
            "lines": {"removed": lines["removed_lines"], "bytes": lines["removed_line_bytes"]} if lines else {},
            "kept": {"documents": kept, **sides},
            "split": {
                **told["split"],
                "share_of_bytes": round(sides[VALIDATION]["bytes"] / total, 4) if total else 0.0,
            },
            "shards": len(read),
            "digest": digest.hexdigest(),
            "cpu_seconds": round(sum(self.cpu.values()), 3),
            "steps": {name: round(seconds, 3) for name, seconds in self.cpu.items()},
            "seconds": round(time.perf_counter() - self.started, 3),
        }
        return {key: value for key, value in report.items() if value or key in ("dropped", "kept")}

    def cost(self, stage: str) -> dict[str, float]:
        """What the step took that a stage of the report rests on; nothing for what is decided from its numbers."""
        first_filter = next(iter(self.curation.filters), None)
        steps: Sequence[str] = {
            "read": ("read",),
            first_filter: ("measure",),
            "near_duplicate": ("sign",),
            "contaminated": ("match",),
            "write": ("lines", "write"),
        }.get(stage, ())
        steps = [step for step in steps if step in self.cpu]
        if not steps:
            return {}
        spent = round(sum(self.cpu[step] for step in steps), 3)
        return {"cpu_seconds": spent, "bytes_worked_on": max(self.bytes[step] for step in steps)}


def link_all(folder: Path, written: Iterable[Path]) -> None:
    """Give the written files of all shards a common folder and numbers, without copying where the disk allows it."""
    for side in (TRAIN, VALIDATION):
        files = (path for shard in written for path in sorted(shard.glob(f"{side}-*.parquet")))
        for number, path in enumerate(files):
            target = folder / f"{side}-{number:05}.parquet"
            try:
                os.link(path, target)
            except OSError:
                shutil.copyfile(path, target)


def nothing_left(report: Mapping[str, Any]) -> str:
    """The sentence for a corpus of which no document is left."""
    reasons = ", ".join(f"{told['documents']} were dropped as {reason}" for reason, told in report["dropped"].items())
    return (
        f"the sources hold no text for training: of {report.get('read', {}).get('documents', 0)} documents "
        + (reasons or "none was kept")
        + "; give more text, or loosen what drops it"
    )
