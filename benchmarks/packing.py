"""Attention over packed documents, and how well and how fast documents are packed.

    python benchmarks/packing.py [--rounds 9] [--threads 2] [--text FILE]

Attention: forward and backward of 4 rows of 1,024 tokens, 8 heads of 64, in float32. Every round times the document by
document kernel, a mask, and plain causal attention, which hides nothing; medians count. Packing: the lengths of the
documents of FILE (one a line that is not `<|endoftext|>`; 3.8 bytes taken as a token), or made-up ones.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from datamodules.tokens.packing import pack
from llm.model.attention_kernels import Documents, attend, masked_attention

BATCH, LENGTH, HEADS, WIDTH = 4, 1024, 8, 64


def document_ids(kind: str) -> Tensor:
    """int64 [BATCH, LENGTH]: documents of 64 or 256 tokens, or of lengths that are log-normal around 128."""
    if kind != "mixed":
        return (torch.arange(LENGTH) // int(kind)).expand(BATCH, -1).contiguous()
    random = np.random.default_rng(0)
    rows = []
    for _ in range(BATCH):
        lengths = np.maximum(1, random.lognormal(np.log(128), 1, LENGTH).astype(int))
        rows.append(np.repeat(np.arange(LENGTH), lengths)[:LENGTH])
    return torch.from_numpy(np.stack(rows))


def timed(kernel: Callable[..., Tensor], **options: object) -> float:
    """Milliseconds of one forward and backward pass."""
    inputs = [torch.randn(BATCH, LENGTH, HEADS, WIDTH, requires_grad=True) for _ in range(3)]
    start = time.perf_counter()
    kernel(*inputs, **options).sum().backward()
    return (time.perf_counter() - start) * 1e3


def attention_table(rounds: int) -> Table:
    table = Table(title=f"attention, {BATCH} x {LENGTH} tokens, forward and backward")
    for column in ("documents", "one by one, ms", "mask, ms", "all causal, ms", "mask / one by one"):
        table.add_column(column, justify="right")
    for kind in ("64", "256", "mixed"):
        documents = Documents(document_ids(kind))
        times: dict[str, list[float]] = {"documents": [], "mask": [], "causal": []}
        for _ in range(rounds):
            times["documents"].append(timed(attend, documents=documents))
            times["mask"].append(timed(masked_attention, documents=documents))
            times["causal"].append(timed(attend))
        ours, mask, causal = (statistics.median(values[1:]) for values in times.values())
        name = f"{kind}, {len(documents.lengths)} of them"
        table.add_row(name, f"{ours:.1f}", f"{mask:.1f}", f"{causal:.1f}", f"{mask / ours:.1f}")
    return table


def packing_table(text: Path | None) -> Table:
    if text is None:
        lengths = np.random.default_rng(0).lognormal(np.log(250), 1, 1_000_000).astype(np.int64) + 1
    else:
        lines = text.read_text(encoding="utf-8").split("<|endoftext|>")
        lengths = np.array([int(len(line.encode()) / 3.8) + 1 for line in lines if line.strip()])
    table = Table(title=f"best-fit packing of {len(lengths):,} documents, {lengths.mean():.0f} tokens on average")
    for column in ("tokens a row", "rows", "full", "documents cut", "cut by running text", "documents a second"):
        table.add_column(column, justify="right")
    offsets = np.cumsum(np.concatenate([[1], lengths]))
    pack(offsets[:10], 8)  # compiles the loop
    for length in (256, 1024, 4096):
        start = time.perf_counter()
        packing = pack(offsets, length)
        seconds = time.perf_counter() - start
        rows = len(packing.rows) - 1
        through = ((offsets[1:] - 2) // length != (offsets[:-1] - 1) // length).mean()
        table.add_row(
            f"{length:,}",
            f"{rows:,}",
            f"{lengths.sum() / (rows * length):.3%}",
            f"{(lengths > length).mean():.1%}",
            f"{through:.1%}",
            f"{len(lengths) / seconds:,.0f}",
        )
    return table


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--text", type=Path, help="documents between lines of <|endoftext|>")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    console = Console(width=max(110, Console().width))
    console.print(attention_table(chosen.rounds))
    console.print(packing_table(chosen.text))


if __name__ == "__main__":
    main()
