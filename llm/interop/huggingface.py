"""A folder that transformers, vLLM and others open, and the model that such a folder holds.

Written by ourselves: transformers takes seconds to import, and is needed for nothing here.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from datamodules.text.tokenizer import Tokenizer
from llm.errors import UserError
from llm.interop.adversarial import N_STRINGS, demand_same_ids
from llm.interop.families import Family, expressing, family_of, grown
from llm.interop.output import new_folder
from llm.interop.safetensors_files import SHARD_BYTES, headers, write_shards
from llm.interop.tokenizer_files import FILE as TOKENIZER_FILE
from llm.interop.tokenizer_files import generation_settings, read_tokenizer, special_ids, write_tokenizer
from llm.interop.verification import demand_same_logits, demand_same_weights
from llm.interop.weights import read_weights, written_weights
from llm.model import GPT, GPTConfig

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_DTYPE_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class Imported:
    """What a folder holds: the architecture, our shape and weights, and the tokenizer."""

    family: Family
    config: GPTConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer

    def model(self) -> GPT:
        """It, in eval mode; its weights stay the tensors that they are."""
        return GPT.from_state(self.config, self.weights)


def write_folder(
    output: Path,
    model: GPT,
    tokenizer: Tokenizer,
    *,
    dtype: str = "f32",
    chat_template: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write `model` and its tokenizer as a folder for `AutoModelForCausalLM` and `AutoTokenizer`.

    The folder is read back before it gets its name: the same logits, and the same ids for 200 awkward strings.

    Args:
        output: a folder that is not there yet, or an empty one.
        model: of any device.
        tokenizer: the one that it was trained with.
        dtype: of the numbers in the file: `f32`, `f16` or `bf16`.
        chat_template: how a conversation becomes text (Jinja); by default that of datamodules/text/chat_template.py.
        shard_bytes: size of a file above which the weights are written as several.

    Returns:
        The `architecture`, the size in `bytes`, and what was `verified`, in words.

    Raises:
        UserError: for what no architecture has words for, and for an output that cannot be written or is not empty.
    """
    config = model.config
    family = expressing(config)
    target = DTYPES[dtype]
    values = {**family.write(config), **special_ids(tokenizer)}
    values |= {"dtype": _DTYPE_NAMES[target], "torch_dtype": _DTYPE_NAMES[target]}  # the newer name, and the older
    weights = {name: tensor.detach().to("cpu", target) for name, tensor in model.state_dict().items()}
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise UserError(f"the weights are not finite numbers as {dtype}: choose another --dtype, or another checkpoint")
    with new_folder(output) as folder:
        write_shards(folder, written_weights(family, config, weights), shard_bytes)
        _write_json(folder / "config.json", values)
        _write_json(folder / "generation_config.json", generation_settings(tokenizer))
        write_tokenizer(folder, tokenizer, config.context_length, chat_template)
        back = read_folder(folder)
        demand_same_weights(weights, back.weights)
        difference = demand_same_logits(GPT.from_state(config, weights), back.model(), tolerance=1e-5)
        written = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        written.encode_special_tokens = True
        demand_same_ids(tokenizer.encode_prompt, lambda text: written.encode(text).ids, f"the written {TOKENIZER_FILE}")
        size = sum(path.stat().st_size for path in folder.iterdir())
    verified = (
        f"read back, the weights are equal, the logits within {difference:.1e}, the ids of {N_STRINGS} strings equal"
    )
    return {"architecture": family.architecture, "bytes": size, "verified": verified}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_folder(folder: Path, dtype: torch.dtype | None = None) -> Imported:
    """The model and the tokenizer of a Hugging Face folder.

    Weights come tensor by tensor from safetensors files, so that twice the model's memory is never needed. Where our
    special tokens are new to the tokenizer and the embedding has no row for them, they get the mean of all rows: their
    probability is then below one in vocab_size.

    Args:
        folder: with config.json, safetensors files and a tokenizer.
        dtype: of the weights; None: the widest of the files.

    Raises:
        UserError: one sentence for all that can be wrong with it.
    """
    values = _read_config(folder)
    try:
        family = family_of(values)
        config = family.read(values)
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from error
    except (TypeError, ValueError, AttributeError) as error:  # text where there should be a number, and the like
        raise UserError(f"{folder / 'config.json'} holds a value that cannot be used ({error})") from error
    entries = headers(folder)
    tokenizer, own_ids = read_tokenizer(folder, values)
    if own_ids > config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {own_ids} ids and the embedding {config.vocab_size} rows, so they do not "
            "belong together"
        )
    weights = read_weights(family, config, entries, dtype)
    if tokenizer.vocab_size > config.vocab_size:
        config = grown(config, tokenizer.vocab_size)
        for name in ("embedding.weight", "head.weight"):
            if name in weights:
                weights[name] = _with_rows(weights[name], tokenizer.vocab_size)
    return Imported(family, config, weights, tokenizer)


def _with_rows(matrix: Tensor, n_rows: int) -> Tensor:
    """`matrix` with rows up to n_rows, each the mean of all that there are (Hewitt 2021, "Initializing new word
    embeddings for pretrained language models"): by Jensen's inequality the softmax gives none of them more than the
    average token has."""
    mean = matrix.float().mean(0, keepdim=True).to(matrix.dtype)
    return torch.cat([matrix, mean.expand(n_rows - len(matrix), -1)])


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no config.json: give the folder of a model of transformers") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no keys with values")
    return values
