"""Reported rates agree with an outer clock, and count training only (B29)."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer

from callbacks import TextSamples, Throughput
from callbacks.throughput import matmul_peak

STEP_SECONDS, VALIDATION_SECONDS = 0.5, 60.0


class Clock(L.Callback):
    """A clock that moves only by what each step and each validation is said to last, and their own sum beside it.

    From batch 20 on a step lasts twice as long.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.training = 0.0

    def perf_counter(self) -> float:
        return self.now

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        seconds = STEP_SECONDS * (2 if batch_idx >= 20 else 1)
        self.now += seconds
        self.training += seconds

    def on_validation_batch_start(self, *_: Any) -> None:
        self.now += VALIDATION_SECONDS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("callbacks.throughput.time", clock)
    monkeypatch.setattr("callbacks.samples.time", clock)
    monkeypatch.setattr("callbacks.throughput.matmul_peak", lambda device: 1e9)
    return clock


@pytest.mark.parametrize("devices", [1, 2])
def test_tokens_per_second_agree_with_an_outer_clock_and_leave_validation_out(
    clock: Clock, devices: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(L.Trainer, "world_size", devices)
    throughput = Throughput()
    throughput.tokens, throughput.seconds = 7, 7.0  # of an earlier run
    batches = [make_batch(2, 8, 16, seed) for seed in range(30)]
    trainer = make_trainer(callbacks=[throughput, clock], log_every_n_steps=10)
    trainer.fit(make_module(validate_every=10), datamodule=ListDataModule(batches, batches[:2]))
    assert throughput.tokens == 30 * 16 * devices
    assert throughput.seconds == pytest.approx(clock.training)
    assert throughput.tokens_per_second == pytest.approx(30 * 16 * devices / clock.training)
    last_ten = 16 * devices / (2 * STEP_SECONDS)
    assert float(trainer.callback_metrics["tokens_per_second"]) == pytest.approx(last_ten)
    assert throughput._peak == 1e9 * devices


def test_mfu_is_flops_over_the_measured_peak_and_none_without_one():
    throughput, module = Throughput(), make_module()
    assert throughput.mfu(module, 1000.0) is None
    throughput._peak = 1e9
    assert throughput.mfu(module, 1000.0) == pytest.approx(1000.0 * module.flops_per_token / 1e9)
    assert throughput.mfu(L.LightningModule(), 1000.0) is None


def test_the_measured_peak_is_of_a_plausible_size():
    assert 1e8 < matmul_peak(torch.device("cpu"), size=256) < 1e14


def test_the_time_of_samples_is_left_out(clock: Clock, tmp_path: Path):
    def write(prompt: str, **_: Any) -> str:
        clock.now += VALIDATION_SECONDS
        return ""

    throughput, module = Throughput(), make_module()
    module.continue_text = write  # type: ignore[method-assign]
    callbacks = [TextSamples(["a"], every_n_steps=2), throughput, clock]
    trainer = make_trainer(callbacks=callbacks, default_root_dir=str(tmp_path))
    trainer.fit(module, datamodule=ListDataModule([make_batch(2, 8, 16, seed) for seed in range(5)]))
    assert throughput.seconds == pytest.approx(clock.training)
