"""Runs never overwrite each other, and a resumed one goes on in its metrics file."""

import csv
import os
from pathlib import Path

import pytest
import torch

from llm.errors import UserError
from llm.metrics_file import MetricsFile
from llm.run import find_checkpoint, newest_checkpoint, release_if_empty, reserve_run_folder


@pytest.fixture(autouse=True)
def _no_run_in_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LABYRINTH_RUN", "")  # so that what a test sets is taken back too
    monkeypatch.delenv("LABYRINTH_RUN")


def reserve(runs: Path, name: str) -> Path:
    folder = reserve_run_folder(runs, name)
    del os.environ["LABYRINTH_RUN"]
    return folder


def test_a_second_run_gets_its_own_folder(tmp_path: Path):
    assert [reserve(tmp_path, "a").name for _ in range(3)] == ["a", "a-2", "a-3"]


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"is no name of a folder; .* --runs"):
        reserve_run_folder(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot make the folder of the run, .*: Not a directory; .* --runs"):
        reserve_run_folder(tmp_path / "file", "a")


def test_processes_of_one_run_share_its_folder(tmp_path: Path):
    first = reserve_run_folder(tmp_path, "a")
    assert reserve_run_folder(tmp_path, "a") == first


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
def test_processes_that_a_launcher_started_leave_the_folder_to_the_first(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable, "1")
    assert [reserve_run_folder(tmp_path, "a") for _ in range(2)] == [tmp_path / "a"] * 2
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_given_back_and_a_full_one_kept(tmp_path: Path):
    empty, full = reserve(tmp_path, "a"), reserve(tmp_path, "a")
    (full / "config.yaml").touch()
    release_if_empty(empty)
    release_if_empty(full)
    assert [path.name for path in tmp_path.iterdir()] == ["a-2"]


def test_the_newest_checkpoint_of_the_name_is_found(tmp_path: Path):
    for age, name in enumerate(("a", "a-2", "ab", "a-large", "a-2b", "b")):
        path = tmp_path / name / "checkpoints" / "step-00000007.ckpt"
        path.parent.mkdir(parents=True)
        torch.save({}, path)
        os.utime(path, (age, age))
    assert newest_checkpoint(tmp_path, "a", "last").parts[-3] == "a-2"
    assert find_checkpoint(tmp_path / "b") == path
    assert find_checkpoint(path) == path
    best = path.with_name("best.ckpt")
    best.symlink_to(path.name)
    assert find_checkpoint(tmp_path / "b") == best
    with pytest.raises(UserError, match="no run called 'c'"):
        newest_checkpoint(tmp_path, "c", "last")
    with pytest.raises(UserError, match="no checkpoint at"):
        find_checkpoint(tmp_path / "c")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_of_a_resumed_run_go_on_without_gaps_or_doubles(tmp_path: Path):
    logger = MetricsFile(str(tmp_path))
    for step in range(6):
        logger.log_metrics({"loss": step}, step=step)
    logger.save()
    resumed = MetricsFile(str(tmp_path))
    resumed.rewind(4)
    for step in range(4, 8):
        resumed.log_metrics({"loss": step, "new": 1.0}, step=step)
    resumed.save()
    assert [int(row["step"]) for row in rows(tmp_path)] == list(range(8))
    assert [float(row["loss"]) for row in rows(tmp_path)] == list(range(8))


def test_a_row_that_was_cut_off_and_a_new_column_cost_no_other_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    logger = MetricsFile(str(tmp_path))
    for step in range(3):
        logger.log_metrics({"loss": step, "rate": 1.0}, step=step)
    logger.save()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("3.0,1")  # killed here
    resumed = MetricsFile(str(tmp_path))
    resumed.rewind(3)
    resumed.log_metrics({"loss": 3, "rate": 1.0, "new": 2.0}, step=3)
    before = (tmp_path / "metrics.csv").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", lambda *_: 1 / 0)  # killed in the middle of writing all rows anew
        with pytest.raises(ZeroDivisionError):
            resumed.save()
    assert (tmp_path / "metrics.csv").read_text() == before
    again = MetricsFile(str(tmp_path))
    again.rewind(3)
    again.log_metrics({"loss": 3, "rate": 1.0, "new": 2.0}, step=3)
    again.save()
    assert [(row["step"], row["loss"], row["new"]) for row in rows(tmp_path)] == [
        ("0", "0", ""),
        ("1", "1", ""),
        ("2", "2", ""),
        ("3", "3", "2.0"),
    ]
