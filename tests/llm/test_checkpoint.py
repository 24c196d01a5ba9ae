"""A file that is no checkpoint of ours is refused, and nothing in it is run."""

from pathlib import Path

import pytest
import torch

from llm.checkpoint import load_model, read_checkpoint
from llm.errors import UserError


class Harm:
    """Runs on being unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_opening_a_checkpoint_runs_nothing_in_it(tmp_path: Path):
    torch.save({"labyrinth": Harm(tmp_path / "harm")}, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1]])
def test_a_checkpoint_of_another_program_is_refused(content: object, tmp_path: Path):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not written by Labyrinth"):
        read_checkpoint(tmp_path / "other.ckpt")


SHAPE = {"vocab_size": 8, "context_length": 4, "n_layers": 1, "d_model": 4, "n_heads": 1}


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        ({}, "KeyError: 'gpt'"),
        ({"gpt": {"n_layer": 1}, "tokenizer": "{}"}, "no field 'n_layer'"),
        ({"gpt": SHAPE, "tokenizer": "{}"}, "Missing key"),
    ],
)
def test_a_checkpoint_without_a_whole_model_is_one_sentence(contents: dict, reason: str, tmp_path: Path):
    torch.save({"labyrinth": contents, "state_dict": {}}, tmp_path / "part.ckpt")
    with pytest.raises(UserError, match=r"part\.ckpt holds no whole model \(.*\): choose another one") as told:
        load_model(tmp_path / "part.ckpt")
    assert reason in str(told.value)
    assert len(str(told.value).splitlines()) == 1
