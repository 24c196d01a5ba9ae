"""A model with adapters whose weights are not where they began."""

from typing import Any

import torch
from torch import Tensor

from llm.model import GPT
from llm.model.adapters import adapter_weights, add_adapter
from llm.model.lora import LoRA

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"n_kv_heads": 2, "qk_norm": True, "head_dim": 12},
    "gpt2": {"position": "learned", "norm": "layernorm", "feedforward": "gelu", "bias": True, "tie_embeddings": True},
    "experts": {"n_experts": 4, "d_expert": 16, "d_shared": 8},
}
KINDS = {
    "lora": LoRA(rank=4, alpha=6),
    "rslora": LoRA(rank=4, alpha=3, rslora=True),
    "dora": LoRA(rank=4, alpha=6, dora=True),
}
TOKENS = torch.randint(0, 40, (3, 24), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: GPT) -> Tensor:
    return model(TOKENS)


def learnt(model: GPT, name: str, lora: LoRA, seed: int = 0) -> GPT:
    """`model` with an adapter of which no weight is where it began."""
    add_adapter(model, name, lora)
    generator = torch.Generator().manual_seed(seed)
    for weight in adapter_weights(model, name).values():
        weight.add_(torch.randn(weight.shape, generator=generator) / 9)
    return model


def assert_close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    assert (a - b).abs().max() <= tolerance * b.abs().max()
