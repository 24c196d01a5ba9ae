"""The first signal ends training between two steps, on all ranks, and a second one at once."""

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from support.command_line import ROOT, environment
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer
from torch.utils.data import DataLoader

from callbacks import Interruption
from callbacks.interruption import SAME
from datamodules.tokens.batches import make_loader
from llm.metrics_file import MetricsFile

BATCHES = [make_batch(2, 8, 16, seed) for seed in range(8)]


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Signal(L.Callback):
    """Sent in the third batch of training, or in the first one of validation."""

    def __init__(self, number: signal.Signals, in_validation: bool = False) -> None:
        self.number, self.in_validation = number, in_validation
        self.validated = 0

    def on_before_backward(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 2 and not self.in_validation:
            signal.raise_signal(self.number)

    def on_validation_batch_end(self, *_: Any) -> None:
        self.validated += 1
        if self.in_validation:
            signal.raise_signal(self.number)


def fit(
    *callbacks: L.Callback, ckpt_path: Path | None = None, data: ListDataModule | None = None, **settings: Any
) -> tuple[L.Trainer, Interruption]:
    interruption = Interruption()
    trainer = make_trainer(callbacks=[interruption, *callbacks], **settings)
    data = data or ListDataModule(BATCHES, BATCHES[:3])
    try:
        trainer.fit(make_module(validate_every=4), datamodule=data, ckpt_path=ckpt_path)
    except SystemExit:
        assert interruption.received
    return trainer, interruption


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143), (None, 128)]
)
def test_a_signal_lets_the_step_end(number: signal.Signals | None, code: int, capfd: pytest.CaptureFixture[str]):
    trainer, interruption = fit(*([Signal(number)] if number else []))
    assert trainer.global_step == (3 if number else 8)
    assert (interruption.received, interruption.exit_code) == (number or 0, code)
    told = f"{number.name}: ending after this batch; a second one ends at once\n" if number else ""
    assert told in capfd.readouterr().err


def test_validation_ends_between_two_batches_and_gives_no_score():
    sent = Signal(signal.SIGTERM, in_validation=True)
    trainer, _ = fit(sent)
    assert (trainer.global_step, sent.validated) == (4, 1)
    assert "val_bpb" not in trainer.callback_metrics


@pytest.mark.parametrize(("in_validation", "reached"), [(False, 3), (True, 4)])
def test_a_resumed_run_logs_on_from_the_step_that_was_reached(in_validation: bool, reached: int, tmp_path: Path):
    fit(Signal(signal.SIGINT, in_validation))[0].save_checkpoint(tmp_path / "last.ckpt")
    fit(ckpt_path=tmp_path / "last.ckpt", logger=MetricsFile(str(tmp_path)), log_every_n_steps=1)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train_loss"]] == list(range(reached, 8))
    if in_validation:  # which was cut short, and is done again under the step that it followed
        assert [int(row["step"]) for row in rows if row["val_loss"]] == [3, 7]


def test_the_last_validation_is_let_end():
    class InTheLast(Signal):
        def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            self.validated += 1
            if trainer.global_step == 8 and self.validated == 4:
                signal.raise_signal(signal.SIGTERM)

    sent = InTheLast(signal.SIGTERM, in_validation=True)
    trainer, interruption = fit(sent)
    assert (trainer.global_step, sent.validated, interruption.received) == (8, 6, 0)


def test_signals_are_what_they_were_after_training():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    for callbacks in ([], [Signal(signal.SIGTERM)]):
        fit(*callbacks)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


class WithWorkers(ListDataModule):
    """Its batches come from forked processes, which share what was open when they were made."""

    def train_dataloader(self) -> DataLoader[Any]:
        return make_loader(self.train, 2, batch_size=None)


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_loader_with_workers_ends(number: signal.Signals | None, capfd: pytest.CaptureFixture[str]):
    class ToAll(L.Callback):
        """As a terminal does: to the process and to those that it forked."""

        def on_before_backward(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 2 and number is not None:
                for child in multiprocessing.active_children():
                    os.kill(child.pid or 0, number)
                time.sleep(SAME + 0.1)  # by which one of theirs would count as a second one
                signal.raise_signal(number)

    trainer, _ = fit(ToAll(), data=WithWorkers(BATCHES, BATCHES[:3]))
    assert trainer.global_step == (3 if number else 8)
    assert capfd.readouterr().err.count("ending after this batch") == (number is not None)


HANGING = """
import sys, threading, time
import lightning as L
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer
from callbacks import Interruption

class Hangs(L.Callback):
    def on_before_backward(self, *_):
        print("hangs", flush=True)
        lock = threading.Lock()
        lock.acquire()
        if sys.argv[1] == "in a lock":
            lock.acquire()
        while True:
            time.sleep(0.01)

batches = [make_batch(2, 8, 16, 0)]
make_trainer(callbacks=[Interruption(), Hangs()]).fit(make_module(), datamodule=ListDataModule(batches, batches))
"""


@pytest.mark.parametrize("where", ["in a lock", "in Python"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_at_once_also_where_python_is_stuck(where: str, number: signal.Signals, code: int):
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, where],
        env={**environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "hangs\n"
    process.send_signal(signal.SIGUSR1)  # which warns of the end, and is not counted
    for _ in range(2):  # these two are one, as from a terminal and a launcher
        process.send_signal(number)
        time.sleep(0.2)
    time.sleep(1.0)
    assert process.poll() is None
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == code
    assert error.endswith(f"{number.name} again: ending at once\n")
