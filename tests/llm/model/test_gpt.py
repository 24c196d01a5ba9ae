"""GPT: what each token can see, the KV cache, dropout, precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model import GPT, GPTConfig, KVCache, next_token_loss
from llm.model.position import rotary_angles, rotate

SMALL = {"vocab_size": 61, "context_length": 32, "n_layers": 2, "d_model": 32, "n_heads": 4}
VARIANTS = {
    "llama": {},
    "gpt2": {
        "position": "learned",
        "norm": "layernorm",
        "feedforward": "gelu",
        "bias": True,
        "tie_embeddings": True,
        "init": "gpt2",
    },
    "qwen3": {"qk_norm": True, "n_kv_heads": 2, "head_dim": 10, "d_ff": 48},
    "relu2": {"feedforward": "relu2", "n_kv_heads": 1, "norm": "layernorm"},
}


def build(variant: str, **change: object) -> GPT:
    return GPT(GPTConfig(**{**SMALL, **VARIANTS[variant], **change}))


def draw_tokens(batch: int, length: int) -> Tensor:
    return torch.randint(61, (batch, length), generator=torch.Generator().manual_seed(batch * length))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_token_sees_nothing_that_follows(variant: str) -> None:
    model, tokens = build(variant), draw_tokens(2, 32)
    changed = tokens.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 61
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.isclose(before[:, 20:], after[:, 20:]).all(-1).any()  # and everything that came before


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pieces", [[32], [1] * 32, [20, 1, 1, 10], [5, 27]])
@pytest.mark.parametrize("batch", [1, 3])
def test_with_the_cache_equals_without(variant: str, pieces: list[int], batch: int) -> None:
    model, tokens = build(variant).eval(), draw_tokens(batch, 32)
    cache = KVCache(model.config, batch)
    with torch.inference_mode():
        whole = model(tokens)
        for _ in range(2):  # a cache that was cleared is as good as new
            cache.clear()
            piecewise = torch.cat([model(piece, cache=cache) for piece in tokens.split(pieces, dim=1)], dim=1)
            assert cache.length == 32
            torch.testing.assert_close(piecewise, whole, rtol=1e-5, atol=1e-5)


def test_a_cache_has_room_for_its_capacity_and_no_more() -> None:
    model = build("llama")
    cache = KVCache(model.config, capacity=4)
    model(draw_tokens(1, 3), cache=cache)
    with pytest.raises(ValueError, match="a KV cache for 4 tokens cannot hold 5"):
        model(draw_tokens(1, 2), cache=cache)


def test_more_tokens_than_the_context_are_refused() -> None:
    model = build("gpt2")
    with pytest.raises(ValueError, match="33 tokens do not fit in a context of 32"):
        model(draw_tokens(1, 33))
    cache = KVCache(model.config, capacity=40)
    model(draw_tokens(1, 30), cache=cache)
    with pytest.raises(ValueError, match="33 tokens"):
        model(draw_tokens(1, 3), cache=cache)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_is_that_of_the_logits(variant: str) -> None:
    model, tokens = build(variant), draw_tokens(2, 32)
    targets = tokens.roll(-1, 1)
    targets[:, -1] = -100
    direct, by_logits = model(tokens, targets), next_token_loss(model(tokens), targets)
    assert direct[1] == by_logits[1] == 62
    torch.testing.assert_close(direct[0], by_logits[0])
    parameters = list(model.parameters())
    pairs = zip(torch.autograd.grad(direct[0], parameters), torch.autograd.grad(by_logits[0], parameters), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant: str) -> None:
    model, tokens = build(variant), draw_tokens(4, 32)
    nll, count = model(tokens, tokens.flip(1))
    (nll / count).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or name.endswith("key.bias"), name  # softmax ignores a shift of all keys


def test_positions_matter() -> None:
    for variant in ("llama", "gpt2"):
        model = build(variant)
        # Attention alone cannot tell two orders of the same earlier tokens apart.
        one, other = model(torch.tensor([[3, 9, 5]])), model(torch.tensor([[9, 3, 5]]))
        assert not torch.allclose(one[0, -1], other[0, -1])


def test_rope_sees_only_distances() -> None:
    angles = [rotary_angles(torch.arange(start, start + 6), 2, 8, 10_000.0) for start in (0, 100)]
    query, key = torch.randn(1, 6, 2, 8), torch.randn(1, 6, 2, 8)
    scores = [torch.einsum("bqhd,bkhd->bhqk", rotate(query, a), rotate(key, a)) for a in angles]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotate(query, angles[0]).norm(dim=-1), query.norm(dim=-1))


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_dropout_is_on_in_training_and_off_in_eval(variant: str) -> None:
    model, tokens = build(variant, dropout=0.2), draw_tokens(2, 32)
    torch.manual_seed(0)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    without = build(variant)
    assert torch.equal(model(tokens), without(tokens))
    assert torch.equal(model.train()(tokens) == without(tokens), torch.zeros(2, 32, 61, dtype=torch.bool))


def test_dropout_strikes_embedding_attention_and_both_branches() -> None:
    model = build("gpt2", dropout=0.5)
    struck: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda m, i, o, name=name: struck.append(name))
    model(draw_tokens(1, 4))
    assert struck == ["dropout"] + ["blocks.0.dropout"] * 2 + ["blocks.1.dropout"] * 2
    attention, x = model.blocks[0].attention, torch.randn(1, 8, 32)
    assert not torch.equal(attention(x, None), attention(x, None))
    assert torch.equal(attention.eval()(x, None), attention(x, None))


class TestPrecision:
    """RoPE's angles stay in float32 whatever the model is cast to."""

    def test_angles_are_float32_and_distinct(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            cos, sin = rotary_angles(torch.arange(1024), 2, 64, 10_000.0)
        assert cos.dtype == sin.dtype == torch.float32
        assert len(torch.unique(sin[:, 0, 32])) == 1024
        exact = torch.arange(1024, dtype=torch.float64)[:, None] * 10_000.0 ** (-torch.arange(0, 64, 2).double() / 64)
        torch.testing.assert_close(sin[:, 1].double(), torch.cat([-exact.sin(), exact.sin()], 1), rtol=0, atol=1e-4)

    def test_the_model_holds_nothing_that_a_cast_could_spoil(self) -> None:
        assert list(build("llama").buffers()) == []

    @pytest.mark.parametrize("how", ["cast", "autocast", "meta"])
    def test_bfloat16_turns_by_the_same_angles(self, how: str) -> None:
        # Equal tokens have equal values, so the output depends on the angles only through the scores; one head whose
        # scores decide between two values shows a wrong angle at once.
        model = build("llama", context_length=2048)
        tokens = draw_tokens(1, 2048)
        reference = model(tokens)
        if how == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                low = model(tokens)
        elif how == "cast":
            low = model.bfloat16()(tokens)
        else:
            with torch.device("meta"):
                described = GPT(model.config).bfloat16()
            described.to_empty(device="cpu")
            described.load_state_dict(model.state_dict())
            low = described(tokens)
        # The error of bf16 weights does not grow with the position, as it would with bf16 angles.
        error = (low.float() - reference).abs().mean(-1)[0] / reference.abs().mean()
        assert error[-256:].mean() < 2 * error[:256].mean()
        assert error.mean() < 0.05

    def test_training_in_bfloat16_autocast_is_finite(self) -> None:
        model, tokens = build("qwen3"), draw_tokens(2, 32)
        with torch.autocast("cpu", torch.bfloat16):
            nll, count = model(tokens, tokens)
        (nll / count).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_counting_sequence_is_learnt() -> None:
    # Fails when targets are shifted twice, or when a token can see its own target.
    model = GPT(GPTConfig(vocab_size=10, context_length=16, n_layers=1, d_model=32, n_heads=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    rows = (torch.arange(10)[:, None] + torch.arange(17)) % 10
    for _ in range(60):
        nll, count = model(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad()
        (nll / count).backward()
        optimizer.step()
    assert (nll / count).item() < 0.05
    assert model(torch.tensor([[4, 5]])).argmax(-1).tolist() == [[5, 6]]


def test_the_feed_forwards_are_the_published_ones() -> None:
    x = torch.randn(1, 2, 32)
    gate, up = build("llama"), build("relu2")
    ff = gate.blocks[0].feedforward
    torch.testing.assert_close(ff(x), ff.down(F.silu(ff.gate(x)) * ff.up(x)))
    ff = up.blocks[0].feedforward
    torch.testing.assert_close(ff(x), ff.down(F.relu(ff.up(x)) ** 2))
