"""Which checkpoints a run makes, and which stay."""

import logging
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer

from callbacks import Checkpoints, Interrupted
from callbacks import checkpoints as checkpoints_module
from callbacks.checkpoints import checkpoints_by_step
from llm.checkpoint_io import BackgroundCheckpointIO

BATCHES = [make_batch(2, 8, 16, seed) for seed in range(12)]
BEST = "best.ckpt"


class Scores(L.Callback):
    """Logs a score of our own after each validation."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.scores:
            pl_module.log("score", float(self.scores.pop(0)))


def fit(
    folder: Path,
    callback: Checkpoints,
    *others: L.Callback,
    resume: Path | None = None,
    plain: bool = False,
    **more: Any,
) -> L.Trainer:
    trainer = make_trainer(callbacks=[callback, *others], default_root_dir=folder, enable_checkpointing=True, **more)
    if not plain:
        trainer.strategy.checkpoint_io = BackgroundCheckpointIO()
    data = ListDataModule(BATCHES, BATCHES[:1])
    trainer.fit(make_module(validate_every=4), datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
    return trainer


def steps(folder: Path) -> list[int]:
    for step, path in checkpoints_by_step(folder / "checkpoints").items():
        assert torch.load(path, weights_only=False)["global_step"] == step
    return list(checkpoints_by_step(folder / "checkpoints"))


@pytest.mark.parametrize("plain", [False, True])  # True: with Lightning's own CheckpointIO
@pytest.mark.parametrize(
    ("settings", "scores", "expected", "best"),
    [
        ({}, [3, 2, 1], [8, 12], 12),
        ({}, [1, 2, 3], [4, 8, 12], 4),
        ({"keep_last": 1}, [1, 2, 3], [4, 12], 4),
        ({"mode": "max", "keep_last": 1}, [1, 2, 2], [8, 12], 8),
        ({"every_n_steps": 3, "keep_last": 3}, [2, 3, 1], [6, 9, 12], 12),
        ({"every_n_steps": 5, "keep_last": 1}, [2, 1, 3], [8, 12], 8),
        ({"every_n_steps": 100, "keep_every_n_steps": 5, "keep_last": 1}, [9, 9, 9], [4, 5, 10, 12], 4),
        ({"keep_last": 9}, [float("nan"), 2, 1], [4, 8, 12], 12),
    ],
)
def test_the_newest_the_best_and_those_of_certain_steps_stay(
    tmp_path: Path, settings: dict[str, Any], scores: list[float], expected: list[int], best: int, plain: bool
):
    callback = Checkpoints(monitor="score", **settings)
    fit(tmp_path, callback, Scores(*scores), plain=plain)
    assert steps(tmp_path) == expected
    assert os.readlink(tmp_path / "checkpoints" / BEST) == f"step-{best:08}.ckpt"
    assert Path(callback.best_model_path) == tmp_path / "checkpoints" / BEST
    assert (callback.best_step, callback.best_model_score) == (best, scores[best // 4 - 1])
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_where_links_cannot_be_made_the_best_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_links(*_: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    fit(tmp_path, Checkpoints(monitor="score"), Scores(2, 1, 3))
    best = tmp_path / "checkpoints" / BEST
    assert not best.is_symlink()
    assert torch.load(best, weights_only=True)["global_step"] == 8


def test_a_run_that_was_killed_before_it_pointed_to_its_best_does_so_when_it_goes_on(tmp_path: Path):
    fit(tmp_path, Checkpoints(monitor="score"), Scores(2, 1, 3))
    best = tmp_path / "checkpoints" / BEST
    best.unlink()
    best.symlink_to("step-00000004.ckpt")
    fit(tmp_path, Checkpoints(monitor="score"), resume=tmp_path / "checkpoints" / "step-00000012.ckpt")
    assert os.readlink(best) == "step-00000008.ckpt"


def test_without_validation_each_epoch_is_saved_and_the_end(tmp_path: Path):
    fit(tmp_path, Checkpoints(keep_last=9), limit_val_batches=0, max_epochs=2)
    assert steps(tmp_path) == [12, 24]
    assert not (tmp_path / "checkpoints" / BEST).is_symlink()


class Ends(L.Callback):
    """Ends the run at a batch in one of several ways."""

    def __init__(self, at: int, how: BaseException) -> None:
        self.at, self.how = at, how

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.at:
            raise self.how


def test_a_run_that_was_asked_to_end_is_saved_and_one_that_failed_is_not(tmp_path: Path):
    with pytest.raises(SystemExit):
        fit(tmp_path / "asked", Checkpoints(), Ends(6, Interrupted(15)))
    assert steps(tmp_path / "asked") == [4, 6]
    with pytest.raises(ValueError, match="broken"):
        fit(tmp_path / "failed", Checkpoints(), Ends(6, ValueError("broken")))
    assert steps(tmp_path / "failed") == [4]
    with pytest.raises(SystemExit):
        fit(tmp_path / "typed", Checkpoints(), Ends(6, KeyboardInterrupt()))
    assert steps(tmp_path / "typed") == [4]


def test_a_resumed_run_drops_what_it_cannot_use_and_must_beat_the_best_score(tmp_path: Path):
    fit(tmp_path, Checkpoints(monitor="score", keep_last=3), Scores(1.0, 2.0, 3.0))
    folder = tmp_path / "checkpoints"
    (folder / ".step-00000016.ckpt.partial").write_bytes(b"half")
    (folder / ".step-00000020.ckpt.removed.partial").mkdir()
    shutil.copy(folder / "step-00000012.ckpt", folder / "step-00000099.ckpt")
    callback = Checkpoints(monitor="score", keep_last=3)
    fit(tmp_path, callback, Scores(1.5, 0.5), resume=folder / "step-00000004.ckpt")
    assert steps(tmp_path) == [4, 8, 12]
    assert os.readlink(folder / BEST) == "step-00000012.ckpt"
    assert callback.best_model_score == 0.5
    assert not list(folder.glob(".*"))


def test_a_resumed_run_that_is_asked_to_end_at_once_has_what_it_came_from(tmp_path: Path):
    fit(tmp_path / "one", Checkpoints(keep_last=9))
    start = tmp_path / "one" / "checkpoints" / "step-00000008.ckpt"
    for folder in ("one", "two"):
        with pytest.raises(SystemExit):
            fit(tmp_path / folder, Checkpoints(), Ends(8, Interrupted(15)), resume=start)
    assert steps(tmp_path / "one") == [4, 8]
    assert steps(tmp_path / "two") == [8]  # a run that branched off has its own


def test_too_little_room_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def with_free(n_bytes: float) -> None:
        monkeypatch.setattr(checkpoints_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=n_bytes))

    module = make_module()
    module.configure_model()
    size = 3 * sum(p.nbytes for p in module.parameters())
    with_free(1.9 * size)
    with pytest.raises(
        MisconfigurationException, match=r"a checkpoint takes about .* has room for .*: make room there"
    ):
        fit(tmp_path, Checkpoints())
    assert not (tmp_path / "checkpoints").exists()
    with_free(2.5 * size)
    with caplog.at_level(logging.WARNING, "callbacks"):
        fit(tmp_path, Checkpoints())
    assert "can take" in caplog.text
    assert "keep_last" in caplog.text
    caplog.clear()
    with_free(5 * size)
    with caplog.at_level(logging.WARNING, "callbacks"):
        fit(tmp_path, Checkpoints())
    assert not caplog.text


@pytest.mark.parametrize("slow_at", [4, 8])  # written when the next score is there: an earlier one, the lost one
def test_a_disk_that_is_full_for_a_while_costs_those_checkpoints_alone(
    slow_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    plain = torch.save

    def full_at_8(contents: dict[str, Any], *rest: Any) -> None:
        if contents["global_step"] == slow_at:
            time.sleep(0.5)
        if contents["global_step"] == 8:
            raise OSError(28, "No space left on device")
        plain(contents, *rest)

    monkeypatch.setattr(torch, "save", full_at_8)
    callback = Checkpoints(monitor="score", keep_last=9)
    with caplog.at_level(logging.WARNING, "callbacks"):
        fit(tmp_path, callback, Scores(3.0, 1.0, 2.0))
    assert steps(tmp_path) == [4, 12]
    assert "No space left on device" in caplog.text
    assert os.readlink(tmp_path / "checkpoints" / BEST) == "step-00000012.ckpt"  # 1.0 was never on the disk
    assert callback.best_model_score == 2.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"every_n_steps": 0}, "every_n_steps is 0"),
        ({"keep_every_n_steps": -1}, "-1"),
        ({"keep_last": 0}, "at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str):
    with pytest.raises(MisconfigurationException, match=said):
        Checkpoints(**settings)


def test_a_guard_finds_the_newest_before_a_step(tmp_path: Path):
    callback = Checkpoints(keep_last=9)
    trainer = fit(tmp_path, callback)
    assert callback.newest_good(trainer, 12) == str(tmp_path / "checkpoints" / "step-00000008.ckpt")
    assert callback.newest_good(trainer, 4) is None
