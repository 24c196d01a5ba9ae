"""Text to tokens: MB/s of our encoder against the `tokenizers` library, on the same text in one run.

    python benchmarks/encoding.py [--data ../shared/data] [--megabytes 3] [--rounds 5] [--vocab-size 32768]

A tokenizer is trained on the texts and encodes them; each round times each contestant once, so that a busy machine
slows all of them alike; medians count. CPU time is that of all threads. The ids are compared before anything is timed.
The library is timed on whole documents, as `encode_batch` is called by most, and on documents cut into pieces of 8 Ki
characters as ours are, which is kinder to it. Its results stay its own objects, while ours are arrays.
Kinds of text that `--data` lacks are left out; Python's standard library is always there.
"""

import argparse
import json
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from datamodules.text.fast_encoding import FastEncoder, available_cores
from datamodules.text.tokenizer import Tokenizer, cut_for_encoding
from datamodules.text.training import train_bpe

BASE = "tokenizers: encode_batch"
OURS = "ours: Tokenizer.encode_batch"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--megabytes", type=float, default=3, help="of each kind of text, 0 for all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocab-size", type=int, default=32768)
    arguments = parser.parse_args()
    texts = read_texts(arguments.data)
    trained = train_bpe((text for documents in texts.values() for text in documents), arguments.vocab_size)
    tokenizer = Tokenizer(trained)
    start = time.perf_counter()
    FastEncoder(trained)
    console = Console(width=max(110, Console().width))
    console.print(
        f"{available_cores()} cores, vocabulary of {arguments.vocab_size:,}, median of {arguments.rounds} rounds; "
        f"our encoder is made once, in {time.perf_counter() - start:.2f} s"
    )
    for kind, documents in texts.items():
        console.print(compare(kind, sample(documents, arguments.megabytes * 1e6), tokenizer, arguments.rounds))


def read_texts(data: Path) -> dict[str, list[str]]:
    """Documents by kind of text."""
    files: dict[str, Callable[[], Iterator[str]]] = {
        "novels": lambda: (path.read_text(encoding="utf-8-sig") for path in sorted(data.glob("novels/*_*.txt"))),
        "stories": lambda: (
            story
            for path in data.glob("tinystories/tinystories_10k.txt")
            for story in path.read_text(encoding="utf-8").split("\n\n")
        ),
        "web pages": lambda: (
            json.loads(row)["text"]
            for path in data.glob("c4-sample/c4_demo.jsonl")
            for row in path.read_text(encoding="utf-8").splitlines()
        ),
        "Python code": lambda: (
            path.read_text(encoding="utf-8", errors="replace")
            for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
            if "site-packages" not in path.parts
        ),
    }
    return {kind: documents for kind, read in files.items() if (documents := list(read()))}


def sample(documents: list[str], size: float) -> list[str]:
    """Documents from all over, of about `size` characters together; all where it is 0."""
    step = max(1, int(sum(map(len, documents)) / size)) if size else 1
    return documents[::step]


def compare(kind: str, documents: list[str], tokenizer: Tokenizer, rounds: int) -> Table:
    """Time every contestant on one kind of text."""
    backend = tokenizer.backend
    pieces = [piece for document in documents for piece in cut_for_encoding(document)]
    contestants: dict[str, Callable[[], object]] = {
        BASE: lambda: backend.encode_batch(documents, add_special_tokens=False),
        "tokenizers: encode_batch_fast": lambda: backend.encode_batch_fast(documents, add_special_tokens=False),
        "tokenizers: encode_batch, cut": lambda: backend.encode_batch(pieces, add_special_tokens=False),
        "tokenizers: encode_batch_fast, cut": lambda: backend.encode_batch_fast(pieces, add_special_tokens=False),
        OURS: lambda: tokenizer.encode_batch(documents),
    }
    ours = tokenizer.encode_batch(documents)
    theirs = [encoding.ids for encoding in backend.encode_batch_fast(documents, add_special_tokens=False)]
    same = all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            run()
            cpu[name].append(time.process_time() - start_cpu)
            wall[name].append(time.perf_counter() - start)
    megabytes = sum(len(document.encode()) for document in documents) / 1e6
    table = Table(
        title=f"{kind}: {len(documents):,} documents, {megabytes:.1f} MB; ids {'identical' if same else 'DIFFERENT'}"
    )
    table.add_column("")
    for column in ("MB/s wall", "MB/s CPU", "x wall", "x CPU"):
        table.add_column(column, justify="right")
    for name in contestants:
        seconds, seconds_cpu = statistics.median(wall[name]), statistics.median(cpu[name])
        table.add_row(
            name,
            f"{megabytes / seconds:.2f}",
            f"{megabytes / seconds_cpu:.2f}",
            f"{statistics.median(wall[BASE]) / seconds:.1f}",
            f"{statistics.median(cpu[BASE]) / seconds_cpu:.1f}",
        )
    return table


if __name__ == "__main__":
    main()
