"""Choosing the next token from its logits."""

import torch
from torch import Tensor


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one token id for each row.

    Args:
        logits: float [B, V].
        temperature: divides the logits; 0 takes the likeliest token and draws nothing.
        top_k: only the k likeliest tokens can be drawn (Fan et al. 2018).
        top_p: only the smallest set of tokens whose probability reaches p can be drawn (Holtzman et al. 2020, nucleus
            sampling). Applies to the probabilities that temperature and `top_k` leave.
        generator: where the random numbers come from, on the logits' device; default: the global one.

    Returns:
        int64 [B].
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, ids = logits.softmax(-1).sort(descending=True)
        # A token goes when those before it reach p already; the first always stays.
        beyond = ordered.cumsum(-1) - ordered >= top_p
        beyond[:, 0] = False
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, ids, beyond), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
