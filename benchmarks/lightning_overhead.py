"""What Lightning, our module and our callbacks add to each training step, against a bare loop of the same step.

    python benchmarks/lightning_overhead.py [--steps 100] [--repeats 5]

Both run the same model, optimizer, clipping and batches; the two alternate, and the medians are compared.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.console import Console
from torch.utils.data import DataLoader

from callbacks import Progress, TextSamples, Throughput, TrainingCurve
from llm.metrics_file import MetricsFile
from llm.model import GPT, GPTConfig
from llm.modules import PretrainModule
from llm.optim import MuonAdamW, parameter_groups

SHAPE = {"n_layers": 2, "d_model": 64, "n_heads": 2, "n_kv_heads": 2, "head_dim": 32, "d_ff": 128}
VOCAB, CONTEXT, ROWS = 512, 64, 4


class Tokenizer:
    """As much of one as the module asks for."""

    def to_str(self) -> str:
        return "{}"

    def token_bytes(self) -> np.ndarray:
        return np.ones(VOCAB, dtype=np.int64)


class Batches(L.LightningDataModule):
    """The same batch at every step, so that what is timed is not the data."""

    tokenizer, fingerprint, global_batch_tokens = Tokenizer(), "benchmark", ROWS * CONTEXT

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps_per_epoch = steps
        tokens = torch.randint(0, VOCAB, (ROWS, CONTEXT))
        self.batch = {"tokens": tokens, "targets": tokens.roll(-1, 1)}

    def train_dataloader(self) -> Iterable[Any]:
        return DataLoader([self.batch] * self.steps_per_epoch, batch_size=None)


def bare(batch: dict[str, torch.Tensor], steps: int) -> float:
    """Seconds a step of a plain PyTorch loop."""
    model = GPT(GPTConfig.preset("tiny", vocab_size=VOCAB, context_length=CONTEXT, **SHAPE))
    optimizer = MuonAdamW(parameter_groups(model), lr=1e-4)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        nll, count = model(batch["tokens"], batch["targets"])
        (nll / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class StepTimes(L.Callback):
    """The time from the start of each batch to the start of the next."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append(time.perf_counter())


def with_lightning(data: Batches, steps: int, folder: Path) -> float:
    """Seconds a step of `fit` as the command line sets it up."""
    module = PretrainModule(gpt=SHAPE, vocab_size=VOCAB, context_length=CONTEXT, lr=1e-4, weight_decay=0.0)
    times = StepTimes()
    quiet = Progress(console=Console(file=(folder / "progress.txt").open("w")))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=MetricsFile(str(folder)),
        callbacks=[times, TextSamples(), Throughput(), TrainingCurve(), quiet],
        enable_checkpointing=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        log_every_n_steps=10,
    )
    trainer.fit(module, datamodule=data)
    gaps = [b - a for a, b in zip(times.starts, times.starts[1:], strict=False)]
    return statistics.median(gaps)


def main() -> None:
    """Print the medians."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=100)
    options.add_argument("--repeats", type=int, default=5)
    chosen = options.parse_args()
    data = Batches(chosen.steps)
    pairs = []
    for _ in range(chosen.repeats):
        with tempfile.TemporaryDirectory() as folder:
            pairs.append((bare(data.batch, chosen.steps), with_lightning(data, chosen.steps, Path(folder))))
    plain, full = (statistics.median(values) * 1e3 for values in zip(*pairs, strict=True))
    console = Console()
    console.print(f"bare loop        {plain:7.2f} ms a step")
    console.print(f"fit              {full:7.2f} ms a step")
    console.print(f"Lightning and us {full - plain:7.2f} ms a step")


if __name__ == "__main__":
    main()
