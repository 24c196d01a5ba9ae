"""Whether a model that was written and read back is the one that it was."""

import torch
from torch import Tensor

from llm.errors import UserError
from llm.model import GPT

N_SEQUENCES = 2
LONGEST = 128  # tokens of each

_FAULT = "this is a fault of Labyrinth, please report it"


@torch.inference_mode()
def logits_of(model: GPT) -> Tensor:
    """float32 [B, T, V] of seeded random tokens, by a model whose weights become float32."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (N_SEQUENCES, min(LONGEST, config.context_length)), generator=generator)
    return model.float()(tokens)


def demand_same_weights(wanted: dict[str, Tensor], got: dict[str, Tensor]) -> None:
    """UserError where a number differs. Logits alone do not show it: a head that starts at zero makes them all zero."""
    for name, tensor in wanted.items():
        if not torch.equal(tensor, got[name]):
            raise UserError(f"{name} was written and read back as another matrix: nothing was kept; {_FAULT}")


def demand_same_logits(wanted: GPT, got: GPT, tolerance: float) -> float:
    """The largest difference of their logits, relative to the largest logit; UserError where it exceeds `tolerance`."""
    a, b = logits_of(wanted), logits_of(got)
    difference = float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))
    if not difference <= tolerance:  # NaN too
        raise UserError(
            f"what was written gives other logits than the model (relative difference {difference:.1e}): nothing was "
            f"kept; {_FAULT}"
        )
    return difference
