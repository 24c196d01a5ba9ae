"""Rows that are sorted by group, each group multiplied by a matrix of its own; how rows get there, and back.

Every operation has a backward pass written by hand, which writes each gradient once. Autograd's own would scatter rows
with atomic additions on CUDA, in another order each time, and on a CPU make one stack of all matrices' gradients a
group.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from llm.model.attention_cuda import is_ampere

_ALIGNMENT = 8  # bfloat16 numbers in the 16 bytes to which the CUDA kernel wants each row aligned


class Grouping:
    """Where each of N rows goes that is wanted by K groups: N · K slots, sorted by group.

    Args:
        chosen: int64 [N, K], the groups of each row.
        n_groups: of which every one may be empty.
    """

    def __init__(self, chosen: Tensor, n_groups: int) -> None:
        self.n_chosen = chosen.shape[1]
        flat = chosen.flatten()
        in_order, self.order = flat.sort(stable=True)  # order: slot → its index in [N, K]; stable: always the same sums
        groups = torch.arange(n_groups, device=flat.device)
        self.ends = torch.searchsorted(in_order, groups, right=True, out_int32=True)  # int32, as the CUDA kernel wants
        self.row = self.order.div(self.n_chosen, rounding_mode="floor")  # slot → row
        self.slot = torch.empty_like(self.order)  # index in [N, K] → slot
        self.slot[self.order] = torch.arange(len(flat), device=flat.device)

    @property
    def sizes(self) -> Tensor:
        """Rows of each group, int64 [n_groups]."""
        return torch.diff(self.ends, prepend=self.ends.new_zeros(1)).long()

    def spread(self, rows: Tensor) -> Tensor:
        """Each row in all its slots: [N, D] → [N · K, D]."""
        return _Spread.apply(rows, self.row, self.slot, self.n_chosen)

    def gather(self, slots: Tensor, weights: Tensor) -> Tensor:
        """Each row as the weighted sum of its slots: [N · K, D] and weights [N, K] → [N, D]."""
        return _Gather.apply(slots, weights, self.order, self.row, self.slot)


class _Spread(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, row: Tensor, slot: Tensor, n_chosen: int) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.n_chosen = n_chosen
        return rows.index_select(0, row)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slot,) = ctx.saved_tensors
        return _sum_of_slots(grad, slot.view(-1, ctx.n_chosen)), None, None, None


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, slots: Tensor, weights: Tensor, order: Tensor, row: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slots, weights, order, row, slot)
        by_slot = weights.flatten().index_select(0, order).to(slots.dtype)
        return _sum_of_slots(slots * by_slot.unsqueeze(1), slot.view_as(weights))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        slots, weights, order, row, slot = ctx.saved_tensors
        by_slot = weights.flatten().index_select(0, order).to(slots.dtype)
        spread = grad.index_select(0, row)
        grad_by_slot = torch.linalg.vecdot(spread, slots)
        grad_weights = grad_by_slot.index_select(0, slot).view_as(weights).to(weights.dtype)
        return spread.mul_(by_slot.unsqueeze(1)), grad_weights, None, None, None


def _sum_of_slots(values: Tensor, slot: Tensor) -> Tensor:
    """The sum over K of `values` [N · K, D] at `slot` int64 [N, K], always in the same order."""
    first, *others = slot.unbind(1)
    total = values.index_select(0, first)
    for other in others:
        total += values.index_select(0, other)
    return total


def grouped_linear(x: Tensor, ends: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """The rows of x, group by group, times each of `weights`.

    One product a group on a CPU; on CUDA, in bfloat16, one kernel for all groups (`torch.nn.functional.grouped_mm`),
    which never asks the device how large the groups are.

    Args:
        x: float [R, d_in], sorted by group.
        ends: int32 [n_groups], where each group's rows end; a group may be empty.
        weights: each float [n_groups, d_out, d_in], of the dtype of x.

    Returns:
        For each of `weights` a tensor [R, d_out].
    """
    if _has_kernel(x) and all(_is_aligned(weight) for weight in weights):
        return grouped_linear_by_kernel(x, ends, *weights)
    sizes = [end - start for start, end in pairwise([0, *ends.tolist()])]
    return _GroupedLinear.apply(x, sizes, *weights)


def grouped_linear_by_kernel(x: Tensor, ends: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """`grouped_linear` by PyTorch's grouped matrix multiply."""
    return tuple(F.grouped_mm(x, weight.mT, offs=ends) for weight in weights)


def _has_kernel(x: Tensor) -> bool:
    """On other GPUs, and in other dtypes, PyTorch refuses or multiplies group by group itself."""
    return x.dtype == torch.bfloat16 and is_ampere(x.device)


def _is_aligned(weight: Tensor) -> bool:
    return weight.shape[1] % _ALIGNMENT == weight.shape[2] % _ALIGNMENT == 0


class _GroupedLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        ctx.sizes = sizes
        results = []
        for weight in weights:
            result = x.new_empty(len(x), weight.shape[1])
            for rows, matrix, out in zip(x.split(sizes), weight.mT.unbind(), result.split(sizes), strict=True):
                torch.mm(rows, matrix, out=out)
            results.append(result)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        sizes, wanted = ctx.sizes, ctx.needs_input_grad
        grad_x = torch.empty_like(x) if wanted[0] else None
        grad_weights: list[Tensor | None] = []
        for i, (grad, weight) in enumerate(zip(grads, weights, strict=True)):
            pieces = grad.split(sizes)
            if grad_x is not None:
                for total, piece, matrix in zip(grad_x.split(sizes), pieces, weight.unbind(), strict=True):
                    total.addmm_(piece, matrix, beta=float(i > 0))  # the first one overwrites
            grad_weight = torch.empty_like(weight) if wanted[2 + i] else None
            if grad_weight is not None:
                for out, piece, rows in zip(grad_weight.unbind(), pieces, x.split(sizes), strict=True):
                    torch.mm(piece.t(), rows, out=out)  # zero where there are no rows
            grad_weights.append(grad_weight)
        return grad_x, None, *grad_weights
