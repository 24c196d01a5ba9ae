"""Each stage of the corpus pipeline alone: MB of text per second of CPU time on one core.

    python benchmarks/corpus_stages.py [--data ../shared/data] [--megabytes 30] [--rounds 3]

The text is that of benchmarks/corpus.py (copies of web pages, stories and novels in which words are drawn anew), in the
batches in which the pipeline works on it. Pages and archives are those of `--data`; their MB are of what is read, HTML
and payload, not of the text in it. Rounds take turns, so that a busy machine slows all alike; medians count, and a
first run of each stage, which compiles and loads what it needs, does not.
"""

import argparse
import gzip
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import pyarrow.parquet as pq
from corpus import make_corpus, originals
from rich.console import Console
from rich.table import Table

from datamodules.corpus.cleaning.language import Language
from datamodules.corpus.cleaning.pii import PII
from datamodules.corpus.cleaning.repair import Repair
from datamodules.corpus.cleaning.unicode import Cleaning
from datamodules.corpus.cleaning.whitespace import Whitespace
from datamodules.corpus.decontamination.benchmarks import load_benchmark
from datamodules.corpus.decontamination.overlap import Decontamination
from datamodules.corpus.duplicates.exact import ClusterByContent
from datamodules.corpus.duplicates.lines import (
    DropLines,
    count_lines,
    frequent_lines,
    id_hashes,
    line_hashes,
    merge_counts,
)
from datamodules.corpus.duplicates.minhash import MinHash
from datamodules.corpus.quality import features
from datamodules.corpus.quality.features import Features
from datamodules.corpus.quality.filters import build_filters
from datamodules.corpus.reading.readers import DocumentReader
from datamodules.corpus.reading.sources import resolve
from datamodules.corpus.shards import ShardWriter

Work = tuple[float, Callable[[], object]]  # MB, and what is timed


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--megabytes", type=float, default=30.0)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = make_corpus(folder / "corpus", originals(chosen.data), chosen.megabytes)
        batches = list(DocumentReader(resolve(str(corpus))))
        works = dict(reading(folder, corpus, batches, chosen.data)) | dict(stages(folder, batches, chosen.data))
        seconds: dict[str, list[float]] = {stage: [] for stage in works}
        for round_ in range(1 + chosen.rounds):
            for stage, (_, work) in works.items():
                began = time.process_time()
                work()
                if round_:
                    seconds[stage].append(time.process_time() - began)
    table = Table()
    for heading in ("stage", "MB", "MB/s per core", "rounds"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, (megabytes, _) in works.items():
        rates = [megabytes / second for second in seconds[stage]]
        told = " ".join(f"{rate:.0f}" for rate in rates)
        table.add_row(stage, f"{megabytes:.1f}", f"{statistics.median(rates):.0f}", told)
    Console(width=100).print(table)


def reading(folder: Path, corpus: Path, batches: list[pa.RecordBatch], data: Path) -> Iterator[tuple[str, Work]]:
    """Readers of the same documents in several forms, and of pages."""
    megabytes = sum(batch.column("text").nbytes for batch in batches) / 1e6
    lines = b"".join(path.read_bytes() for path in sorted(corpus.iterdir()))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    pq.write_table(pa.Table.from_batches(batches), folder / "a.parquet", row_group_size=2000)
    forms = {"read jsonl": corpus, "read jsonl.gz": folder / "a.jsonl.gz", "read parquet": folder / "a.parquet"}
    for form, path in forms.items():
        yield form, (megabytes, lambda path=path: list(DocumentReader(resolve(str(path)))))
    pages, archives = sorted((data / "html").glob("*.html.gz")), sorted((data / "warc").glob("*.warc.gz"))
    for form, paths in {"read HTML": pages, "read WARC payload": archives}.items():
        if paths:
            size = sum(len(gzip.decompress(path.read_bytes())) for path in paths) / 1e6
            yield form, (size, lambda paths=paths: list(DocumentReader(resolve([str(path) for path in paths]))))


def stages(folder: Path, batches: list[pa.RecordBatch], data: Path) -> Iterator[tuple[str, Work]]:
    """Everything that is applied to batches of documents."""
    megabytes = sum(batch.column("text").nbytes for batch in batches) / 1e6
    gopher = [name for quality in build_filters({"gopher_quality": {}}) for name in quality.needs]
    lambada = load_benchmark(str(data / "lambada" / "lambada_test.jsonl"))
    many = [load_benchmark(str(path)) for path in sorted((data / "blimp").glob("*.jsonl"))]
    counted = merge_counts(
        count_lines(line_hashes(batch.column("text"), "line"), id_hashes(batch.column("id"))) for batch in batches
    )
    applied = {
        "clean": Cleaning(),
        "whitespace": Whitespace(),
        "repair": Repair(),
        "language": Language(),
        "exact duplicates": ClusterByContent(),
        "quality features, Gopher's quality": Features(features.in_order(gopher)),
        "quality features, all": Features(features.ALL),
        "MinHash": MinHash(),
        "benchmark matches, one file": Decontamination((lambada,)),
        f"benchmark matches, {1 + len(many)} files": Decontamination((lambada, *many)),
        "lines: drop": DropLines(frequent_lines(counted, 3), "line"),
        "personal data": PII(),
    }
    for name, stage in applied.items():
        yield name, (megabytes, lambda stage=stage: [stage.apply(batch) for batch in batches])
    yield (
        "lines: count",
        (
            megabytes,
            lambda: [
                count_lines(line_hashes(batch.column("text"), "line"), id_hashes(batch.column("id")))
                for batch in batches
            ],
        ),
    )
    yield "write zstd Parquet", (megabytes, lambda: write(folder, batches))


def write(folder: Path, batches: list[pa.RecordBatch]) -> None:
    """As the last step does."""
    with ShardWriter(folder, "train") as writer:
        for batch in batches:
            writer.write(batch)


if __name__ == "__main__":
    main()
