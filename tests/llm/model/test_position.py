"""RoPE's scalings give the angles of transformers, and the window what a loop over its tokens gives."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llm.model import GPT, GPTConfig, KVCache
from llm.model.position import rotary_angles
from llm.model.rope_scaling import RopeScaling

SHAPE = {"vocab_size": 61, "context_length": 24, "n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2}
HEAD_DIM, THETA, ORIGINAL = 64, 10_000.0, 256
SCALINGS = {
    "linear": {"type": "linear", "factor": 3.0},
    "dynamic": {"type": "dynamic", "factor": 2.0},
    "yarn": {"type": "yarn", "factor": 4.0},
    "yarn with all": {
        "type": "yarn",
        "factor": 4.0,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.1,
        "truncate": False,
    },
    "yarn by hand": {"type": "yarn", "factor": 4.0, "attention_factor": 1.3},
    "llama3": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("length", [100, 700])
def test_scaled_angles_are_those_of_transformers(name: str, length: int) -> None:
    scaling = SCALINGS[name]
    theirs = dict(scaling) | {"rope_type": scaling["type"], "rope_theta": THETA}
    theirs |= {} if name == "linear" else {"original_max_position_embeddings": ORIGINAL}
    del theirs["type"]
    config = LlamaConfig(
        hidden_size=4 * HEAD_DIM, num_attention_heads=4, max_position_embeddings=ORIGINAL, rope_parameters=theirs
    )
    positions = torch.arange(length)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), positions[None])
    original = {} if name == "linear" else {"original_context_length": ORIGINAL}
    ours = rotary_angles(torch.arange(length), 1, HEAD_DIM, THETA, RopeScaling(**scaling, **original))
    torch.testing.assert_close(ours[0][:, 0], cos[0], rtol=1e-5, atol=1e-4)
    half = sin[0, :, : HEAD_DIM // 2]
    torch.testing.assert_close(ours[1][:, 0], torch.cat([-half, half], -1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in SCALINGS if name != "dynamic"])
def test_a_scaled_model_reads_the_same_with_a_cache(name: str) -> None:
    original = {} if name == "linear" else {"original_context_length": 6}
    config = GPTConfig(**SHAPE, rope_scaling=RopeScaling(**SCALINGS[name], **original))
    model = GPT(config, seed=1).eval()
    tokens = torch.arange(24)[None] % 61
    cache = KVCache(config)
    with torch.inference_mode():
        parts = torch.cat([model(tokens[:, i : i + 4], cache=cache) for i in range(0, 24, 4)], 1)
        torch.testing.assert_close(parts, model(tokens), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(parts, GPT(GPTConfig(**SHAPE), seed=1).eval()(tokens), atol=1e-3)


@pytest.mark.parametrize("window", [1, 5, 23, 24, 40])
def test_a_window_hides_what_lies_before_it(window: int) -> None:
    config = GPTConfig(**{**SHAPE, "n_layers": 1}, sliding_window=window)
    windowed, full = GPT(config, seed=1).eval(), GPT(GPTConfig(**{**SHAPE, "n_layers": 1}), seed=1).eval()
    tokens = torch.randint(61, (2, 24), generator=torch.Generator().manual_seed(0))
    cache = KVCache(config, batch_size=2)
    with torch.inference_mode():
        got = windowed(tokens)
        for last in range(24):  # RoPE looks at differences of positions alone
            seen = tokens[:, max(0, last - window + 1) : last + 1]
            torch.testing.assert_close(got[:, last], full(seen)[:, -1], rtol=1e-5, atol=1e-5)
        parts = [windowed(part, cache=cache) for part in tokens.split([7, 1, 1, 10, 5], 1)]
        torch.testing.assert_close(torch.cat(parts, 1), got, rtol=1e-5, atol=1e-5)


def test_a_cap_bounds_the_logits_and_the_loss_obeys_it() -> None:
    config = GPTConfig(**SHAPE, logit_soft_cap=0.5)
    capped, plain = GPT(config, seed=1), GPT(GPTConfig(**SHAPE), seed=1)
    tokens = torch.arange(24)[None] % 61
    logits = capped(tokens)
    assert logits.abs().max() < 0.5
    torch.testing.assert_close(logits, torch.tanh(plain(tokens) / 0.5) * 0.5)
    nll, _ = capped(tokens, tokens)
    torch.testing.assert_close(nll, torch.nn.functional.cross_entropy(logits[0], tokens[0], reduction="sum"))
    assert nll != plain(tokens, tokens)[0]
