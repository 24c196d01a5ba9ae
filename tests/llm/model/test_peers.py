"""The same weights give the same logits here, in transformers, and in the published stories260K model."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from llm.generation import generate
from llm.model import GPT, GPTConfig

SHAPE = {"vocab_size": 101, "context_length": 64, "n_layers": 3, "d_model": 48, "n_heads": 4}
GROUPED = {**SHAPE, "n_kv_heads": 2, "d_ff": 80, "norm_eps": 0.01}  # large, so that a norm without it shows
GROUPED_IN_TRANSFORMERS = {  # the same shape in their words
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 0.01,
}
LLAMA_NAMES = {
    "embed_tokens": "embedding",
    "layers": "blocks",
    "self_attn": "attention",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "output",
    "q_norm": "query_norm",
    "k_norm": "key_norm",
    "mlp": "feedforward",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "feedforward_norm",
    "lm_head": "head",
}


def randomise(model: torch.nn.Module) -> None:
    """Every weight far from its start, so that a norm weight or bias in the wrong place shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.ndim == 1 else 0.1))


def load_llama(config: GPTConfig, theirs: torch.nn.Module) -> GPT:
    weights = {
        ".".join(LLAMA_NAMES.get(part, part) for part in name.removeprefix("model.").split(".")): weight
        for name, weight in theirs.state_dict().items()
    }
    return load(config, weights)


def load(config: GPTConfig, weights: dict[str, Tensor]) -> GPT:
    if config.tie_embeddings:
        weights = {name: weight for name, weight in weights.items() if name != "head.weight"}
    model = GPT(config)
    model.load_state_dict(weights)
    return model


def assert_equal_logits(ours: GPT, theirs: torch.nn.Module) -> None:
    tokens = torch.randint(101, (2, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        a, b = ours.eval()(tokens), theirs.eval()(tokens).logits
    assert (a - b).abs().max() / b.abs().max() < 1e-5
    assert b.std() > 0.1  # not equal for lack of signal


@pytest.mark.parametrize("tied", [False, True])
def test_logits_equal_llama(tied: bool) -> None:
    config = GPTConfig(**GROUPED, tie_embeddings=tied, rope_theta=500.0)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **GROUPED_IN_TRANSFORMERS,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
            tie_word_embeddings=tied,
        )
    )
    randomise(theirs)
    assert_equal_logits(load_llama(config, theirs), theirs)


def test_logits_equal_qwen3() -> None:
    config = GPTConfig(**GROUPED, head_dim=16, qk_norm=True)
    theirs = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            **GROUPED_IN_TRANSFORMERS,
            head_dim=16,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=False,
        )
    )
    randomise(theirs)
    assert_equal_logits(load_llama(config, theirs), theirs)


def test_logits_equal_gpt2() -> None:
    config = GPTConfig.preset("gpt2-124m", **SHAPE, norm_eps=0.01)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=101,
            n_positions=64,
            n_layer=3,
            n_embd=48,
            n_head=4,
            layer_norm_epsilon=0.01,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    randomise(theirs)
    names = {
        "ln_1": "attention_norm",
        "ln_2": "feedforward_norm",
        "attn.c_proj": "attention.output",
        "mlp.c_fc": "feedforward.up",
        "mlp.c_proj": "feedforward.down",
    }
    state = theirs.transformer.state_dict()
    weights = {
        "embedding.weight": state["wte.weight"],
        "position_embedding.weight": state["wpe.weight"],
        "norm.weight": state["ln_f.weight"],
        "norm.bias": state["ln_f.bias"],
    }
    for layer in range(3):
        for kind in ("weight", "bias"):
            # GPT-2 keeps its maps as [in, out], and query, key and value as one.
            parts = state[f"h.{layer}.attn.c_attn.{kind}"].chunk(3, dim=-1)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                weights[f"blocks.{layer}.attention.{name}.{kind}"] = part.T if part.ndim == 2 else part
            for theirs_name, ours_name in names.items():
                value = state[f"h.{layer}.{theirs_name}.{kind}"]
                weights[f"blocks.{layer}.{ours_name}.{kind}"] = value.T if value.ndim == 2 else value
    assert_equal_logits(load(config, weights), theirs)


class TestStories260K:
    """The 260,000-parameter Llama of llama2.c: reference logits in float64, and the text that it is known to write."""

    @pytest.fixture(scope="class")
    def golden(self, shared_data: Path) -> dict[str, list]:
        return json.loads((shared_data / "stories260K" / "golden.json").read_text())

    @pytest.fixture(scope="class")
    def model(self, shared_data: Path) -> GPT:
        """Read the legacy layout: seven int32, then every weight as float32, matrix kind by matrix kind."""
        data = (shared_data / "stories260K" / "stories260K.bin").read_bytes()
        d_model, d_ff, n_layers, n_heads, n_kv_heads, vocab_size, context = struct.unpack_from("7i", data)
        config = GPTConfig(
            vocab_size=vocab_size,
            context_length=context,
            n_layers=n_layers,
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            d_ff=d_ff,
            tie_embeddings=True,  # a positive vocabulary size says so in this layout
        )
        assert (config.n_heads, config.n_kv_heads, config.vocab_size) == (8, 4, 512)
        floats = torch.from_numpy(np.frombuffer(data, dtype="<f4", offset=28).copy())
        at = 0

        def take(*shape: int) -> Tensor:
            nonlocal at
            at += (size := int(np.prod(shape)))
            return floats[at - size : at].view(shape)

        def halves(weight: Tensor, heads: int) -> Tensor:
            """Rows from Meta's order, where a pair stands side by side, to ours, where it stands half a head apart."""
            return weight.view(n_layers, heads, -1, 2, d_model).transpose(2, 3).reshape(n_layers, -1, d_model)

        kv_width = n_kv_heads * config.head_dim
        weights = {"embedding.weight": take(vocab_size, d_model)}
        stacked = {
            "attention_norm": take(n_layers, d_model),
            "attention.query": halves(take(n_layers, d_model, d_model), n_heads),
            "attention.key": halves(take(n_layers, kv_width, d_model), n_kv_heads),
            "attention.value": take(n_layers, kv_width, d_model),
            "attention.output": take(n_layers, d_model, d_model),
            "feedforward_norm": take(n_layers, d_model),
            "feedforward.gate": take(n_layers, d_ff, d_model),
            "feedforward.down": take(n_layers, d_model, d_ff),
            "feedforward.up": take(n_layers, d_ff, d_model),
        }
        weights["norm.weight"] = take(d_model)
        weights |= {f"blocks.{i}.{name}.weight": part[i] for name, part in stacked.items() for i in range(n_layers)}
        return load(config, weights).eval()

    def test_logits(self, model: GPT, golden: dict[str, list]) -> None:
        with torch.inference_mode():
            logits = model(torch.tensor([golden["ids"][:16]]))[0]
        for position, name in ((0, "logits_after_bos"), (15, "logits_last_of_first_16_ids")):
            torch.testing.assert_close(logits[position], torch.tensor(golden[name]), rtol=1e-5, atol=2e-5)

    @pytest.mark.parametrize(("use_cache", "length"), [(True, 201), (False, 60)])
    def test_greedy_text(self, model: GPT, golden: dict[str, list], use_cache: bool, length: int) -> None:
        written = generate(model, golden["ids"][:1], length - 1, temperature=0, use_cache=use_cache)
        assert list(written) == golden["ids"][1:length]
