"""The first Ctrl-C ends training between two steps, the second one at once."""

import contextlib
import csv
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer

from callbacks import InterruptBetweenSteps
from llm.run import MetricsFile

BATCHES = [make_batch(2, 8, 16, seed) for seed in range(8)]


@pytest.fixture(autouse=True)
def _sigint_as_before() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class CtrlC(L.Callback):
    """Pressed so many times in the third batch of training, or in the first one of validation."""

    def __init__(self, times: int = 0, in_validation: bool = False) -> None:
        self.times, self.in_validation = times, in_validation
        self.validated = 0

    def on_before_backward(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 2 and not self.in_validation:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)

    def on_validation_batch_end(self, *_: Any) -> None:
        self.validated += 1
        if self.in_validation:
            signal.raise_signal(signal.SIGINT)


def fit(*callbacks: L.Callback, ckpt_path: Path | None = None, **settings: Any) -> L.Trainer:
    trainer = make_trainer(callbacks=[InterruptBetweenSteps(), *callbacks], **settings)
    data = ListDataModule(BATCHES, BATCHES[:3])
    with contextlib.suppress(SystemExit):
        trainer.fit(make_module(validate_every=4), datamodule=data, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize(("times", "steps"), [(0, 8), (1, 3), (2, 2)])
def test_the_first_one_lets_the_step_end_and_the_second_does_not(times: int, steps: int):
    assert fit(CtrlC(times)).global_step == steps


def test_validation_ends_between_two_batches_and_gives_no_score():
    pressed = CtrlC(in_validation=True)
    trainer = fit(pressed)
    assert (trainer.global_step, pressed.validated) == (4, 1)
    assert "val_bpb" not in trainer.callback_metrics


@pytest.mark.parametrize(("times", "in_validation", "reached"), [(1, False, 3), (2, False, 2), (1, True, 4)])
def test_a_resumed_run_logs_on_from_the_step_that_was_reached(
    times: int, in_validation: bool, reached: int, tmp_path: Path
):
    fit(CtrlC(times, in_validation)).save_checkpoint(tmp_path / "last.ckpt")
    fit(ckpt_path=tmp_path / "last.ckpt", logger=MetricsFile(str(tmp_path)), log_every_n_steps=1)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train_loss"]]
    assert steps == list(range(reached, 8))


def test_ctrl_c_is_what_it_was_after_training():
    fit()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
