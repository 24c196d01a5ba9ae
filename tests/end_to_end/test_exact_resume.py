"""A run that was stopped anywhere and resumed leaves what the uninterrupted one leaves: weights, log and best score."""

import csv
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from support.command_line import TINY, write_texts

from callbacks import Interrupted
from llm.cli import LabyrinthCLI

# 3 epochs of 9 steps, with a rest; 2 micro-batches a step; validated every 4 steps.
RUN = [
    *TINY,
    "--data.context_length=64",
    "--data.global_batch_tokens=2048",
    "--data.batch_size=16",
    "--model.max_tokens=57344",
    "--model.validate_every=4",
    "--model.optimizer=muon",
    "--model.gpt.dropout=0.2",
    "--samples.prompts=[Ab]",
    "--samples.every_n_steps=5",
    "--trainer.enable_progress_bar=false",
]
STEPS = 28
OF_TIME = ("tokens_per_second", "mfu", "data_wait")


class StopsAt(L.Callback):
    """Asked to end before the batches of these numbers, counted over the whole run."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            raise Interrupted(15)


def fit(name: str, *flags: str, stop_at: int | None = None, callback: L.Callback | None = None) -> LabyrinthCLI:
    class Stopped(LabyrinthCLI):
        def before_fit(self) -> None:
            if stop_at is not None:
                self.trainer.callbacks.insert(0, StopsAt(stop_at))
            if callback is not None:
                self.trainer.callbacks.insert(0, callback)

    return Stopped(["fit", *RUN, f"--name={name}", *flags])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resumed")
    write_texts(folder)
    os.chdir(folder)
    sys.argv = ["llm"]
    fit("whole")
    return folder


def left(name: str) -> tuple[list[dict[str, str]], dict[str, Any], str]:
    """Rows of the log without those of time, the last checkpoint, and the samples."""
    run = Path("runs") / name
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{key: value for key, value in row.items() if key not in OF_TIME} for row in csv.DictReader(file)]
    rows = [row for row in rows if any(value for key, value in row.items() if key not in ("step", "epoch"))]
    checkpoint = torch.load(run / f"checkpoints/step-{STEPS:08}.ckpt", weights_only=True)
    return rows, checkpoint, (run / "samples.txt").read_text()


def identical(one: Any, other: Any) -> bool:
    """Bit for bit, tensors within dicts and lists included."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(identical, one, other))
    return bool(one == other)


def demand_same(name: str) -> None:
    (rows, checkpoint, samples), (my_rows, mine, my_samples) = left("whole"), left(name)
    assert [row["step"] for row in my_rows] == [row["step"] for row in rows]
    assert my_rows == rows
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "labyrinth"):
        assert identical(mine[key], checkpoint[key]), key
    assert identical(mine["callbacks"]["Guard"], checkpoint["callbacks"]["Guard"])
    ours, best = (Path(f"runs/{run}/checkpoints/best.ckpt") for run in (name, "whole"))
    assert os.readlink(ours) == os.readlink(best)
    last = samples.split("===")[-1]
    assert my_samples.endswith(last)


def test_the_uninterrupted_run(folder: Path):
    rows, _, _ = left("whole")
    assert [int(row["step"]) for row in rows if row["train_loss"]] == list(range(STEPS))
    assert [int(row["step"]) + 1 for row in rows if row["val_bpb"]] == [4, 8, 12, 16, 20, 24, 28]


# In the first batch, within an accumulation, after a step, at and around a validation, at and around an epoch's end.
@pytest.mark.parametrize(
    "batch", [1, 8, 54, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 6, 7, 9, 10, 17, 18, 19, 37, 55))]
)
def test_stopped_before_a_batch(folder: Path, batch: int):
    name = f"stopped-{batch}"
    fit(name, stop_at=batch)
    resumed = fit(name, "--ckpt_path=last")
    assert resumed.run_folder == Path("runs") / name
    demand_same(name)


class InValidation(L.Callback):
    """Sent as the validation after these steps begins."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
def test_stopped_in_validations(folder: Path):
    for step in (4, 20):
        cli = fit("validating", *(["--ckpt_path=last"] if step > 4 else []), callback=InValidation(step))
        assert cli.exit_code == 143
    fit("validating", "--ckpt_path=last")
    demand_same("validating")


@pytest.mark.slow
def test_stopped_again_and_again(folder: Path):
    fit("often", stop_at=3)
    for batch in (11, 12, 16, 29, 36, 44):
        fit("often", "--ckpt_path=last", stop_at=batch)
    fit("often", "--ckpt_path=last")
    demand_same("often")


@pytest.mark.slow
def test_gone_back_to_an_earlier_checkpoint(folder: Path):
    """As after a kill: the run has logged and saved more than the checkpoint knows."""
    fit("killed", "--checkpoints.every_n_steps=3", stop_at=43)
    for path in sorted(Path("runs/killed/checkpoints").glob("step-*"))[-1:]:
        path.unlink()
    fit("killed", "--ckpt_path=last", "--checkpoints.every_n_steps=3")
    demand_same("killed")
    shutil.rmtree("runs/killed")
