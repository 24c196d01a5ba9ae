"""What a LanguageModule refuses: settings out of range, and weights of another shape."""

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llm.errors import UserError

LARGEST = sys.float_info.max
# What each hyperparameter can be, from and to; those that may be null are not looked at then.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("lr", "embedding_lr", "head_lr", "scalar_lr", "eps", "weight_decay", "z_loss"), (0, LARGEST)),
    **dict.fromkeys(("betas", "momentum", "warmup", "decay", "min_lr"), (0, 1)),
    **dict.fromkeys(("max_tokens", "validate_every", "mup_base_width"), (1, LARGEST)),
    "overtrain": (0.001, LARGEST),
}


def check_ranges(settings: Mapping[str, Any]) -> None:
    """UserError for a hyperparameter out of its range."""
    for name, (least, most) in RANGES.items():
        values = settings.get(name)
        for value in values if isinstance(values, (tuple, list)) else [values]:
            if value is not None and not least <= value <= most:
                upwards = f"{least} or more" if most == LARGEST else f"{least} to {most}"
                raise UserError(f"model.{name} is {value}: it can be {upwards}")


def demand_same_weights(
    saved: Mapping[str, Tensor], saved_shape: Mapping[str, Any], mine: Mapping[str, Tensor], shape: Mapping[str, Any]
) -> None:
    """UserError for saved weights of other shapes than mine: the fields that differ, where torch would list weights.

    Counts of n-grams are as many as the text that was counted has, and the checkpoint's are taken.
    """
    shapes, my_shapes = (
        {name: None if ".ngrams.counts." in name else tensor.shape for name, tensor in weights.items()}
        for weights in (saved, mine)
    )
    if shapes == my_shapes:
        return
    changed = [f"{name} {old} -> {shape.get(name)}" for name, old in saved_shape.items() if old != shape.get(name)]
    raise UserError(
        f"the checkpoint's weights do not fit the model ({', '.join(changed) or 'it was damaged or changed'}): use "
        "the model settings that it was trained with, or start a new run"
    )
