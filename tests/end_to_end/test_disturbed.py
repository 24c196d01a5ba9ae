"""A run that was disturbed on purpose ends near the undisturbed one, as far as the guard may act."""

import csv
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from support.command_line import TINY, write_texts

from callbacks import Diverged
from callbacks.records import Records
from llm.cli import LabyrinthCLI

RUN = [
    *TINY,
    "--model.gpt={n_layers: 2, d_model: 64, n_heads: 2, n_kv_heads: 1, head_dim: 32, d_ff: 128}",
    "--model.optimizer=muon",
    "--model.lr=0.01",
    "--model.max_tokens=409600",  # 400 steps
    "--model.validate_every=100",
    "--model.schedule=linear",
    "--data.context_length=64",
    "--data.global_batch_tokens=1024",
    "--data.batch_size=16",
    "--checkpoints.every_n_steps=25",
    "--trainer.enable_progress_bar=false",
]
NAN, GARBAGE, JOLT = 150, (210, 211, 212), 290


class Disturbance(L.Callback):
    """A gradient that is not a number, three batches of noise, and one step at a rate a thousand times too high.

    The noise is in the data, and comes again when the steps are taken again; the others come once.
    """

    def __init__(self, *once: int) -> None:
        self.left = set(once)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in GARBAGE:
            noise = torch.Generator().manual_seed(trainer.global_step)
            for values in batch.values():
                values.copy_(torch.randint(0, 300, values.shape, generator=noise))

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        step = trainer.global_step
        if step not in self.left:
            return
        self.left.remove(step)
        if step == NAN:
            next(module.parameters()).grad[0, 0] = float("nan")
        else:
            for group in optimizer.param_groups:
                group["lr"] *= 1000


def bits_per_byte(name: str, *once: int, guard: tuple[str, ...] = ()) -> float:
    """The last score of a run; it is disturbed where steps are given at which something happens once."""

    class Disturbed(LabyrinthCLI):
        def before_fit(self) -> None:
            if once:
                self.trainer.callbacks.insert(0, Disturbance(*once))

    Disturbed(["fit", *RUN, f"--name={name}", *guard])
    with Path(f"runs/{name}/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train_loss"]] == list(range(400))
    return [float(row["val_bpb"]) for row in rows if row["val_bpb"]][-1]


def events(name: str) -> list[tuple[int, str]]:
    return [(event["step"], event["action"]) for event in Records(Path(f"runs/{name}/events.jsonl")).read()]


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(tmp_path, documents=400)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["llm"])


@pytest.mark.slow
def test_a_disturbed_run_ends_near_the_clean_one(in_folder: None):
    both = ("--guard.on_nonfinite=rollback", "--guard.on_spike=rollback")
    clean = bits_per_byte("clean")
    rollback = bits_per_byte("rollback", NAN, JOLT, guard=both)
    skip = bits_per_byte("skip", NAN, guard=("--guard.on_spike=skip",))  # what a step has done it cannot undo
    warn = bits_per_byte("warn", NAN, JOLT)
    print(f"clean {clean:.4f}, rollback {rollback:.4f}, skip {skip:.4f}, warn {warn:.4f}")
    assert events("clean") == []
    assert events("rollback") == [(step, "rollback") for step in (NAN, *GARBAGE, JOLT + 1)]
    assert events("skip") == [(step, "skip") for step in (NAN, *GARBAGE)]
    assert events("warn")[:5] == [(NAN, "skip"), *((step, "warn") for step in (*GARBAGE, JOLT + 1))]
    assert rollback == pytest.approx(clean, abs=0.02)
    assert skip == pytest.approx(clean, abs=0.02)
    assert warn > clean + 0.5


@pytest.mark.slow
def test_what_cannot_be_skipped_ends_the_run_before_it_is_saved(in_folder: None):
    with pytest.raises(Diverged, match="10 of the last 1,000 steps were not taken"):
        bits_per_byte("ended", JOLT, guard=("--guard.on_spike=skip",))
    newest = max(Path("runs/ended/checkpoints").glob("step-*.ckpt"))
    assert int(newest.stem.removeprefix("step-")) < JOLT
