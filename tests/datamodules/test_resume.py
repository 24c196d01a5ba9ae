"""A run that was stopped anywhere and resumed equals the run that was not: rows of each step, and final weights."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import PretrainDataModule

SCRIPT = Path(__file__).with_name("recorded_fit.py")
STEPS = 14
Result = tuple[dict[int, list[str]], torch.Tensor]


def load_fit() -> Callable[..., Result]:
    spec = importlib.util.spec_from_file_location("recorded_fit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fit


fit = load_fit()


@pytest.fixture
def data(tmp_path: Path, texts: Path) -> dict[str, Any]:
    """Options of a data module with 9 steps an epoch, of 4 micro-batches each."""
    options = {
        "sources": [str(texts)],
        "validation_fraction": 0.1,
        "vocab_size": 280,
        "context_length": 84,
        "batch_size": 16,
        "global_batch_tokens": 84 * 64,
        "cache_dir": str(tmp_path / "cache"),
    }
    module = PretrainDataModule(**options)
    module.prepare()
    assert (module.steps_per_epoch, module.micro_steps) == (9, 4)
    return options


def same(one: Result, other: Result) -> None:
    assert sorted(one[0]) == sorted(other[0])
    for step in one[0]:
        assert sorted(one[0][step]) == sorted(other[0][step]), step
    assert torch.allclose(one[1], other[1], rtol=0, atol=1e-12)


def joined(before: Result, after: Result) -> Result:
    """The steps of a stopped and a resumed run; the rows of a step that was not finished come again."""
    first = min(after[0])
    return {step: rows for step, rows in before[0].items() if step < first} | after[0], after[1]


LIMITS = {"by steps": {"max_steps": STEPS, "max_epochs": -1}, "by epochs": {"max_epochs": 2}}
# Epochs have 36 batches: within an epoch after a step, within an accumulation, at and around the end of an epoch.
PLACES = [3, 8, 35, 36, 45]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(
    ("validation", "during"),
    [({}, False), ({"limit_val_batches": 0}, False), ({"val_check_interval": 12}, False), ({}, True)],
)
def test_stopped_and_resumed(
    tmp_path: Path, data: dict[str, Any], limit: str, validation: dict[str, Any], during: bool
) -> None:
    options = LIMITS[limit] | {"num_sanity_val_steps": 0, "devices": 1} | validation
    whole = fit(data, options)
    assert len(whole[0]) == (STEPS if limit == "by steps" else 18)
    for place in PLACES:
        checkpoint = str(tmp_path / f"{place}.ckpt")
        before = fit(data, options, stop_after=place, during=during, checkpoint=checkpoint)
        after = fit(data, options, checkpoint=checkpoint, resume=True)
        assert min(after[0]) == place // 4
        same(joined(before, after), whole)


@pytest.mark.parametrize("place", [10, 36, 40])
def test_stopped_and_resumed_with_workers(tmp_path: Path, data: dict[str, Any], place: int) -> None:
    options = LIMITS["by steps"] | {"limit_val_batches": 0, "devices": 1}
    whole = fit(data, options)
    checkpoint = str(tmp_path / "a.ckpt")
    before = fit(data | {"num_workers": 2}, options, stop_after=place, checkpoint=checkpoint)
    after = fit(data | {"num_workers": 2}, options, checkpoint=checkpoint, resume=True)
    same(joined(before, after), whole)


@pytest.mark.parametrize(
    ("sizes", "limit"),
    [((16, 32), "by steps"), ((16, 8), "by steps"), ((8, 64), "by steps"), ((16, 64), "by epochs")],
)
def test_resumed_with_another_micro_batch(
    tmp_path: Path, data: dict[str, Any], sizes: tuple[int, int], limit: str
) -> None:
    options = LIMITS[limit] | {"devices": 1}
    whole = fit(data, options)
    for place in (2, 8, 35, 44):
        checkpoint = str(tmp_path / f"{place}.ckpt")
        before = fit(data | {"batch_size": sizes[0]}, options, stop_after=place, checkpoint=checkpoint)
        after = fit(data | {"batch_size": sizes[1]}, options, checkpoint=checkpoint, resume=True)
        same(joined(before, after), whole)


def test_resumed_twice(tmp_path: Path, data: dict[str, Any]) -> None:
    options = LIMITS["by steps"] | {"devices": 1}
    whole = fit(data, options)
    checkpoint = str(tmp_path / "a.ckpt")
    first = fit(data, options, stop_after=7, checkpoint=checkpoint)
    second = fit(data, options, stop_after=42, checkpoint=checkpoint, resume=True)
    third = fit(data, options, checkpoint=checkpoint, resume=True)
    same(joined(joined(first, second), third), whole)


def test_a_fresh_fit_after_a_checkpoint_was_looked_at_starts_anew(tmp_path: Path, data: dict[str, Any]) -> None:
    from lightning.pytorch import Trainer

    options = LIMITS["by steps"] | {"devices": 1}
    checkpoint = str(tmp_path / "a.ckpt")
    fit(data, options, stop_after=8, checkpoint=checkpoint)
    module = PretrainDataModule(**data)
    recorder = fit.__globals__["Recorder"](module.vocab_size)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(accelerator="cpu", devices=1, max_steps=1, max_epochs=-1, **quiet)
    trainer.validate(recorder, datamodule=module, ckpt_path=checkpoint, verbose=False, weights_only=True)
    trainer.fit(recorder, datamodule=module)
    assert sorted(recorder.steps[0]) == sorted(fit(data, options)[0][0])


def ranks(tmp_path: Path, data: dict[str, Any], n_ranks: int, **options: Any) -> Result:
    """Fit in a job of `n_ranks` processes over gloo."""
    trainer = LIMITS["by steps"] | {"devices": n_ranks, "limit_val_batches": 1}
    if n_ranks > 1:
        trainer["strategy"] = "ddp"
    path = tmp_path / "options.json"
    path.write_text(json.dumps({"data": data, "trainer": trainer, "out": str(tmp_path / "out")} | options))
    for old in tmp_path.glob("out-*.pt"):
        old.unlink()
    done = subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True, timeout=120)
    found = [
        torch.load(tmp_path / f"out-{rank}.pt") for rank in range(n_ranks) if (tmp_path / f"out-{rank}.pt").exists()
    ]
    assert found, done.stderr
    steps: dict[int, list[str]] = {}
    for rank in found:
        for step, rows in rank["steps"].items():
            steps.setdefault(step, []).extend(rows)
    return steps, found[0]["table"]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second", "num_workers"), [(1, 2, 0), (2, 1, 0), (2, 2, 2)])
def test_stopped_and_resumed_on_other_ranks(
    tmp_path: Path, data: dict[str, Any], first: int, second: int, num_workers: int
) -> None:
    whole = fit(data, LIMITS["by steps"] | {"devices": 1, "limit_val_batches": 0})
    loading = data | {"num_workers": num_workers}
    checkpoint = str(tmp_path / "a.ckpt")
    stop = {1: 22, 2: 11}[first]  # in the middle of the accumulation of step 5
    ranks(tmp_path, loading, first, stop_after=stop, checkpoint=checkpoint)
    after = ranks(tmp_path, loading, second, checkpoint=checkpoint, resume=True)
    assert min(after[0]) == 5
    same(joined(whole, after), whole)


@pytest.mark.slow
def test_two_ranks_see_what_one_sees(tmp_path: Path, data: dict[str, Any]) -> None:
    whole = fit(data, LIMITS["by steps"] | {"devices": 1, "limit_val_batches": 0})
    same(ranks(tmp_path, data, 2), whole)
