"""Learning-rate schedules: pure functions from a step to a multiplier of the peak rate.

`step` counts from 0, and step 0 of a warm-up already moves: a warm-up of w steps gives 1/w, 2/w, ..., 1. A run of
`total_steps` ends with step `total_steps - 1`; a schedule with a decay gives that step the smallest multiplier above
`min_ratio`, not `min_ratio` itself (a step at rate 0 would be wasted), and any later step `min_ratio`. Lengths are in
steps when they are integers and fractions of `total_steps` when they are floats.
"""

import math


def resolve_steps(length: int | float, total_steps: int) -> int:
    """A length in steps: an integer as it is, a float from 0.0 to 1.0 as that fraction of `total_steps`, rounded.

    Raises:
        ValueError: for a negative length or a fraction above 1.
    """
    if isinstance(length, float):
        if not 0.0 <= length <= 1.0:
            raise ValueError(
                f"a length of {length} is no fraction; give a float from 0.0 to 1.0, or whole steps as an integer"
            )
        return round(length * total_steps)
    if length < 0:
        raise ValueError(f"a length of {length} steps; it must be at least 0")
    return length


def warmup_cosine(step: int, total_steps: int, *, warmup: int | float = 0.02, min_ratio: float = 0.1) -> float:
    """Linear warm-up, then half a cosine from 1 down to `min_ratio` (Loshchilov and Hutter 2017, without restarts)."""
    warmup_steps = resolve_steps(warmup, total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = _progress(step, warmup_steps, total_steps)
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_linear(step: int, total_steps: int, *, warmup: int | float = 0.02, min_ratio: float = 0.0) -> float:
    """Linear warm-up, then a straight line down to `min_ratio` (Bergsma et al. 2025, arXiv 2502.15938)."""
    return warmup_stable_decay(step, total_steps, warmup=warmup, decay=1.0, min_ratio=min_ratio)


def warmup_stable_decay(
    step: int,
    total_steps: int,
    *,
    warmup: int | float = 0.02,
    decay: int | float = 0.7,
    min_ratio: float = 0.0,
    decay_start: int | None = None,
) -> float:
    """Linear warm-up, a flat part, then a linear decay to `min_ratio` over the last `decay` steps.

    With `decay=1.0` the decay begins where the warm-up ends: the linear schedule. Source: Hu et al. 2024 (MiniCPM,
    arXiv 2404.06395, section 4); that a linear decay to zero does best, Bergsma et al. 2025 (arXiv 2502.15938).
    With `decay_start` the decay begins at that step, whatever `decay` says, and lasts to the end: a branch off a
    checkpoint of the flat part.
    """
    if decay_start is not None:
        decay = max(0, total_steps - decay_start)
    warmup_steps = resolve_steps(warmup, total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    start = max(warmup_steps, total_steps - resolve_steps(decay, total_steps))
    if step < start:
        return 1.0
    return min_ratio + (1 - min_ratio) * (1 - _progress(step, start, total_steps))


def _progress(step: int, start: int, end: int) -> float:
    """How much of the steps from `start` to `end` lies behind `step`: 0 at `start`, 1 from `end` on."""
    return 1.0 if step >= end else max(0.0, (step - start) / (end - start))
