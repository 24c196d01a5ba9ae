"""Rotary position embedding (Su et al. 2021, RoFormer, section 3.4)."""

import torch
from torch import Tensor

from llm.model.functions import rotate_half
from llm.model.rope_scaling import RopeScaling

Angles = tuple[Tensor, Tensor]


def rotary_angles(
    positions: Tensor,
    n_heads: int,
    head_dim: int,
    theta: float,
    scaling: RopeScaling | None = None,
) -> Angles:
    """Cosine and sine of the angle of each position and pair of dimensions, the same for every head.

    Computed anew for each forward pass, always in float32, and held by no module: a buffer would be cast by
    `model.bfloat16()`, whose 8 bits of precision leave 1,024 positions only 513 distinct values, and would be
    left empty by `to_empty`. It costs microseconds.

    Args:
        positions: int64 [T], or [B, T] where rows differ; the last of a row is the last of its sequence so far.
        n_heads: for so many the angles are written out.
        head_dim: dimensions of a head.
        theta: RoPE's base.
        scaling: what is done to the frequencies.

    Returns:
        Two float32 tensors [..., T, n_heads, head_dim]: each cosine once for either half of the head, and each sine,
        negative for the first half.
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    frequencies = theta ** (-pairs / head_dim)
    if scaling is not None:
        frequencies = scaling.frequencies(frequencies, theta, positions[..., -1:, None, None] + 1)
    angles = positions[..., None, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    if scaling is not None:
        cos, sin = cos * scaling.scale, sin * scaling.scale
    both = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
    cos, sin = (part.expand(*part.shape[:-2], n_heads, -1) for part in both)
    # Written out for every head, a CPU runs over whole rows at a stretch: a quarter to a half of the time of `rotate`.
    return (cos.contiguous(), sin.contiguous()) if positions.device.type == "cpu" else (cos, sin)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Turn each head by its position's angles, the same for all: x [B, T, H, D] → the same shape and dtype.

    Dimension i forms a pair with i + D/2, as in Llama of Hugging Face, so weights go there without a permutation.
    """
    cos, sin = angles
    written, heads = cos.shape[-2], x.shape[2]
    if written not in (1, heads):
        enough = heads if written > heads else 1
        cos, sin = cos[..., :enough, :], sin[..., :enough, :]
    return rotate_half(x, cos, sin)
