"""Batches that are unlike on two real ranks: gradients, scores, modes and random streams (B1-B5, B22, B25).

The order of samples and exact resume on two ranks (B23, B24) stand in tests/datamodules/test_resume.py.
"""

import subprocess
import sys
from typing import Any

import pytest
import torch
from support.command_line import ROOT, environment

SCRIPT = ROOT / "tests/support/two_ranks.py"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What the ranks of each run saw: of one process, and of two."""
    folder = tmp_path_factory.mktemp("ranks")
    found = {}
    for name, devices in {"one": 1, "two": 2, "two-dropout": 2}.items():
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(folder / name), str(devices)],
            cwd=folder,
            env={**environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        found[name] = [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in range(devices)]
    return found


def test_uneven_micro_batches_and_a_short_last_step_give_the_gradients_of_one_process(seen: dict[str, Any]):
    (one,), two = seen["one"], seen["two"]
    assert len(one["gradients"]) == 2 * 3  # two epochs of 4, 4 and 2 micro-batches; on each of two ranks of 2, 2 and 1
    for rank in two:
        for mine, wanted in zip(rank["gradients"], one["gradients"], strict=True):
            for a, b in zip(mine, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-7)


def test_scores_are_those_of_one_process_and_both_ranks_log_the_same_keys(seen: dict[str, Any]):
    (one,), two = seen["one"], seen["two"]
    assert {"train_loss", "val_loss", "val_bpb"} <= one["metrics"].keys()
    for rank in two:
        assert list(rank["metrics"]) == list(one["metrics"])
        assert rank["metrics"] == pytest.approx(one["metrics"], rel=1e-5)


def test_each_rank_trains_in_training_mode_and_scores_in_the_other(seen: dict[str, Any]):
    for rank in seen["two-dropout"]:
        assert (rank["train modes"], rank["scoring modes"]) == ({True}, {False})


def test_ranks_and_workers_draw_numbers_of_their_own(seen: dict[str, Any]):
    first, second = seen["two-dropout"]
    drawn = torch.stack([*first["drawn"], *second["drawn"]])
    assert len(drawn.unique(dim=0)) == len(drawn)
    streams = torch.cat([first["streams"], second["streams"]])  # two workers on each of two ranks
    assert len(streams.unique(dim=0)) == len(streams) == 16
