"""A file that is no checkpoint of ours is refused, and nothing in it is run."""

from pathlib import Path

import pytest
import torch

from llm.checkpoint import read_checkpoint
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
