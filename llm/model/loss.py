"""The loss of next-token prediction."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.model.functions import linear_cross_entropy

IGNORED = -100  # the target of a position that has none

# Rows of logits that exist at once. Fewer do not feed a matrix product well, more leave the cache (docs/log.md).
_ROWS = 1024


def next_token_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood (nats) of `targets`, and how many there are.

    A sum and a count, so that micro-batches and ranks can be added before the one division. Nothing is shifted here:
    target t is the token that logit t predicts.

    Args:
        logits: float [B, T, V].
        targets: int64 [B, T]; -100 is not a target.

    Returns:
        A float scalar (0 where there is no target) and an int64 scalar.
    """
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return nll, (targets != IGNORED).sum()


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """The logits, bounded to ±cap by cap · tanh(logits / cap) where there is a cap (Bello et al. 2017)."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


def head_and_loss(x: Tensor, weight: Tensor, targets: Tensor, cap: float | None = None) -> tuple[Tensor, Tensor]:
    """`next_token_loss` of the capped logits x @ weight.T, for x [B, T, d_model] and the head's weight [V, d_model].

    On a CPU in full precision, where memory is the bottleneck, the logits are made and used a chunk of rows at a time.
    """
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not plain or cap is not None:
        return next_token_loss(soft_cap(F.linear(x, weight), cap), targets)
    nll = linear_cross_entropy(x.flatten(0, 1), weight, targets.flatten(), IGNORED, _ROWS)
    return nll, (targets != IGNORED).sum()
