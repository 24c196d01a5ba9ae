"""Decontamination from files: the stage that a worker builds from paths, once."""

from dataclasses import dataclass
from functools import cache

import pyarrow as pa

from datamodules.corpus.decontamination.benchmarks import load_benchmark
from datamodules.corpus.decontamination.overlap import Action, Decontamination


@dataclass(frozen=True)
class MatchBenchmarks:
    """`Decontamination` by the benchmarks in files; `digests` of their contents make its identity."""

    paths: tuple[str, ...]
    digests: tuple[str, ...]
    n: int
    action: Action

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Add the columns `contamination` and `contaminated`; with the action `cut`, change the text."""
        return _loaded(self).apply(batch)


@cache
def _loaded(stage: MatchBenchmarks) -> Decontamination:
    return Decontamination([load_benchmark(path) for path in stage.paths], n=stage.n, action=stage.action)
