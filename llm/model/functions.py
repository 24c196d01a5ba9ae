"""Operations with a backward pass written by hand: the same values in fewer passes over memory.

On a CPU a narrow model spends more time moving activations than multiplying them. Each function here was kept because
it made the training step measurably faster there; the tests compare it with its plain form and finite differences.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# Tokens: in shorter rows SDPA is as fast, and of longer ones the probabilities of attention would take more room than
# all else of a layer.
SHORT_ROW = range(128, 257)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last dimension (Zhang & Sennrich 2019).

    The weight is one vector for all, or, where no gradients are wanted, one for each of the last dimension but one.
    PyTorch has a fused kernel on accelerators; on a CPU it strings seven operations together, and this takes over.
    """
    if x.device.type == "cpu" and x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64):
        if torch.is_grad_enabled():
            return _RMSNorm.apply(x, weight, eps)
        # √d · x / √(|x|² + d · eps) · weight: as many passes in half of the operations, which is what one token costs.
        size = weight.shape[-1]
        nothing, smallest = _norm_constants(size, eps, x.dtype)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(smallest)
        return torch.addcdiv(nothing, x, length, value=size**0.5).mul_(weight)
    if weight.ndim > 1:
        return F.rms_norm(x, weight.shape[-1:], None, eps) * weight.to(x.dtype)
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)  # of two dtypes, the fused kernel would refuse


@functools.cache
def _norm_constants(size: int, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """0 and √(d · eps) as tensors: a number would be made one anew each time."""
    return torch.tensor(0, dtype=dtype), torch.tensor((size * eps) ** 0.5, dtype=dtype)


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = weight.shape[0]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(size).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        # LayerNorm's kernel with a mean of zero gives RMSNorm's gradient, less the mean of grad · weight, which only
        # LayerNorm subtracts: one kernel and one correction for what would be six passes.
        x, weight, scale = ctx.saved_tensors
        size = weight.shape[0]
        grad_x, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(), x, [size], torch.zeros_like(scale), scale, weight, None, [True, True, False]
        )
        subtracted = (grad @ weight).unsqueeze(-1).mul_(scale).div_(size)
        return grad_x.add_(subtracted), grad_weight, None


def rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) of the last dimension by an angle; computed in float32, returned as x's dtype.

    Args:
        x: [..., D].
        cos: of the angles, once for each half; broadcasts with x.
        sin: of the angles, negative for the first half; broadcasts with x.
    """
    if torch.is_grad_enabled():
        return _RotateHalf.apply(x, cos, sin)
    if x.shape[1] == 1 and x.dtype == cos.dtype:  # fewer operations for one token, and no less work
        return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
    return _turn(x, cos, sin)


class _RotateHalf(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None  # the transpose of a rotation turns back


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    sin = sin[..., sin.shape[-1] // 2 :]
    turned = x * cos
    turned_first, turned_second = turned.chunk(2, dim=-1)
    turned_first.addcmul_(second, sin, value=-1)
    turned_second.addcmul_(first, sin)
    return turned.to(x.dtype)


def project(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """Each of `layers` applied to the same x [..., d_in].

    The gradient of x is a sum over the layers. On a CPU, where they are plain linear maps without bias, each
    matrix product adds to it in place, instead of writing a tensor of its own that is added afterwards.
    """
    if not torch.is_grad_enabled():
        return tuple(layer(x) for layer in layers)
    plain = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    weights = [layer.weight for layer in layers if _is_plain(layer)]
    if plain and len(weights) == len(layers) and all(weight.dtype == x.dtype for weight in weights):
        return _Project.apply(x, *weights)
    return tuple(layer(x) for layer in layers)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer does no more than x @ weight.T: one that is cut over processes has hooks that send parts."""
    return type(layer) is nn.Linear and layer.bias is None and not layer._forward_hooks


class _Project(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return tuple(F.linear(x, weight) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        rows = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = rows[0] @ weights[0]
            for row, weight in zip(rows[1:], weights[1:], strict=True):
                grad_x.addmm_(row, weight)
            grad_x = grad_x.view_as(x)
        wanted = ctx.needs_input_grad[1:]
        x = x.reshape(-1, x.shape[-1])
        return grad_x, *(row.t() @ x if needed else None for row, needed in zip(rows, wanted, strict=True))


def causal_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(query · key / √D) · value, each token over itself and those before it; by SDPA, or by hand.

    SDPA's kernel for a CPU never keeps the probabilities, and makes them again for the gradient, in small products.
    Where rows are short, keeping them takes little room, and large products over all heads save a fifth of the time,
    as long as the memory for them is not asked of the system anew each time (llm/host_memory.py).

    Args:
        query: [B, T, H, D].
        key: [B, T, H or a divisor of it, D].
        value: like `key`.
        dropout: share of the probabilities to drop.

    Returns:
        [B, T, H, D].
    """
    tensors = (query, key, value)
    plain = query.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not dropout
    plain = plain and not torch.compiler.is_compiling()  # its backward pass writes into slices, which breaks the graph
    trained = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if plain and trained and query.shape == key.shape and query.shape[1] in SHORT_ROW:
        return _CausalAttention.apply(*tensors)
    query, key, value = (tensor.transpose(1, 2) for tensor in tensors)  # B H T D
    grouped = query.shape[1] != key.shape[1]
    mixed = F.scaled_dot_product_attention(query, key, value, None, dropout, is_causal=True, enable_gqa=grouped)
    return mixed.transpose(1, 2)


class _CausalAttention(Function):
    """The first half of the queries sees nothing of the second half of the keys: a quarter of the products less."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = _heads_first(query).mul_(query.shape[-1] ** -0.5), _heads_first(key), _heads_first(value)
        mixed, kept = query.new_empty(query.shape), []
        for first, last in _halves(q):
            scores = q[:, first:last] @ k[:, :last].mT
            later = scores.new_full((last - first, last - first), float("-inf")).triu_(1)
            scores[:, :, first:].add_(later)
            probabilities = torch.softmax(scores, -1, out=scores)
            mixed[:, first:last] = _heads_back(probabilities @ v[:, :last], query)
            kept.append(probabilities)
        ctx.save_for_backward(q, k, v, *kept)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *kept = ctx.saved_tensors
        g = _heads_first(grad)
        grad_query, grad_k, grad_v = grad.new_empty(grad.shape), torch.zeros_like(k), torch.zeros_like(v)
        for (first, last), probabilities in zip(_halves(q), kept, strict=True):
            rows = slice(first, last)
            grad_scores = torch.ops.aten._softmax_backward_data(
                g[:, rows] @ v[:, :last].mT, probabilities, -1, probabilities.dtype
            )
            turned = _heads_back(grad_scores @ k[:, :last], grad)
            torch.mul(turned, grad.shape[-1] ** -0.5, out=grad_query[:, rows])
            grad_k[:, :last].baddbmm_(grad_scores.mT, q[:, rows])
            grad_v[:, :last].baddbmm_(probabilities.mT, g[:, rows])
        return grad_query, _heads_back(grad_k, grad), _heads_back(grad_v, grad)


def _halves(x: Tensor) -> tuple[tuple[int, int], ...]:
    """The two ranges of tokens of x [B * H, T, D]."""
    length = x.shape[1]
    return (0, length // 2), (length // 2, length)


def _heads_first(x: Tensor) -> Tensor:
    """A copy of x [B, T, H, D] as [B * H, T, D]."""
    return x.transpose(1, 2).clone(memory_format=torch.contiguous_format).flatten(0, 1)


def _heads_back(x: Tensor, like: Tensor) -> Tensor:
    """x [B * H, T, D] as [B, T, H, D]."""
    return x.unflatten(0, (like.shape[0], like.shape[2])).transpose(1, 2)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, elementwise (Shazeer 2020)."""
    return _SwiGLU.apply(gate, up) if torch.is_grad_enabled() else F.silu(gate).mul_(up)


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)  # silu(gate) is cheaper to compute again than to keep
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate = grad * up
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return grad_gate, F.silu(gate).mul_(grad)
