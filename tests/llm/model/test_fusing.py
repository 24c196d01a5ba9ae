"""fuse_projections: the same predictions and the same names, in one product for several maps."""

import copy
from pathlib import Path

import pytest
import torch
from support.models import random_model

from llm.model import GPT, KVCache, fuse_projections

VARIANTS = {
    "llama": {"n_kv_heads": 2},
    "qwen3": {"n_kv_heads": 1, "qk_norm": True, "head_dim": 12},
    "qwen2": {"qkv_bias": True},
    "gpt2": {"position": "learned", "norm": "layernorm", "feedforward": "gelu", "bias": True, "tie_embeddings": True},
    "window": {"sliding_window": 5},
    "yarn": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_context_length": 8}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 4.0, "original_context_length": 8}},
    "experts": {"n_experts": 4, "d_expert": 16, "d_shared": 8},
}
TOKENS = torch.randint(0, 40, (3, 24), generator=torch.Generator().manual_seed(0))


def build(name: str) -> GPT:
    return random_model(**VARIANTS[name]).eval()


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_predictions_stay(name: str) -> None:
    model = build(name)
    plain = model(TOKENS)
    before = copy.deepcopy(model.state_dict())
    fuse_projections(model)
    torch.testing.assert_close(model(TOKENS), plain, rtol=0, atol=1e-5 * float(plain.abs().max()))
    cache = KVCache(model.config, 3)
    pieces = torch.cat([model(piece, cache=cache) for piece in TOKENS.split([9, 1, 1, 4, 9], 1)], 1)
    if name != "dynamic":  # its keys keep the angles of the length at which they were read
        torch.testing.assert_close(pieces, plain, rtol=0, atol=1e-5 * float(plain.abs().max()))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in after)


def test_weights_that_change_are_used() -> None:
    model = build("qwen3")
    fuse_projections(model)
    with torch.no_grad():
        first = model(TOKENS)
        model.load_state_dict(build("qwen3").state_dict() | {"blocks.0.attention.key_norm.weight": torch.zeros(12)})
        loaded = model(TOKENS)
    assert not torch.equal(first, loaded)
    torch.testing.assert_close(loaded, model(TOKENS).detach(), rtol=1e-4, atol=1e-4)  # with gradients: not fused


def test_a_cast_model_forgets_and_can_be_fused_again() -> None:
    model = build("llama")
    fuse_projections(model)
    with torch.no_grad():
        expected = model(TOKENS)
        model.double()
        torch.testing.assert_close(model(TOKENS).float(), expected, rtol=1e-4, atol=1e-4)
        fuse_projections(model)
        attention = model.blocks[0].attention
        assert attention.fused.holds(attention.query, attention.key, attention.value)
        torch.testing.assert_close(model(TOKENS).float(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_a_map_that_is_replaced_is_used(name: str) -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = build("llama")
    fuse_projections(model)
    plain = getattr(model.blocks[0].attention, name)
    doubled = Doubled(plain.in_features, plain.out_features, bias=False)
    doubled.weight = plain.weight
    with torch.no_grad():
        before = model(TOKENS)
        setattr(model.blocks[0].attention, name, doubled)
        assert not torch.allclose(model(TOKENS), before, atol=1e-3)


def test_training_goes_on_as_without() -> None:
    plain, fused = build("qwen3"), build("qwen3")
    fuse_projections(fused)
    for model in (plain, fused):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(3):
            nll, count = model(TOKENS[:, :-1], TOKENS[:, 1:])
            (nll / count).backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(fused(TOKENS), plain(TOKENS), rtol=1e-4, atol=1e-4)


def test_what_was_fused_in_inference_mode_can_be_trained() -> None:
    model = build("qwen3")
    with torch.inference_mode():
        fuse_projections(model)
    nll, _ = model(TOKENS[:, :-1], TOKENS[:, 1:])
    nll.backward()
    assert model.blocks[0].attention.key.weight.grad.abs().sum() > 0


def test_a_saved_model_is_no_larger(tmp_path: Path) -> None:
    model = build("qwen3")
    torch.save(model.state_dict(), tmp_path / "plain")
    fuse_projections(model)
    torch.save(model.state_dict(), tmp_path / "fused")
    plain, fused = ((tmp_path / name).stat().st_size for name in ("plain", "fused"))
    assert fused <= 1.05 * plain
