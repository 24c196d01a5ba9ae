"""Maximal-update scaling: a step moves what each layer gives alike at every width (benchmarks/coordinate_check.py)."""

from typing import Any

import pytest
import torch
from torch import Tensor

from llm.model import GPT, GPTConfig
from llm.modules.optimization import build_optimizer

SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("embedding_lr", "head_lr", "scalar_lr", "state_dtype")),
    "weight_decay": 0.0,
    "betas": (0.9, 0.95),
    "eps": 1e-10,
    "momentum": 0.95,
}


def outputs(model: GPT, tokens: Tensor) -> list[Tensor]:
    kept: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _i, output: kept.append(output)) for block in model.blocks]
    with torch.no_grad():
        logits = model(tokens)
    for hook in hooks:
        hook.remove()
    return [*kept, logits]


def changes(width: int, optimizer: str, base: int | None) -> list[float]:
    """Mean |change| of each block's output and of the logits after three steps."""
    shape = {"n_layers": 2, "n_heads": width // 32, "d_ff": 2 * width, "qk_norm": True}
    model = GPT(GPTConfig(vocab_size=64, context_length=32, d_model=width, **shape), seed=1)
    stepper = build_optimizer(model, {**SETTINGS, "optimizer": optimizer, "mup_base_width": base}, lr=2**-7)
    tokens = torch.randint(64, (3, 33), generator=torch.Generator().manual_seed(0))
    before = outputs(model, tokens[:, :-1])
    for _ in range(3):
        nll, count = model(tokens[:, :-1], tokens[:, 1:])
        (nll / count).backward()
        stepper.step()
        stepper.zero_grad()
    return [float((b - a).abs().mean()) for a, b in zip(before, outputs(model, tokens[:, :-1]), strict=True)]


@pytest.mark.parametrize(
    ("optimizer", "widths", "least", "most"),
    [("adamw", (64, 128, 256, 512), 2.0, 4.0), ("muon", (64, 128, 256), 1.25, 1.7)],  # Muon's products take longer
)
def test_changes_are_level_over_widths_with_mup_and_grow_without(
    optimizer: str, widths: tuple[int, ...], least: float, most: float
) -> None:
    with_mup = [changes(width, optimizer, 64) for width in widths]
    for sizes in zip(*with_mup, strict=True):  # of one layer
        assert max(sizes) < 1.5 * min(sizes), with_mup
    widest = changes(widths[-1], optimizer, None)
    growth = [wide / narrow for wide, narrow in zip(widest, with_mup[0], strict=True)]
    assert min(growth) > least, growth
    assert max(growth) > most, growth
