"""An imported model as a checkpoint, which `generate`, `export` and `fit --ckpt_path` open like one of their own."""

from pathlib import Path

import lightning
import torch

from llm.interop.huggingface import Imported, read_folder
from llm.interop.output import new_file
from llm.modules.base import CHECKPOINT_FORMAT


def import_folder(folder: Path, output: Path, dtype: torch.dtype | None = None) -> Imported:
    """Write the model of a Hugging Face folder as a checkpoint of epoch 0, step 0, without an optimizer's state.

    A `fit` from it begins a run. Beside it stands its tokenizer (see `tokenizer_path`), for `fit --data.tokenizer`.

    Raises:
        UserError: where `output` exists or cannot be written, and as `read_folder`.
    """
    with new_file(tokenizer_path(output)) as tokenizer_file, new_file(output) as checkpoint_file:
        imported = read_folder(folder, dtype)
        fields, tokenizer = imported.config.to_dict(), imported.tokenizer.to_str()
        checkpoint = {
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": {f"model.{name}": tensor for name, tensor in imported.weights.items()},
            "optimizer_states": [],
            "lr_schedulers": [],
            "hyper_parameters": {"gpt": fields},
            "labyrinth": {"format": CHECKPOINT_FORMAT, "gpt": fields, "tokenizer": tokenizer, "data_fingerprint": None},
        }
        tokenizer_file.write_text(tokenizer, encoding="utf-8")
        torch.save(checkpoint, checkpoint_file)
    return imported


def tokenizer_path(output: Path) -> Path:
    """Where the tokenizer of the checkpoint `output` stands."""
    return output.with_suffix(".tokenizer.json")
