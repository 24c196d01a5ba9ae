"""Every shipped configuration makes a trainer, a data module and a model, with nothing prepared."""

import sys
from pathlib import Path

import pytest
import torch
from support.fine_tuning import write_base

from datamodules import PretrainDataModule
from llm import GPT, PretrainModule
from llm.cli import LabyrinthCLI
from llm.configuration import shipped_configs


class Made(LabyrinthCLI):
    """Stops before it runs."""

    def _run_subcommand(self, subcommand: str) -> None:
        self._release()


TUNED = ("classify", "instruct", "prefer")  # from a checkpoint


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name not in TUNED])
def test_shipped_configs_can_be_instantiated(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["llm"])
    made = Made(["fit", "--config", name, "--trainer.accelerator=cpu", "--trainer.precision=32-true"])
    assert isinstance(made.model, PretrainModule)
    assert isinstance(made.datamodule, PretrainDataModule)
    assert made.model.config.vocab_size == made.datamodule.vocab_size
    assert made.model.config.context_length == made.datamodule.context_length
    with torch.device("meta"):
        GPT(made.model.config)
    assert not list(tmp_path.iterdir()), "nothing is written before a run begins"


@pytest.mark.parametrize("name", TUNED)
def test_configs_of_fine_tuning_take_what_they_can_from_the_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["llm"])
    write_base(tmp_path, context_length=32)
    made = Made(["fit", "--config", name, "--trainer.accelerator=cpu", "--model.checkpoint=base.ckpt"])
    assert made.model.config.context_length == made.datamodule.row_tokens == 32
    assert made.datamodule.tokenizer.to_str() == (tmp_path / "tokenizer.json").read_text()


@pytest.mark.parametrize("path", shipped_configs().values(), ids=lambda path: path.stem)
def test_shipped_configs_hold_only_what_differs(path: Path):
    assert len(path.read_text().splitlines()) <= 30


@pytest.mark.parametrize("name", ["near_duplicates", "languages", "duplicate_lines"])
def test_null_can_be_given_for_a_setting_within_another(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["llm"])
    made = Made(["fit", "--config", "quickstart", "--trainer.accelerator=cpu", f"--data.curation.{name}=null"])
    assert getattr(made.datamodule.preparation.corpus.curation, name) is None
