"""Every family gives the logits of transformers, whole or token by token, and goes back there as it came."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.text.tokenizer import Tokenizer
from llm.errors import UserError
from llm.interop.families import expressing, family_of
from llm.interop.huggingface import read_folder, write_folder
from llm.model import GPT, GPTConfig, KVCache
from llm.model.rope_scaling import RopeScaling

GQA = {"num_key_value_heads": 2}


def rope(kind: str, theta: float = 10_000.0, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **settings}}


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
QWEN3_MOE = {**GQA, "num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "head_dim": 16}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-gqa-tied-theta": ("Llama", {**GQA, "tie_word_embeddings": True, **rope("default", 500.0)}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": ("Llama", {**GQA, "head_dim": 20}),
    "llama-one-kv-head": ("Llama", {"num_key_value_heads": 1}),
    "llama-linear": ("Llama", rope("linear", factor=4.0)),
    "llama-dynamic": ("Llama", {**rope("dynamic", factor=4.0), "max_position_embeddings": 16}),
    "llama-yarn": ("Llama", rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "llama-yarn-mscale": (
        "Llama",
        rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=0.7, mscale_all_dim=0.5, beta_fast=16.0),
    ),
    "llama-llama3": ("Llama", rope("llama3", 500.0, factor=4.0, **LLAMA3)),
    "mistral": ("Mistral", {**GQA, "sliding_window": None}),
    "mistral-window": ("Mistral", {**GQA, "sliding_window": 7, "head_dim": 16}),
    "mistral-indivisible": ("Mistral", {"hidden_size": 50, "head_dim": 16, "sliding_window": None, **GQA}),
    "qwen2": ("Qwen2", GQA),
    "qwen2-tied-window": (
        "Qwen2",
        {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0, **GQA},
    ),
    "qwen3": ("Qwen3", {**GQA, "head_dim": 16}),
    "qwen3-tied": ("Qwen3", {"num_key_value_heads": 4, "head_dim": 20, "tie_word_embeddings": True}),
    "mixtral": ("Mixtral", {**GQA, "num_local_experts": 5}),
    "mixtral-window": ("Mixtral", {**GQA, "num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 7}),
    "qwen3-moe": ("Qwen3Moe", QWEN3_MOE),
    "qwen3-moe-normalised": ("Qwen3Moe", {**QWEN3_MOE, "norm_topk_prob": True}),
    "starcoder2": ("Starcoder2", GQA),
    "starcoder2-window-untied": ("Starcoder2", {**GQA, "sliding_window": 7, "tie_word_embeddings": False}),
    "gpt2": ("GPT2", {}),
    "gpt2-untied-wide": ("GPT2", {"tie_word_embeddings": False, "n_inner": None}),
}


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 0.1  # not equal for lack of signal
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-5


@torch.inference_mode()
def assert_same_logits(ours: GPT, theirs: torch.nn.Module, length: int = 64) -> None:
    tokens = torch.randint(300, (2, length), generator=torch.Generator().manual_seed(1))
    whole = ours.eval()(tokens)
    assert_close(whole, theirs(tokens, use_cache=False).logits)
    # A row that ends in padding: what stands before it stays as it is.
    padded = theirs(tokens, attention_mask=(torch.arange(length) < length - 9).long().expand(2, -1)).logits
    assert_close(whole[:, : length - 9], padded[:, : length - 9])
    theirs(tokens[:, :1])  # theirs with dynamic RoPE keeps the angles of the longest text since a short one
    # The prompt, then a few tokens at once, then single ones, with the cache of each.
    cache, past = KVCache(ours.config, 2), transformers.DynamicCache(config=theirs.config)
    for start, stop in ((0, 20), (20, 25), (25, 26), (26, 27), (27, length)):
        part = tokens[:, start:stop]
        assert_close(ours(part, cache=cache), theirs(part, past_key_values=past, use_cache=True).logits)


@pytest.mark.parametrize("case", CASES)
def test_logits_in_both_directions(
    case: str, saved: Callable[..., tuple[torch.nn.Module, Path]], tokenizer: Tokenizer, tmp_path: Path
):
    name, settings = CASES[case]
    theirs, folder = saved(name, **settings)
    ours = read_folder(folder).model()
    assert_same_logits(ours, theirs)

    write_folder(tmp_path / "ours", ours, tokenizer)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    expected = "Llama" if case == "mistral" else name  # the same without a window
    assert type(back).__name__ == f"{expected}{'LMHeadModel' if expected == 'GPT2' else 'ForCausalLM'}"
    assert_same_logits(ours, back)
    again = read_folder(tmp_path / "ours")
    assert again.config == ours.config
    assert all(torch.equal(again.weights[key], value) for key, value in ours.state_dict().items())


def test_a_missing_expert_is_named(saved: Callable[..., tuple[torch.nn.Module, Path]]):
    _, folder = saved("Qwen3Moe", **QWEN3_MOE)
    weights = load_file(folder / "model.safetensors")
    lost = "model.layers.1.mlp.experts.3.up_proj.weight"
    del weights[lost]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"the weights lack {lost}"):
        read_folder(folder)


OURS = {"vocab_size": 300, "context_length": 32, "n_layers": 1, "d_model": 32, "n_heads": 2}
ARCHITECTURES = [
    ({}, "LlamaForCausalLM"),
    ({"bias": True}, "LlamaForCausalLM"),
    ({"qkv_bias": True}, "Qwen2ForCausalLM"),
    ({"qkv_bias": True, "sliding_window": 8}, "Qwen2ForCausalLM"),
    ({"sliding_window": 8}, "MistralForCausalLM"),
    ({"n_heads": 3, "head_dim": 16}, "MistralForCausalLM"),
    ({"qk_norm": True}, "Qwen3ForCausalLM"),
    ({"qk_norm": True, "sliding_window": 8}, "Qwen3ForCausalLM"),
    ({"n_experts": 4, "router": "softmax"}, "MixtralForCausalLM"),
    ({"n_experts": 4, "router": "softmax", "d_expert": 8, "qk_norm": True}, "Qwen3MoeForCausalLM"),
    ({"norm": "layernorm", "feedforward": "gelu", "bias": True}, "Starcoder2ForCausalLM"),
    ({"norm": "layernorm", "feedforward": "gelu", "bias": True, "position": "learned"}, "GPT2LMHeadModel"),
]


@pytest.mark.parametrize(("fields", "architecture"), ARCHITECTURES)
def test_an_architecture_for_each_shape(fields: dict[str, Any], architecture: str):
    assert expressing(GPTConfig(**{**OURS, **fields})).architecture == architecture


UNKNOWN_THERE = [
    ({"feedforward": "relu2"}, "feedforward 'relu2'"),
    ({"logit_soft_cap": 15.0}, "logit_soft_cap 15.0"),
    ({"bigram_rows": 64}, "bigram_rows 64"),
    ({"ngram_order": 3}, "ngram_order 3"),
    ({"n_experts": 4}, "router 'sigmoid'"),
    ({"n_experts": 4, "router": "softmax", "d_shared": 8}, "d_shared 8"),
    ({"qk_norm": True, "bias": True}, "qk_norm True"),
    ({"norm": "layernorm", "feedforward": "gelu", "position": "learned"}, "bias False"),
    ({"norm": "layernorm"}, "norm 'layernorm'"),
]


@pytest.mark.parametrize(("fields", "knob"), UNKNOWN_THERE)
def test_what_no_architecture_has_is_refused_by_its_name(fields: dict[str, Any], knob: str):
    with pytest.raises(UserError, match="no architecture of transformers can have all of this model") as told:
        expressing(GPTConfig(**OURS, **fields))
    assert knob in str(told.value)


LLAMA = {"architectures": ["LlamaForCausalLM"], "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
LLAMA |= {"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 32}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"]}
QWEN3_MOE_CLASS = {"architectures": ["Qwen3MoeForCausalLM"]}
UNKNOWN_HERE = [
    ({**LLAMA, "architectures": ["BloomForCausalLM"]}, "its architecture is BloomForCausalLM"),
    ({**LLAMA, "hidden_act": "gelu"}, "its hidden_act is 'gelu'"),
    ({**LLAMA, "attention_bias": True}, "its mlp_bias is False and its attention_bias True"),
    ({**LLAMA, "architectures": ["Qwen3ForCausalLM"], "attention_bias": True}, "its attention_bias is True"),
    ({**LLAMA, "rope_scaling": {"type": "longrope", "factor": 2.0}}, "its rope_type is 'longrope'"),
    ({**LLAMA, "partial_rotary_factor": 0.5}, "its partial_rotary_factor is 0.5"),
    ({**LLAMA, "quantization_config": {"bits": 4}}, "its quantization_config is {'bits': 4}"),
    ({**LLAMA, "num_local_experts": 8}, "its num_local_experts is 8"),
    ({**QWEN3_MOE, **LLAMA, **QWEN3_MOE_CLASS, "mlp_only_layers": [0]}, "its mlp_only_layers is [0]"),
    ({**QWEN3_MOE, **LLAMA, **QWEN3_MOE_CLASS, "decoder_sparse_step": 2}, "its decoder_sparse_step is 2"),
    ({**LLAMA, "num_hidden_layers": None}, "it gives no num_hidden_layers"),
    ({**LLAMA, "num_attention_heads": 0}, "n_heads is 0"),
    (
        {**QWEN2, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        "its layer_types differ from layer to layer",
    ),
    ({**QWEN2, "layer_types": ["full_attention", "sliding_attention"]}, "its layer_types differ"),
]


@pytest.mark.parametrize(("values", "reason"), UNKNOWN_HERE)
def test_a_knob_that_we_do_not_have_is_refused_by_its_name(values: dict[str, Any], reason: str):
    with pytest.raises(UserError) as told:
        family_of(values).read(values)
    assert reason in str(told.value)
    assert "\n" not in str(told.value)


def test_the_published_words_of_qwen3_30b_a3b():
    values = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "max_window_layers": 48,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    }
    config = family_of(values).read(values)
    assert config.n_parameters() == 30_532_122_624
    assert (config.router, config.normalize_routing, config.n_active_experts) == ("softmax", True, 8)


def test_a_switched_off_window_is_none():
    assert family_of(QWEN2).read({**QWEN2, "sliding_window": 8, "use_sliding_window": False}).sliding_window is None


def test_the_older_words_for_rope():
    values = {**LLAMA, "rope_theta": 500, "rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": None}}
    config = family_of(LLAMA).read(values)
    assert config.rope_theta == 500
    assert config.rope_scaling == RopeScaling(type="yarn", factor=2.0, original_context_length=32)
