"""Checkpoints that hold an adapter alone, and the models that they belong to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from llm.errors import UserError
from llm.model import GPT, ConfigError
from llm.model.adapters import add_adapter
from llm.model.lora import LoRA

NAME = "tuned"  # of the adapter that a run trains, in its state dict
_INFIX = f".adapters.{NAME}."


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter, and which model it was trained on.

    Attributes:
        lora: its settings.
        weights: by its own names, as `llm.model.adapters.adapter_weights` gives them.
        base: where the model's checkpoint was; base_digest: of its weights. None where nobody knows.
    """

    lora: LoRA
    weights: dict[str, Tensor]
    base: Path | None = None
    base_digest: str | None = None

    def add_to(self, model: GPT, name: str, where: object) -> None:
        """Put it beside the maps of `model`, and in use; UserError where it was made for another one."""
        try:
            add_adapter(model, name, self.lora, self.weights)
        except ConfigError as error:
            raise UserError(f"{where}: {error}") from error


def adapter_of(checkpoint: Mapping[str, Any]) -> TrainedAdapter | None:
    """What a checkpoint holds beside a model that lies elsewhere; None for one that holds a whole model."""
    told = checkpoint["labyrinth"].get("adapter")
    if told is None:
        return None
    weights = {
        name.removeprefix("model.").replace(_INFIX, "."): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if _INFIX in name
    }
    return TrainedAdapter(LoRA.from_dict(told["lora"]), weights, Path(told["base"]), told["base_digest"])


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """32 hexadecimal digits that stand for names and numbers of a model's weights."""
    digest = xxhash.xxh3_128()
    for name in sorted(weights):
        tensor = weights[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def demand_base(adapter: TrainedAdapter, weights: Mapping[str, Tensor], base: object, where: object) -> None:
    """UserError where an adapter was trained on a model with other weights."""
    if adapter.base_digest not in (None, weights_digest(weights)):
        raise UserError(
            f"{where} is an adapter that was trained on {adapter.base}, and the weights in {base} are others: give the "
            "checkpoint that it was trained on"
        )
