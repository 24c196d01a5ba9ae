"""A rank that fails ends the others, and its error is told once; uneven work hangs nobody (B5, B11)."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command_line import TINY, environment, write_texts

# Fails on the rank, in the way and at the moment that the environment names.
FAULT = """
import os, signal
import lightning as L
from llm.errors import UserError

class Fault(L.Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step != 3 or trainer.global_rank != int(os.environ["FAULT_RANK"]):
            return
        kind = os.environ["FAULT"]
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "user":
            raise UserError("the disk of this rank is broken")
        raise ArithmeticError("a bug of this rank")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failing")
    write_texts(folder)
    (folder / "fault.py").write_text(FAULT)
    return folder


def fit_two(folder: Path, *flags: str, **fault: str) -> tuple[int, str, float]:
    """Exit code, standard error, and the seconds after which no process of the run was left."""
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.enable_progress_bar=false"]
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "llm", "fit", *TINY, *two, *flags],
        cwd=folder,
        env={**environment(), **fault},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _, error = process.communicate(timeout=120)  # a child keeps the pipe open for as long as it lives
    return process.returncode, error, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("user", "error: the disk of this rank is broken"),
        ("bug", "ArithmeticError: a bug of this rank"),
        ("killed", ""),
    ],
)
def test_one_rank_fails(folder: Path, kind: str, told: str, rank: str):
    fault = ["--trainer.callbacks+=fault.Fault", "--checkpoints.every_n_steps=2"]
    code, error, seconds = fit_two(folder, *fault, f"--name={kind}{rank}", FAULT=kind, FAULT_RANK=rank)
    assert seconds < 60, "the others have waited"
    if kind == "killed":
        told = "the process of rank 0 is gone" if rank == "0" else "the process of rank 1 was ended by SIGKILL"
    assert error.count(told) == 1, error
    assert error.count("Traceback") == (kind == "bug"), error
    assert len(re.findall("^error:", error, re.MULTILINE)) == (kind != "bug"), error
    assert code == (-signal.SIGKILL if (kind, rank) == ("killed", "0") else 1)
    assert (folder / f"runs/{kind}{rank}/checkpoints/step-00000002.ckpt").exists()
    assert not list((folder / f"runs/{kind}{rank}/checkpoints").glob(".*"))


@pytest.mark.slow
def test_what_stops_all_ranks_is_told_once_and_leaves_no_run(folder: Path):
    (folder / "empty.txt").write_text("")
    for flags, told in (
        (["--data.sources=[empty.txt]"], "empty.txt is empty"),  # found by rank 0 while the other waits
        (["--data.global_batch_tokens=65536"], "fewer than the 2048 rows of one step"),  # found by both
    ):
        code, error, _ = fit_two(folder, *flags, "--name=stopped")
        assert (code, error.count(told), error.count("error:")) == (1, 1, 1), error
        assert "Traceback" not in error
        assert not (folder / "runs/stopped").exists()
