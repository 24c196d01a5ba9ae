"""Reported rates agree with an outer clock, and count training only (B29)."""

import time
from typing import Any

import lightning as L
import pytest
import torch
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer

from callbacks import Throughput
from callbacks.throughput import matmul_peak

STEP_SECONDS = 0.02


class Slow(L.Callback):
    """Makes each step last a known time, and validation much longer."""

    def __init__(self) -> None:
        self.started = self.ended = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = self.started or time.perf_counter()
        time.sleep(STEP_SECONDS)

    def on_train_batch_end(self, *_: Any) -> None:
        self.ended = time.perf_counter()

    def on_validation_batch_start(self, *_: Any) -> None:
        time.sleep(0.2)


def test_tokens_per_second_agrees_with_an_outer_clock_and_leaves_validation_out():
    batches = [make_batch(2, 8, 16, seed) for seed in range(30)]
    throughput, slow = Throughput(), Slow()
    trainer = make_trainer(callbacks=[throughput, slow], log_every_n_steps=10)
    trainer.fit(make_module(validate_every=10), datamodule=ListDataModule(batches, batches[:2]))
    outside = slow.ended - slow.started - 2 * 2 * 0.2  # two of the three validations lie between first and last batch
    assert throughput.tokens == 30 * 16
    assert throughput.seconds == pytest.approx(outside, rel=0.25)
    assert throughput.seconds >= 30 * STEP_SECONDS
    assert throughput.tokens_per_second == pytest.approx(30 * 16 / throughput.seconds)
    assert float(trainer.callback_metrics["tokens_per_second"]) <= 16 / STEP_SECONDS


def test_mfu_is_flops_over_the_measured_peak_and_none_without_one():
    throughput, module = Throughput(), make_module()
    assert throughput.mfu(module, 1000.0) is None
    throughput._peak = 1e9
    assert throughput.mfu(module, 1000.0) == pytest.approx(1000.0 * module.flops_per_token / 1e9)
    assert throughput.mfu(L.LightningModule(), 1000.0) is None


def test_the_measured_peak_is_of_a_plausible_size():
    assert 1e8 < matmul_peak(torch.device("cpu"), size=256) < 1e14


def test_excluded_time_is_left_out():
    throughput = Throughput()
    throughput.seconds = 10.0
    throughput.exclude(4.0)
    assert throughput.seconds == 6.0
