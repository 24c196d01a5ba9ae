"""One bar on a terminal; lines elsewhere."""

import io
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from rich.console import Console
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer

from callbacks import Progress, Throughput
from callbacks.progress import readable_seconds

BATCHES = [make_batch(2, 8, 16, seed) for seed in range(12)]


class Clock(L.Callback):
    """A second a step."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += 1.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("callbacks.progress.time", clock)
    return clock


def lines_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=200)


def fit_with(console: Console, *callbacks: L.Callback, seconds: float = 0.0, ckpt_path: Any = None) -> str:
    progress = Progress(seconds_between_lines=seconds, console=console)
    trainer = make_trainer(
        callbacks=[*callbacks, progress, Throughput()], enable_progress_bar=True, log_every_n_steps=1, max_epochs=-1
    )
    module = make_module(max_tokens=8 * 16, validate_every=4)
    trainer.fit(module, datamodule=ListDataModule(BATCHES, BATCHES[:2]), ckpt_path=ckpt_path)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_plain_lines_where_there_is_no_terminal():
    text = fit_with(lines_console())
    lines = text.splitlines()
    assert "\x1b" not in text
    assert lines[0].startswith("step 1/8  loss 3.")
    assert any("bits/byte" in line and "tokens/s" in line and "left 0:0" in line for line in lines)
    assert lines[-1].startswith("step 8/8")


def test_a_bar_on_a_terminal():
    text = fit_with(Console(file=io.StringIO(), force_terminal=True, width=160))
    assert "8/8" in text
    assert "bits/byte" in text
    assert "\x1b" in text


def test_lines_come_at_the_first_step_in_intervals_and_after_each_validation(clock: Clock):
    lines = fit_with(lines_console(), clock, seconds=3.0).splitlines()
    assert [line.split("/")[0] for line in lines] == [f"step {step}" for step in (1, 4, 4, 7, 8)]
    assert Progress().console.stderr


def test_the_time_left_of_a_resumed_run_follows_from_its_own_steps(clock: Clock, tmp_path: Path):
    first = make_trainer(max_steps=4)
    first.fit(make_module(), datamodule=ListDataModule(BATCHES))
    first.save_checkpoint(tmp_path / "4.ckpt")
    lines = fit_with(lines_console(), clock, ckpt_path=tmp_path / "4.ckpt").splitlines()
    assert lines[0].startswith("step 5/8")
    assert lines[0].endswith("left 0:03")


def test_ranks_but_the_first_show_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(L.Trainer, "is_global_zero", False)
    assert fit_with(lines_console()) == ""


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (61.4, "1:01"), (3725, "1:02:05")])
def test_readable_seconds(seconds: float, shown: str):
    assert readable_seconds(seconds) == shown
