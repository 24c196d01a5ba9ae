"""The model of a checkpoint, as what a run of fine-tuning begins with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from jsonargparse import Namespace
from torch import Tensor

from datamodules.artefacts import MANIFEST, Recipe, make
from datamodules.prepared import TOKENIZER_FILE
from llm.checkpoint import TENSORS, read_checkpoint, whole_weights
from llm.model import GPTConfig
from llm.run import find_checkpoint


@dataclass
class Base:
    """The model of a checkpoint from which a run begins: its shape, its tokenizer's JSON, and where its weights are.

    The fingerprint is that of the data of its pretraining, however often it was tuned since.
    """

    path: Path
    config: GPTConfig
    tokenizer: str
    pretraining_fingerprint: str | None

    def weights(self) -> dict[str, Tensor]:
        """The weights by their names in the GPT, mapped from a file; of an adapter, with it merged."""
        return whole_weights(read_checkpoint(self.path, without=("optimizer_states",)), self.path)


def open_base(path: Path) -> Base:
    """What a checkpoint, or the best one of a run's folder, says of its model; UserError where it holds none."""
    path = find_checkpoint(path)
    contents = read_checkpoint(path, without=TENSORS)["labyrinth"]
    pretraining = contents.get("pretraining_fingerprint") or contents["data_fingerprint"]
    return Base(path, GPTConfig.from_dict(contents["gpt"]), contents["tokenizer"], pretraining)


def fill_from_base(options: Namespace, written: Namespace) -> None:
    """Let the data of a run that goes on from a model follow that model: its tokenizer, its context, its own text.

    Args:
        options: of the subcommand, defaults included; what the user wrote stays.
        written: of the subcommand, what the user wrote alone.
    """
    model, data = options.model.init_args, options.data.init_args
    if model.get("checkpoint") is None or "tokenizer" not in data:
        return
    mine = written.get("data", Namespace()).get("init_args", Namespace())
    base = open_base(Path(model.checkpoint))
    cache_dir = Path(data.cache_dir).expanduser()
    if "tokenizer" not in mine:
        data.tokenizer = str(_kept_tokenizer(base.tokenizer, cache_dir))
    for name in ("context_length", "max_length"):
        if name in data and name not in mine:
            data[name] = base.config.context_length
    tokens = cache_dir / f"tokens-{base.pretraining_fingerprint}"
    if "base_tokens" in data and "base_tokens" not in mine and (tokens / MANIFEST).is_file():
        data.base_tokens = str(tokens)


def stand_in_for_base(options: Namespace, checkpoint: Mapping[str, Any], path: str) -> None:
    """Where the model that a run began with is gone, let the run's own checkpoint stand for it, if it is whole."""
    settings = options.model.init_args
    given = settings.get("checkpoint")
    if given is not None and not Path(given).exists() and "adapter" not in checkpoint["labyrinth"]:
        settings.checkpoint = path


def _kept_tokenizer(content: str, cache_dir: Path) -> Path:
    """The checkpoint's tokenizer as a file of its own, for what reads the data without the model."""
    recipe = Recipe("tokenizer-of-checkpoint", 1, {}, {"tokenizer": xxhash.xxh3_64_hexdigest(content.encode())})

    def write(folder: Path) -> dict[str, Any]:
        (folder / TOKENIZER_FILE).write_text(content, encoding="utf-8")
        return {}

    return make(recipe, cache_dir, write, reason="").folder / TOKENIZER_FILE
