"""Attention within packed documents and sliding windows on CUDA: FlashAttention over rows of many lengths.

PyTorch offers it as `varlen_attn`: it is told where each document begins, and never computes what a mask would hide.
"""

from typing import Any

import torch
from torch import Tensor

# What the kernel takes: its two dtypes, and heads whose gradient every supported GPU has room for.
_DTYPES = (torch.bfloat16, torch.float16)
_WIDEST_HEAD = 192
_HEAD_MULTIPLE = 8
# Whether the kernel must be told that key heads are shared; torch 2.11 reads it off the shapes. Compared as versions.
_SHARED: dict[str, Any] = {"enable_gqa": True} if torch.__version__ >= "2.12" else {}


@torch.compiler.assume_constant_result  # torch.compile would break its graph to ask
def is_ampere(device: torch.device) -> bool:
    """Whether `device` is an NVIDIA GPU of compute capability 8.0 (Ampere) or newer."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def has_varlen_kernel(query: Tensor, dropout: float) -> bool:
    """Whether `varlen_attention` can compute attention for `query` [B, T, H, D] here."""
    width = query.shape[-1]
    return (
        query.device.type == "cuda"
        and not dropout
        and _dtype(query) in _DTYPES
        and width % _HEAD_MULTIPLE == 0
        and width <= _WIDEST_HEAD
        and is_ampere(query.device)
        and torch.backends.cuda.is_flash_attention_available()
    )


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor | None = None, window: int | None = None
) -> Tensor:
    """Causal attention within each document, of equally many queries and keys.

    Args:
        query: [B, T, H, D].
        key: [B, T, H or a divisor of it, D].
        value: like `key`.
        starts: int32 [N + 1], where each document begins in the B · T tokens, and their number. None: every row is one.
        window: how many tokens each token sees, itself included.

    Returns:
        [B, T, H, D], in autocast's dtype under autocast.
    """
    # Here and not above: it loads torch.compile, which takes a second.
    from torch.nn.attention.varlen import varlen_attn

    n_rows, length = query.shape[:2]
    if starts is None:
        starts = torch.arange(0, n_rows * length + 1, length, dtype=torch.int32, device=query.device)
    query_, key_, value_ = (tensor.to(_dtype(query)).flatten(0, 1) for tensor in (query, key, value))  # B·T H D
    # FlashAttention counts the tokens to the left of a token, without itself. No document is longer than a row: that
    # bound is known without asking the device.
    seen = (-1 if window is None else window - 1, 0)
    mixed = varlen_attn(query_, key_, value_, starts, starts, length, length, window_size=seen, **_SHARED)
    assert isinstance(mixed, Tensor)
    return mixed.view(query.shape)


def _dtype(query: Tensor) -> torch.dtype:
    """In which SDPA would compute; autocast does not know this kernel."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
