"""Stochastic rounding to bfloat16, which keeps a slowly moving average moving.

bfloat16 has 8 significant bits: rounded to the nearest, a change below 0.2 % is lost, and an average with a decay of
0.999 never leaves its place. Rounded up or down with a chance by the distance, it is right in expectation (Gupta et al.
2015, "Deep Learning with Limited Numerical Precision", section 3.1).
"""

import torch
from torch import Tensor

_DROPPED_BITS = 16  # of float32's 23 bits of fraction bfloat16 keeps 7


def round_stochastically(target: Tensor, values: Tensor, seed: int) -> None:
    """Write `values` (floating point) into `target` (bfloat16, same shape) with noise that follows from `seed` alone.

    The noise is not drawn from the global stream: processes that hold the same parameter must round alike.
    """
    bits = values.to(torch.float32, copy=True).view(torch.int32)
    generator = torch.Generator(bits.device).manual_seed(seed)
    noise = torch.randint(1 << _DROPPED_BITS, bits.shape, generator=generator, dtype=torch.int32, device=bits.device)
    # The bits of a float are ordered as its magnitude: a carry out of the dropped ones is the next bfloat16.
    target.copy_(bits.add_(noise).bitwise_and_(-(1 << _DROPPED_BITS)).view(torch.float32))
