"""The same run on other hardware: how far losses and weights are from those of one process.

    python benchmarks/equality.py

Each row is a whole run, or one that goes on in the middle from the checkpoint of another. `samples` says whether every
step read the same rows of the data; the differences are the largest over all steps and all weights.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.crash import write_texts  # noqa: E402
from llm.checkpoint import read_checkpoint  # noqa: E402

STEPS = 32
RUN = [
    "--model=PretrainModule",
    "--model.gpt={n_layers: 2, d_model: 64, n_heads: 4, n_kv_heads: 2, head_dim: 16, d_ff: 128}",
    f"--model.max_tokens={STEPS * 2048}",
    "--model.validate_every=8",
    "--data=PretrainDataModule",
    "--data.sources=[texts/*.txt]",
    "--data.vocab_size=400",
    "--data.context_length=64",
    "--data.global_batch_tokens=2048",
    "--data.workers=1",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--trainer.callbacks+=callbacks.SampleLog",
    f"--checkpoints.keep_every_n_steps={STEPS // 2}",
]


class Row(NamedTuple):
    """A run: strategy, devices, workers of the loader, rows of a micro-batch, other flags, and whom it follows."""

    strategy: str
    devices: int = 1
    workers: int = 0
    micro_batch: int = 32
    flags: str = ""
    after: str = ""

    @property
    def name(self) -> str:
        """Of the run's folder."""
        parts = (self.strategy, self.devices, self.workers, self.micro_batch, self.flags, self.after)
        return "-".join(str(part) for part in parts if part != "").translate(str.maketrans(" =./", "____"))


ONE = Row("auto")
ROWS = [
    ONE,
    Row("auto", micro_batch=8),
    Row("auto", micro_batch=2, workers=2),
    Row("ddp", 2),
    Row("ddp", 2, 2, 4),
    Row("fsdp2", 2),
    Row("fsdp2", 2, 2, 4),
    Row("FSDP2", 2, micro_batch=8, flags="--trainer.strategy.tensor_parallel_size=2"),
    Row("auto", micro_batch=4, after="ddp"),
    Row("auto", micro_batch=4, after="fsdp2"),
    Row("ddp", 2, micro_batch=8, after="auto"),
    Row("ddp", 2, micro_batch=8, after="fsdp2"),
    Row("fsdp2", 2, micro_batch=8, after="auto"),
    Row("fsdp2", 2, micro_batch=8, after="ddp"),
]
BFLOAT16 = [
    Row("auto", flags="--trainer.precision=bf16-mixed"),
    Row("ddp", 2, micro_batch=8, flags="--trainer.precision=bf16-mixed"),
    Row("fsdp2", 2, micro_batch=8, flags="--trainer.precision=bf16-mixed"),
]


class Outcome(NamedTuple):
    """Losses by step, digests of the rows by step, and the last weights."""

    losses: dict[int, float]
    samples: dict[int, list[str]]
    weights: dict[str, Any]


def run(row: Row, folder: Path) -> Outcome:
    """Train as the row says, and read what was logged and saved."""
    flags = [
        f"--trainer.strategy={row.strategy}",
        f"--trainer.devices={row.devices}",
        f"--data.num_workers={row.workers}",
        f"--data.batch_size={row.micro_batch}",
        f"--name={row.name}",
        *row.flags.split(),
    ]
    if row.after:
        other = next(each for each in ROWS if each.strategy == row.after and not each.after)
        flags.append(f"--ckpt_path=runs/{other.name}/checkpoints/step-{STEPS // 2:08}.ckpt")
    done = subprocess.run(
        [sys.executable, "-m", "llm", "fit", *RUN, *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    place = folder / "runs" / row.name
    with (place / "metrics.csv").open(newline="") as file:
        losses = {int(line["step"]): float(line["train_loss"]) for line in csv.DictReader(file) if line["train_loss"]}
    samples: dict[int, list[str]] = {}
    for path in place.glob("samples-*.log"):
        if path.stem != "samples-0" and "tensor_parallel_size" in row.flags:
            continue  # which reads what rank 0 reads
        for line in path.read_text().splitlines():
            step, _, *digests = line.split(" ")
            if step != "from":
                samples.setdefault(int(step), []).extend(digests)
    weights = read_checkpoint(place / f"checkpoints/step-{STEPS:08}.ckpt")["state_dict"]
    return Outcome(losses, {step: sorted(digests) for step, digests in samples.items()}, weights)


def main() -> int:
    """Run all rows and print the table; 1 where samples differ or a float32 loss is off by more than 1e-4."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    wrong = 0
    print("| strategy | devices | workers | micro-batch | | steps | samples | loss, relative | weights, absolute |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder)
        for rows in (ROWS, BFLOAT16):
            whole = None
            for row in rows:
                found = run(row, folder)
                whole = whole or found
                same = all(whole.samples[step] == digests for step, digests in found.samples.items())
                loss = max(abs(found.losses[step] / whole.losses[step] - 1) for step in found.losses)
                weight = max(
                    (found.weights[key].float() - value.float()).abs().max().item()
                    for key, value in whole.weights.items()
                    if torch.is_floating_point(value)
                )
                wrong += not same or (rows is ROWS and loss > 1e-4)
                said = f"resumed from {row.after}" if row.after else row.flags.replace("--trainer.", "")
                print(
                    f"| {row.strategy} | {row.devices} | {row.workers} | {row.micro_batch} | {said} | "
                    f"{len(found.losses)} | {'same' if same else 'OTHER'} | {loss:.1e} | {weight:.1e} |",
                    flush=True,
                )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
