"""Opening a checkpoint: it carries its model's shape and its tokenizer, and needs no other file."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.text.tokenizer import Tokenizer
from llm.adapters import NAME, TrainedAdapter, adapter_of, demand_base
from llm.checkpoint_folder import folder_damage, is_folder_checkpoint, read_folder
from llm.errors import UserError
from llm.model import GPT, GPTConfig
from llm.model.adapters import merge_adapter

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
    """The model (in eval mode, on the CPU) and the tokenizer of a checkpoint; UserError where it holds neither.

    Of one that holds an adapter alone it is the model that this was trained on, with the adapter merged into it.
    """
    checkpoint = read_checkpoint(path, without=("optimizer_states",))
    try:
        return _opened(checkpoint, path)
    except UserError:
        raise
    except Exception as error:  # of many kinds too: the file may hold anything under the names of what belongs there
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise UserError(
            f"{path} holds no whole model ({type(error).__name__}: {reason}): choose another one"
        ) from error


def _opened(checkpoint: dict[str, Any], path: Path) -> tuple[GPT, Tokenizer]:
    contents = checkpoint["labyrinth"]
    adapter = adapter_of(checkpoint)
    weights = weights_of(checkpoint) if adapter is None else base_weights(adapter, path)
    model = GPT.from_state(GPTConfig.from_dict(contents["gpt"]), weights)
    if adapter is not None:
        adapter.add_to(model, NAME, path)
        merge_adapter(model, NAME)
    return model, Tokenizer.from_str(contents["tokenizer"])


def base_weights(adapter: TrainedAdapter, path: Path) -> dict[str, Tensor]:
    """The weights of the model that the adapter in `path` was trained on."""
    assert adapter.base is not None
    if not adapter.base.exists():
        raise UserError(
            f"{path} is an adapter of {adapter.base}, which is not there: give that model where it is now with "
            f"--checkpoint, and --adapter {path}"
        )
    checkpoint = read_checkpoint(adapter.base, without=("optimizer_states",))
    weights = whole_weights(checkpoint, adapter.base)
    demand_base(adapter, weights, adapter.base, path)
    return weights


def whole_weights(checkpoint: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights of the GPT of a checkpoint; of an adapter, those with it merged."""
    if adapter_of(checkpoint) is None:
        return weights_of(checkpoint)
    model, _ = _opened(checkpoint, path)
    return model.state_dict()


def weights_of(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint's GPT by their names there."""
    return {
        name.removeprefix("model."): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith("model.")
    }
