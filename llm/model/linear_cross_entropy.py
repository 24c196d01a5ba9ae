"""The head and the loss in one: cross entropy of x @ weight.T without ever holding the logits of all rows.

At a vocabulary of 50,000 the logits of a batch, their softmax and its gradient are the largest tensors of a training
step by far. Here a chunk of rows is made, used for the loss and for the gradients, and overwritten by the next one.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignored: int,
    chunk: int,
    cap: float | None = None,
    z_loss: float = 0.0,
    dtype: torch.dtype | None = None,
    other: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Summed cross entropy (nats) of the logits x @ weight.T, a chunk of rows at a time.

    The gradients are computed along the way, while a chunk's logits are still in the processor's cache.

    Args:
        x: float [N, d_model].
        weight: float [V, d_model].
        targets: int64 [N]; rows whose target is `ignored` count as nothing.
        chunk: number of rows at a time.
        cap: bounds the logits by cap · tanh(logits / cap).
        z_loss: weight of log²Z, a row's logarithm of the softmax's denominator squared (Chowdhery et al. 2022, PaLM,
            section 5).
        dtype: in which the matrix products are made, those of x if None. The softmax, the loss and the sum over the
            chunks of the weight's gradient are in float32 where that is narrower.
        other: float [N], the logarithm of what is added to the probability of each target before its own logarithm is
            taken, as in a mixture.

    Returns:
        What is to be minimised, the cross entropy and the z-loss, and the cross entropy alone, which has no gradient.
    """
    with torch.autocast(x.device.type, enabled=False):
        return _LinearCrossEntropy.apply(x, weight, targets, ignored, chunk, cap, z_loss, dtype or x.dtype, other)


class _LinearCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        ignored: int,
        chunk: int,
        cap: float | None,
        z_loss: float,
        dtype: torch.dtype,
        other: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(dtype, torch.float32)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        # Where the products are as exact as the sum over the chunks, they are added up in place.
        in_place = dtype == wide == weight.dtype
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.empty_like(weight) if in_place else torch.zeros_like(weight, dtype=wide)
        kept = targets != ignored
        grad_other = None if other is None else torch.empty_like(other)
        columns = torch.where(kept, targets, 0).unsqueeze(1)
        mask = kept.to(wide).unsqueeze(1)
        head = weight.to(dtype)
        room = x.new_empty(min(chunk, len(x)), len(weight), dtype=wide)
        nll, penalty = x.new_zeros((), dtype=wide), x.new_zeros((), dtype=wide)
        on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()  # what it saves by looking at values
        for start in range(0, max(1, len(x)), chunk):
            rows = slice(start, start + chunk)
            states, column, counted = x[rows].to(dtype), columns[rows], mask[rows]
            logits = _product(states, head.t(), room[: len(states)])
            slope = _cap(logits, cap) if cap is not None else None
            chosen = logits.gather(1, column) if z_loss or not on_cpu else None
            # On a CPU the logarithm is taken of the targets alone, on other devices where nothing need be waited for.
            log_z = None if on_cpu else logits.logsumexp(-1, keepdim=True)
            probabilities = torch.softmax(logits, -1, out=logits)
            if log_z is None:
                logs = _log_of_targets(probabilities, column, states, head, cap)
            else:
                assert chosen is not None
                logs = chosen - log_z
            if z_loss:
                assert chosen is not None
                log_z = chosen - logs
                penalty += z_loss * (log_z.square() * counted).sum()
            share = None  # of each target's probability, what is the softmax's
            if other is not None and grad_other is not None:
                total = torch.logaddexp(logs, other[rows].unsqueeze(1).to(wide))
                share, logs = (logs - total).exp_(), total
                grad_other[rows] = ((share - 1) * counted).squeeze(1)
            nll -= (logs * counted).sum()
            if grad_x is None and grad_weight is None:
                continue
            pull = 1 if share is None else share
            if z_loss:
                assert log_z is not None
                probabilities.mul_(pull + 2 * z_loss * log_z)
            elif share is not None:
                probabilities.mul_(share)
            # The gradient of a row's logits: its probabilities, less one at the target.
            grad_logits = probabilities.scatter_add_(1, column, -counted * pull)
            if not on_cpu or not kept[rows].all():
                grad_logits.mul_(counted)
            if slope is not None:
                grad_logits.mul_(slope)
            grad_logits = grad_logits.to(dtype)
            if grad_x is not None:
                _product(grad_logits, head, grad_x[rows])
            if grad_weight is not None and in_place:
                grad_weight.addmm_(grad_logits.t(), states, beta=float(start > 0))  # the first one overwrites
            elif grad_weight is not None:
                grad_weight += grad_logits.t() @ states
        ctx.save_for_backward(grad_x, None if grad_weight is None else grad_weight.to(weight.dtype), grad_other)
        ctx.mark_non_differentiable(nll)
        return nll + penalty, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight, grad_other = (
            None if kept is None else kept * grad.to(kept.dtype) for kept in ctx.saved_tensors
        )
        return grad_x, grad_weight, None, None, None, None, None, None, grad_other


def _product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """left @ right, in `out`, which may be of another dtype."""
    return torch.mm(left, right, out=out) if left.dtype == out.dtype else out.copy_(left @ right)


def _cap(logits: Tensor, cap: float) -> Tensor:
    """Bound the logits in place, and return the slope at each: 1 - tanh²."""
    logits.div_(cap).tanh_()
    slope = logits.square().neg_().add_(1)
    logits.mul_(cap)
    return slope


def _log_of_targets(probabilities: Tensor, columns: Tensor, x: Tensor, weight: Tensor, cap: float | None) -> Tensor:
    """Log-probabilities [N, 1] of the targets' `columns`.

    The logarithm of a probability is as exact as a log-softmax, and one pass over the logits less, until the
    probability is too small for its own digits: the logits of such rows are made once more.
    """
    chosen = probabilities.gather(1, columns)
    logs = chosen.log()
    vanishing = chosen.squeeze(1) < 1e-30  # float32 has its full precision down to 1.2e-38
    if vanishing.any():
        logits = (x[vanishing] @ weight.t()).to(logs.dtype)
        if cap is not None:
            _cap(logits, cap)
        logs[vanishing] = torch.log_softmax(logits, -1).gather(1, columns[vanishing])
    return logs
