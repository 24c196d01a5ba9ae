"""Activations made again give the gradients of those that were kept, bit by bit, and take less memory."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llm.model import GPT, GPTConfig

SHAPE: dict[str, Any] = {"n_layers": 2, "d_model": 32, "n_heads": 4, "vocab_size": 64, "context_length": 128}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"n_kv_heads": 2, "qk_norm": True},
    "short rows": {},  # attention by hand
    "gpt2 with dropout": {
        "position": "learned",
        "norm": "layernorm",
        "feedforward": "gelu",
        "bias": True,
        "dropout": 0.3,
    },
}


def gradients(config: GPTConfig, mode: Any, dtype: torch.dtype | None = None) -> list[Tensor]:
    model = GPT(config, seed=1)
    model.checkpointing = mode
    tokens = torch.randint(64, (2, 128), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(7)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        nll, _ = model(tokens, tokens.roll(-1, 1))
    after = torch.rand(1)
    nll.backward()
    return [nll.detach(), after, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_exactly_equal(mode: str, family: str) -> None:
    config = GPTConfig(**SHAPE, **FAMILIES[family])
    for ours, kept in zip(gradients(config, mode), gradients(config, "none"), strict=True):
        assert torch.equal(ours, kept)


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_gradients_are_exactly_equal_under_autocast(mode: str) -> None:
    config = GPTConfig(**SHAPE)
    for ours, kept in zip(*(gradients(config, m, torch.bfloat16) for m in (mode, "none")), strict=True):
        assert torch.equal(ours, kept)


class Products(TorchDispatchMode):
    """Counts the products of linear maps."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return function(*args, **(kwargs or {}))


def kept_and_products(mode: Any) -> tuple[int, int]:
    """Bytes that the forward pass keeps in the blocks' graph, and products in the backward pass."""
    model = GPT(GPTConfig(**SHAPE, n_kv_heads=2), seed=1)
    model.checkpointing = mode
    tokens = torch.zeros(2, 128, dtype=torch.int64)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        nll, _ = model(tokens, tokens)
    with Products() as products:
        nll.backward()
    return sum(kept.values()), products.count


def test_full_makes_every_product_again_and_selective_none() -> None:
    kept, selective, full = (kept_and_products(mode) for mode in ("none", "selective", "full"))
    assert selective[1] == kept[1]
    assert full[1] == kept[1] + 2 * 6  # a block's last product is wanted by nothing in its backward pass
    assert full[0] < kept[0] / 2


def test_without_gradients_nothing_is_wrapped() -> None:
    model = GPT(GPTConfig(**SHAPE), seed=1).eval()
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    with torch.inference_mode():
        before = model(tokens)
        model.checkpointing = "full"
        assert torch.equal(model(tokens), before)
