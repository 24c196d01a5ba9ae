"""One bar on a terminal; lines elsewhere."""

import io
from typing import Any

import pytest
from rich.console import Console
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer

from callbacks import Progress, Throughput
from callbacks.progress import readable_seconds


def fit_with(console: Console, **settings: Any) -> str:
    batches = [make_batch(2, 8, 16, seed) for seed in range(12)]
    progress = Progress(seconds_between_lines=0.0, console=console)
    trainer = make_trainer(
        callbacks=[progress, Throughput()], enable_progress_bar=True, log_every_n_steps=1, max_epochs=-1, **settings
    )
    trainer.fit(make_module(max_tokens=8 * 16, validate_every=4), datamodule=ListDataModule(batches, batches[:2]))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_plain_lines_where_there_is_no_terminal():
    text = fit_with(Console(file=io.StringIO(), force_terminal=False, width=200))
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


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (61.4, "1:01"), (3725, "1:02:05")])
def test_readable_seconds(seconds: float, shown: str):
    assert readable_seconds(seconds) == shown
