"""Bad steps are kept out of a run, and the run goes on as it should."""

import csv
import json
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from support.command_line import TINY, assert_one_sentence, llm, write_texts
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer

from callbacks import Diverged, Guard, Interrupted
from callbacks.records import Records
from llm.cli import LabyrinthCLI

QUIET = ["--trainer.enable_progress_bar=false", "--checkpoints.every_n_steps=4", "--model.optimizer=muon"]
BATCHES = [make_batch(2, 8, 16, seed) for seed in range(60)]


class Spoil(L.Callback):
    """Does something to the gradients of certain steps, each once or whenever it comes."""

    def __init__(self, steps: set[int], how: Callable[[torch.Tensor], Any], once: bool = False) -> None:
        self.steps, self.how, self.once = set(steps), how, once

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        step = trainer.global_step
        if step in self.steps:
            self.how(next(module.parameters()).grad)
            self.steps -= {step} if self.once else set()


def nan(gradient: torch.Tensor) -> None:
    gradient.view(-1)[0] = math.nan


class Weights(L.Callback):
    """Keeps weights, optimizer and rate after each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[torch.Tensor], list[torch.Tensor], float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        moments = [s["exp_avg"].clone() for s in trainer.optimizers[0].state.values() if "exp_avg" in s]
        weights = [p.detach().clone() for p in module.parameters()]
        self.seen.append((weights, moments, trainer.optimizers[0].param_groups[0]["lr"]))


def fit_small(folder: Path, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    data = ListDataModule(BATCHES)
    trainer = make_trainer(callbacks=list(callbacks), default_root_dir=folder, **settings)
    trainer.fit(make_module(), datamodule=data)
    return trainer


def events(folder: Path) -> list[dict[str, Any]]:
    return Records(folder / "events.jsonl").read()


# ---- one process, a small model ---------------------------------------------------------------------------------


def test_a_skipped_step_leaves_weights_and_moments_and_the_schedule_goes_on(tmp_path: Path):
    watch = Weights()
    trainer = fit_small(tmp_path, Spoil({5}, nan), Guard(), watch)
    before, after, later = watch.seen[4], watch.seen[5], watch.seen[6]
    for one, other in zip(before[0] + before[1], after[0] + after[1], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(after[0][0], later[0][0])
    assert after[2] != before[2]
    assert trainer.global_step == len(BATCHES)
    (event,) = events(tmp_path)
    assert event["step"] == 5
    assert (event["kind"], event["action"], event["norm"]) == ("not finite", "skip", "nan")
    assert event["loss"] > 0


@pytest.mark.parametrize(("on_spike", "taken"), [("warn", True), ("skip", False), ("none", True)])
def test_a_spike_of_the_gradients_is_met_as_it_was_set(
    tmp_path: Path, on_spike: Any, taken: bool, caplog: pytest.LogCaptureFixture
):
    watch = Weights()
    with caplog.at_level(logging.WARNING, "callbacks"):
        fit_small(tmp_path, Spoil({45}, lambda g: g.mul_(1e3)), Guard(on_spike=on_spike), watch)
    assert torch.equal(watch.seen[44][0][0], watch.seen[45][0][0]) is not taken
    found = [(event["step"], event["kind"], event["action"]) for event in events(tmp_path)]
    assert found == ([] if on_spike == "none" else [(45, "norm spike", on_spike)])
    assert ("step 45: norm spike" in caplog.text) is (on_spike != "none")


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path):
    fit_small(tmp_path, Spoil({5}, nan), Guard(on_nonfinite="rollback"))
    assert [event["action"] for event in events(tmp_path)] == ["skip"]


def test_a_full_disk_costs_the_line_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "events.jsonl").mkdir()  # which cannot be written to
    with caplog.at_level(logging.WARNING, "callbacks"):
        trainer = fit_small(tmp_path, Spoil({5}, nan), Guard())
    assert trainer.global_step == len(BATCHES)
    assert "a line could not be written (Is a directory); training goes on" in caplog.text


def test_too_many_events_end_the_run(tmp_path: Path):
    with pytest.raises(Diverged, match=r"^step 12: .*not finite.*; 3 of the last 1,000 steps were not taken"):
        fit_small(tmp_path, Spoil({3, 7, 12, 14}, nan), Guard(max_events=3))
    assert [event["step"] for event in events(tmp_path)] == [3, 7, 12]


def test_events_long_ago_do_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("callbacks.guard.SPAN", 10)
    fit_small(tmp_path, Spoil({3, 7, 13, 20, 26, 40}, nan), Guard(max_events=3))
    assert len(events(tmp_path)) == 6


def test_warnings_end_no_run(tmp_path: Path):
    fit_small(tmp_path, Spoil({45, 48, 51}, lambda g: g.mul_(1e3)), Guard(max_events=2))
    assert [event["action"] for event in events(tmp_path)] == ["warn"] * 3


class Overflows(Spoil):
    """As a scale that is too large does: the scaler must find the infinities when it takes its scale off."""

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.global_step in self.steps:
            next(module.parameters()).grad.view(-1)[0] = math.inf

    def on_before_optimizer_step(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(("steps", "found"), [(range(12), []), (range(20, 46), [44, 45])])
def test_a_scaler_that_searches_its_scale_is_no_event(tmp_path: Path, steps: range, found: list[int]):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    plugin = MixedPrecision("bf16-mixed", "cpu")
    plugin.scaler = scaler
    watch = Weights()
    fit_small(tmp_path, Overflows(set(steps), nan), Guard(), watch, plugins=[plugin])
    assert [event["step"] for event in events(tmp_path)] == found
    assert scaler.get_scale() <= 2.0 ** (30 - len(steps))
    last = steps[-1]
    assert torch.equal(watch.seen[last - 1][0][0], watch.seen[last][0][0])
    assert not torch.equal(watch.seen[last][0][0], watch.seen[last + 1][0][0])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"threshold": 0}, "guard.threshold is 0: it is a number above 0"),
        ({"threshold": math.nan}, "guard.threshold is nan: it is a number above 0"),
        ({"window": 0}, "guard.window is 0: it can be 1 or more"),
        ({"max_events": -1}, "guard.max_events is -1: it can be 1 or more"),
        ({"on_spike": "ignore"}, "guard.on_spike is 'ignore': it can be warn, skip, rollback, none"),
        ({"on_nonfinite": "warn"}, "guard.on_nonfinite is 'warn': it can be skip, rollback, stop"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], sentence: str):
    with pytest.raises(MisconfigurationException, match=sentence):
        Guard(**settings)


def test_a_line_that_was_cut_off_is_none_and_the_rest_stays(tmp_path: Path):
    records = Records(tmp_path / "events.jsonl")
    for step in (1, 2, 3, 4):
        records.append({"step": step, "action": "rollback" if step == 4 else "skip", "loss": math.inf})
    with records.path.open("a") as file:
        file.write('{"step": 5, "acti')
    assert [record["step"] for record in records.read()] == [1, 2, 3, 4]
    records.rewind(2, keep=lambda record: record["action"] == "rollback")
    assert [json.loads(line)["step"] for line in records.path.read_text().splitlines()] == [1, 4]
    assert records.read()[0]["loss"] == "inf"


# ---- whole runs ---------------------------------------------------------------------------------------------------


class StopsAt(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Interrupted(15)


def fit(
    name: str, *flags: str, spoil: dict[int, Any] | None = None, once: bool = False, stop: int | None = None
) -> Any:
    class Spoiled(LabyrinthCLI):
        def before_fit(self) -> None:
            for step, how in (spoil or {}).items():
                self.trainer.callbacks.insert(0, Spoil({step}, how, once))
            if stop is not None:
                self.trainer.callbacks.insert(0, StopsAt(stop))

    return Spoiled(["fit", *TINY, *QUIET, f"--name={name}", *flags])


def rows(name: str) -> list[dict[str, str]]:
    of_time = ("tokens_per_second", "mfu", "data_wait")
    with Path(f"runs/{name}/metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in of_time} for row in csv.DictReader(file)]


def state(name: str) -> dict[str, Any]:
    return torch.load(f"runs/{name}/checkpoints/step-00000032.ckpt", weights_only=True)


def demand_same(name: str, other: str, log: bool = True) -> None:
    mine, its = state(name), state(other)
    for key, weight in its["state_dict"].items():
        assert torch.equal(mine["state_dict"][key], weight), key
    assert str(mine["optimizer_states"]) == str(its["optimizer_states"])
    assert mine["lr_schedulers"] == its["lr_schedulers"]
    if not log:
        return
    written = [[row for row in rows(run) if row["train_loss"] or row["val_bpb"]] for run in (name, other)]
    assert str(written[0]) == str(written[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guarded")
    write_texts(folder)
    before, arguments = os.getcwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["llm"]
    fit("clean")
    fit("skipped", spoil={14: nan})
    yield folder
    os.chdir(before)
    sys.argv = arguments


def test_the_samples_of_an_event_are_those_of_its_step(folder: Path):
    (event,) = events(Path("runs/skipped"))
    assert len(event["samples"]) == 8
    made = fit("asked", "--model.max_tokens=256")
    assert event["samples"] == made.datamodule.rows_of_step(14).tolist()
    assert sorted(event["samples"]) != sorted(made.datamodule.rows_of_step(13).tolist())
    order = made.datamodule._order()
    assert made.datamodule.rows_of_step(100).tolist() == order(torch.arange(800, 808).numpy()).tolist()


def test_a_run_that_went_back_equals_one_that_skipped(folder: Path):
    """Nothing but that step differs: it goes back in weights, optimizer, schedule, random numbers, data and log."""
    fit("back", "--guard.on_nonfinite=rollback", spoil={14: nan})
    (event,) = events(Path("runs/back"))
    assert (event["step"], event["action"]) == (14, "rollback")
    assert event["checkpoint"].endswith("step-00000012.ckpt")
    demand_same("back", "skipped")
    assert [int(row["step"]) for row in rows("back") if row["train_loss"]] == list(range(32))
    with pytest.raises(AssertionError):
        demand_same("back", "clean")


class Jolt(L.Callback):
    """Spoils the weights after a step that looked well, once."""

    def __init__(self, before: int) -> None:
        self.before: int | None = before

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.before:
            self.before = None
            with torch.no_grad():
                next(module.parameters()).fill_(math.nan)


@pytest.mark.parametrize("step", [14, 16])  # at 16 a checkpoint is saved that has the harm in it
def test_harm_that_was_done_is_undone(folder: Path, step: int):
    """What comes after shows it; the run goes back before it, and not only before the step that showed it."""

    class Jolted(LabyrinthCLI):
        def before_fit(self) -> None:
            self.trainer.callbacks.append(Jolt(step))

    Jolted(["fit", *TINY, *QUIET, f"--name=jolted-{step}", "--guard.on_nonfinite=rollback"])
    (event,) = events(Path(f"runs/jolted-{step}"))
    assert event["step"] == step
    assert event["checkpoint"].endswith("step-00000012.ckpt")
    fit(f"skipped-{step}", spoil={step: nan})
    demand_same(f"jolted-{step}", f"skipped-{step}", log=False)  # whose gradients of that step were not numbers


@pytest.mark.parametrize("stop", [13, 15, 21])
def test_a_resumed_run_passes_over_the_same_samples(folder: Path, stop: int):
    name, flags = f"stopped-{stop}", ["--guard.on_nonfinite=rollback"]
    fit(name, *flags, spoil={14: nan}, stop=stop)
    fit(name, *flags, "--ckpt_path=last", spoil={14: nan} if stop < 14 else None)
    assert [event["step"] for event in events(Path(f"runs/{name}"))] == [14]
    demand_same(name, "skipped")


def test_a_run_killed_after_it_went_back_knows_it(folder: Path):
    """The checkpoint that it goes on from is from before the event; the line of the event is not."""
    flags = ["--guard.on_nonfinite=rollback"]
    fit("killed", *flags, spoil={14: nan}, stop=20)
    for path in sorted(Path("runs/killed/checkpoints").glob("step-*"))[1:]:
        path.unlink()
    fit("killed", *flags, "--ckpt_path=last")
    assert [event["step"] for event in events(Path("runs/killed"))] == [14]
    demand_same("killed", "skipped")


def test_the_state_of_the_guard_is_that_of_the_uninterrupted_run(folder: Path):
    fit("halves", spoil={14: nan}, stop=20)
    fit("halves", "--ckpt_path=last")
    mine, its = (state(name)["callbacks"]["Guard"] for name in ("halves", "skipped"))
    assert mine == its
    assert its["not_taken"] == [14]
    assert len(its["spikes"]["loss"]) == 31


# ---- processes of their own -----------------------------------------------------------------------------------------

FAULT = """
import math, os
import lightning as L

class Fault(L.Callback):
    def on_before_backward(self, trainer, module, loss):  # on one rank alone
        if trainer.global_step == 14 and trainer.global_rank == trainer.world_size - 1:
            loss.mul_(math.nan)
class Always(Fault):
    def on_before_backward(self, trainer, module, loss):
        loss.mul_(math.nan)
"""


@pytest.mark.parametrize("action", [pytest.param("skip", marks=pytest.mark.slow), "rollback"])
def test_two_processes_decide_as_one(folder: Path, action: str):
    (folder / "fault.py").write_text(FAULT)
    name = f"ddp-{action}"
    flags = ["--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.callbacks=[{class_path: fault.Fault}]"]
    done = llm("fit", *TINY, *QUIET, f"--name={name}", f"--guard.on_nonfinite={action}", *flags, folder=folder)
    assert done.returncode == 0, done.stderr
    (event,) = events(Path(f"runs/{name}"))
    assert (event["step"], event["action"]) == (14, action)
    assert event["samples"] == events(Path("runs/skipped"))[0]["samples"]
    for column in ("train_loss", "grad_norm"):
        mine, one = (
            [float(row[column]) for row in rows(run) if row[column] and row["step"] != "14"]
            for run in (name, "skipped")
        )
        assert mine == pytest.approx(one, rel=1e-3)
    for key, weight in state("skipped")["state_dict"].items():
        torch.testing.assert_close(state(name)["state_dict"][key], weight, rtol=1e-3, atol=1e-3)


def test_a_run_that_cannot_go_on_ends_with_one_sentence(folder: Path):
    (folder / "fault.py").write_text(FAULT)
    flags = ["--guard.max_events=2", "--trainer.callbacks=[{class_path: fault.Always}]", "--name=ended"]
    done = llm("fit", *TINY, *QUIET, *flags, folder=folder)
    assert_one_sentence(done.returncode, done.stderr, 1, "step 1", "not finite", "guard.max_events", "events.jsonl")
