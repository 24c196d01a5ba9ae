"""Rotary position embedding (Su et al. 2021, RoFormer, section 3.4)."""

import torch
from torch import Tensor


def rotary_angles(start: int, length: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle of each position and pair of dimensions.

    Computed anew for each forward pass, always in float32, and held by no module: a buffer would be cast by
    `model.bfloat16()`, whose 8 bits of precision leave 1,024 positions only 513 distinct values, and would be
    left empty by `to_empty`. It costs microseconds.

    Returns:
        Two float32 tensors [length, 1, head_dim / 2], for the positions start … start + length - 1.
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device)
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    angles = positions[:, None, None] * theta ** (-pairs / head_dim)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each head by its position's angles: x [B, T, H, D] → the same shape and dtype.

    Dimension i forms a pair with i + D/2, as in Llama of Hugging Face, so weights go there without a permutation.
    """
    cos, sin = angles
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
