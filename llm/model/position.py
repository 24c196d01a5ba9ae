"""Rotary position embedding (Su et al. 2021, RoFormer, section 3.4)."""

import torch
from torch import Tensor

from llm.model.functions import rotate_half

Angles = tuple[Tensor, Tensor]


def rotary_angles(start: int, length: int, head_dim: int, theta: float, device: torch.device) -> Angles:
    """Cosine and sine of the angle of each position and pair of dimensions.

    Computed anew for each forward pass, always in float32, and held by no module: a buffer would be cast by
    `model.bfloat16()`, whose 8 bits of precision leave 1,024 positions only 513 distinct values, and would be
    left empty by `to_empty`. It costs microseconds.

    Returns:
        Two float32 tensors, [length, 1, head_dim] (each cosine once for either half of the head) and
        [length, 1, head_dim / 2], for the positions start … start + length - 1.
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device)
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    angles = positions[:, None, None] * theta ** (-pairs / head_dim)
    cos = angles.cos()
    return torch.cat((cos, cos), dim=-1), angles.sin()


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Turn each head by its position's angles: x [B, T, H, D] → the same shape and dtype.

    Dimension i forms a pair with i + D/2, as in Llama of Hugging Face, so weights go there without a permutation.
    """
    return rotate_half(x, *angles)
