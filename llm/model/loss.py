"""The loss of next-token prediction."""

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the target of a position that has none


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
