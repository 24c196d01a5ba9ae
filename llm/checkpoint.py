"""Opening a checkpoint: it carries its model's shape and its tokenizer, and needs no other file."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.text.tokenizer import Tokenizer
from llm.checkpoint_folder import folder_damage, is_folder_checkpoint, read_folder
from llm.errors import UserError
from llm.model import GPT, GPTConfig

TENSORS = ("state_dict", "optimizer_states")  # where the large ones of a checkpoint are
LONGEST_REASON = 200  # characters; torch names every weight that is missing


def read_checkpoint(path: Path, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The contents of a Labyrinth checkpoint, a file or a folder, tensors on the CPU.

    Args:
        path: of the file, which is mapped into memory, or of the folder, which is read.
        without: keys under which nobody will look at the tensors; those of a folder are then on the meta device.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    sharded = is_folder_checkpoint(path)
    if not sharded and not path.is_file():
        raise UserError(
            f"no checkpoint at {path}: there is no such file; give the path of one, or fit without --ckpt_path"
        )
    try:
        checkpoint: dict[str, Any] = (
            read_folder(path, without)
            if sharded
            else torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        )
    except Exception as error:  # torch raises many kinds for a file that is not a whole checkpoint
        raise UserError(f"{path} is not a readable checkpoint ({type(error).__name__}): choose another one") from error
    if not isinstance(checkpoint, dict) or "labyrinth" not in checkpoint:
        raise UserError(f"{path} was not written by Labyrinth: it carries no tokenizer and no model shape")
    return checkpoint


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None: its bytes are compared with the checksums that it carries."""
    if path.is_dir():
        return folder_damage(path)
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return str(error)
    return None if broken is None else f"the checksum of {broken} is wrong"


def load_model(path: Path) -> tuple[GPT, Tokenizer]:
    """The model (in eval mode, on the CPU) and the tokenizer of a checkpoint; UserError where it holds neither."""
    checkpoint = read_checkpoint(path, without=("optimizer_states",))
    try:
        return _opened(checkpoint)
    except Exception as error:  # of many kinds too: the file may hold anything under the names of what belongs there
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise UserError(
            f"{path} holds no whole model ({type(error).__name__}: {reason}): choose another one"
        ) from error


def _opened(checkpoint: dict[str, Any]) -> tuple[GPT, Tokenizer]:
    contents = checkpoint["labyrinth"]
    model = GPT.from_state(GPTConfig.from_dict(contents["gpt"]), weights_of(checkpoint))
    return model, Tokenizer.from_str(contents["tokenizer"])


def weights_of(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint's GPT by their names there."""
    return {
        name.removeprefix("model."): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith("model.")
    }
