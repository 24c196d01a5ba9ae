"""The loss of next-token prediction."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.model.linear_cross_entropy import linear_cross_entropy
from llm.model.mixture import Beside

IGNORED = -100  # the target of a position that has none

# Rows of logits that exist at once. On a CPU fewer do not feed a matrix product well, more leave the cache
# (docs/log.md); of a large vocabulary a third of them is as fast and takes a third of the memory (docs/training.md).
_CPU_ROWS, _FEWEST_CPU_ROWS, _CPU_LOGITS = 1024, 256, 2**24
_FEW_TARGETS = 0.9  # share of positions with a target below which these are gathered first
_ROWS = 4096  # elsewhere: an accelerator wants larger products


def next_token_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood (nats) of `targets`, and how many there are.

    A sum and a count, so that micro-batches and ranks can be added before the one division. Nothing is shifted here:
    target t is the token that logit t predicts.

    Args:
        logits: float [B, T, V].
        targets: int64 [B, T]; -100 is not a target.

    Returns:
        A float scalar (0 where there is no target), float32 or wider, and an int64 scalar.
    """
    return token_losses(logits, targets).sum(), (targets != IGNORED).sum()


def token_losses(logits: Tensor, targets: Tensor, beside: Beside | None = None) -> Tensor:
    """Negative log-likelihood (nats) of each of `targets`, as above, 0 where there is none: [B, T], float32 or wider.

    With `beside`, that of the mixture.
    """
    # Summed in bfloat16, thousands of nats would be rounded to eight bits.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1)
    losses = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="none").view_as(targets)
    return losses if beside is None else -beside.mix(-losses) * (targets != IGNORED)


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """The logits, bounded to ±cap by cap · tanh(logits / cap) where there is a cap (Bello et al. 2017)."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


def head_and_loss(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    cap: float | None = None,
    z_loss: float = 0.0,
    beside: Beside | None = None,
) -> tuple[Tensor, Tensor]:
    """`next_token_loss` of the capped logits x @ weight.T, for x [B, T, d_model] and the head's weight [V, d_model].

    The logits are made and used a chunk of rows at a time wherever they would be more than one chunk, except in
    float16, whose loss scale comes too late for gradients that are made in the forward pass.

    A `z_loss` adds that weight times log²Z of every target (Chowdhery et al. 2022, PaLM, section 5) to what is
    differentiated, and nothing to the value, which so compares with that of any other run.

    With `beside`, the likelihood is that of the mixture.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    if device == "cpu" and beside is None and not torch.compiler.is_compiling():  # elsewhere the count is waited for
        x, targets = _of_targets(x, targets)
    rows = rows_at_once(device, weight.shape[0])
    exact = x.dtype == weight.dtype == dtype == torch.float32 and device == "cpu"  # there chunks are faster, too
    if not exact and (dtype == torch.float16 or targets.numel() <= rows):
        return _from_logits(soft_cap(F.linear(x, weight), cap), targets, z_loss, beside)
    counted = None if beside is None else beside.counted.flatten()
    loss, nll = linear_cross_entropy(
        x.flatten(0, 1), weight, targets.flatten(), IGNORED, rows, cap, z_loss, dtype, counted
    )
    if z_loss:
        loss = _with_value(loss, nll)
    if beside is not None:
        loss = loss - (beside.closed * (targets != IGNORED)).sum()
    return loss, (targets != IGNORED).sum()


def _of_targets(x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Only the positions that have a target, [1, N, d_model] and [1, N], where many have none, as in conversations."""
    wanted = (targets.flatten() != IGNORED).nonzero().squeeze(1)
    if not 0 < len(wanted) < _FEW_TARGETS * targets.numel():
        return x, targets
    return x.flatten(0, 1).index_select(0, wanted)[None], targets.flatten()[wanted][None]


def rows_at_once(device: str, vocab_size: int) -> int:
    """How many rows of logits `head_and_loss` holds at a time."""
    return min(_CPU_ROWS, max(_FEWEST_CPU_ROWS, _CPU_LOGITS // vocab_size)) if device == "cpu" else _ROWS


def _from_logits(logits: Tensor, targets: Tensor, z_loss: float, beside: Beside | None) -> tuple[Tensor, Tensor]:
    nll, count = token_losses(logits, targets, beside).sum(), (targets != IGNORED).sum()
    if z_loss:
        log_z = logits.to(torch.promote_types(logits.dtype, torch.float32)).logsumexp(-1)
        nll = _with_value(nll + z_loss * (log_z.square() * (targets != IGNORED)).sum(), nll)
    return nll, count


def _with_value(loss: Tensor, value: Tensor) -> Tensor:
    """A scalar with the gradient of `loss` and the value of `value`."""
    return value.detach() + (loss - loss.detach())
