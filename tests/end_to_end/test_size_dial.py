"""`--model.size` on the command line: the batch is filled in, unless it was written or a checkpoint has one."""

import sys
from pathlib import Path

import pytest
import torch
from support.command_line import TINY, write_texts

from llm.cli import LabyrinthCLI
from llm.errors import UserError

SIZED = [flag for flag in TINY if not flag.startswith(("--model.gpt", "--data.global", "--model.max"))]


class Made(LabyrinthCLI):
    """Stops before it runs."""

    def _run_subcommand(self, subcommand: str) -> None:
        self._release()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["llm"])
    return tmp_path


def test_the_batch_follows_from_the_size_unless_it_was_written(folder: Path) -> None:
    made = Made(["fit", *SIZED, "--model.size=1m"])
    assert made.datamodule.global_batch_tokens == 8192  # of 20 million tokens, in rows of 32
    assert made.model.config.n_parameters() == pytest.approx(1e6, rel=0.05)
    assert made.model.plan.max_tokens == 20_000_000
    assert Made(["fit", *SIZED, "--model.size=1m", "--model.max_tokens=1000"]).datamodule.global_batch_tokens == 32
    written = ["--data.global_batch_tokens=256", "--model.overtrain=2", "--model.lr=0.5", "--model.gpt.n_layers=6"]
    made = Made(["fit", *SIZED, "--model.size=1e6", *written])
    assert made.datamodule.global_batch_tokens == 256
    assert (made.model.plan.max_tokens, made.model.hparams.lr, made.model.config.n_layers) == (40_000_000, 0.5, 6)
    assert Made(["fit", *TINY]).datamodule.global_batch_tokens == 256


def test_a_run_of_a_size_trains_and_goes_on_as_it_was(folder: Path) -> None:
    flags = [*SIZED, "--model.size=100k", "--name=sized", "--model.validate_every=20"]
    first = LabyrinthCLI(["fit", *flags, "--model.max_tokens=4000", "--data.global_batch_tokens=128"])
    assert first.trainer.global_step == 32
    path = "runs/sized/checkpoints/step-00000032.ckpt"
    assert torch.load(path, weights_only=True)["hyper_parameters"]["size"] == "100k"
    more = LabyrinthCLI(["fit", *flags, f"--ckpt_path={path}", "--model.max_tokens=5120"])
    assert (more.datamodule.global_batch_tokens, more.trainer.global_step) == (128, 40)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--config=quickstart", "--model.size=30m"], ["model.preset 'tiny' and model.size 30m both say", "drop one"]),
        ([*SIZED, "--model.size=huge"], ["model.size is 'huge'", "such as 120m"]),
        ([*SIZED, "--model.size=1m", "--model.overtrain=0"], ["model.overtrain is 0", "0.001 or more"]),
    ],
)
def test_a_size_that_cannot_be_is_one_sentence(folder: Path, flags: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        Made(["fit", *flags, "--name=bad"])
    assert all(part in str(caught.value) for part in parts), caught.value
    assert not (folder / "runs/bad").exists()
