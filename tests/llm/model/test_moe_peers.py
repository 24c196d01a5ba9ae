"""Models with experts give the logits of transformers' Mixtral, Qwen3-MoE and GLM-4-MoE with the same files."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.expert_names import take_experts

from llm.model import GPT, GPTConfig, KVCache

OURS = {
    "vocab_size": 101,
    "context_length": 64,
    "n_layers": 2,
    "d_model": 48,
    "n_heads": 4,
    "n_kv_heads": 2,
    "d_ff": 80,
    "norm_eps": 0.01,
    "n_experts": 6,
    "n_active_experts": 3,
    "rope_theta": 500.0,
}
THEIRS = {  # the same in their words
    "vocab_size": 101,
    "max_position_embeddings": 64,
    "num_hidden_layers": 2,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "rms_norm_eps": 0.01,
    "num_experts_per_tok": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "tie_word_embeddings": False,
}
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "mixtral": (
        {"router": "softmax"},
        lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(**THEIRS, num_local_experts=6)),
    ),
    **{
        f"qwen3_moe {'normalised' if normalised else 'raw'}": (
            {"router": "softmax", "normalize_routing": normalised, "d_expert": 24, "head_dim": 16, "qk_norm": True},
            lambda normalised=normalised: transformers.Qwen3MoeForCausalLM(
                transformers.Qwen3MoeConfig(
                    **THEIRS, num_experts=6, moe_intermediate_size=24, head_dim=16, norm_topk_prob=normalised
                )
            ),
        )
        for normalised in (True, False)
    },
    "glm4_moe": (
        {"d_expert": 24, "d_shared": 48, "head_dim": 16, "qk_norm": True},
        lambda: transformers.Glm4MoeForCausalLM(
            transformers.Glm4MoeConfig(
                **{**THEIRS, "rope_parameters": {**THEIRS["rope_parameters"], "partial_rotary_factor": 1.0}},
                n_routed_experts=6,
                n_shared_experts=2,
                moe_intermediate_size=24,
                head_dim=16,
                use_qk_norm=True,
                first_k_dense_replace=0,
                norm_topk_prob=True,
            )
        ),
    ),
}
NAMES = {
    "embed_tokens": "embedding",
    "layers": "blocks",
    "self_attn": "attention",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "output",
    "q_norm": "query_norm",
    "k_norm": "key_norm",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "feedforward_norm",
    "lm_head": "head",
}


def randomise(model: torch.nn.Module) -> None:
    """Every weight, and the bias on the choice, far from its start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            scale = 0.5 if name.endswith(("mlp.gate.weight", "bias")) else 0.3 if tensor.ndim == 1 else 0.1
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers_from_its_files(case: str, tmp_path: Path) -> None:
    change, build = CASES[case]
    theirs = build().eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    config = GPTConfig(**OURS, **change)
    experts = take_experts(weights, case.split()[0], config.n_layers, config.n_experts)
    rest = {".".join(NAMES.get(p, p) for p in n.removeprefix("model.").split(".")): w for n, w in weights.items()}
    ours = GPT(config).eval()
    ours.load_state_dict({**rest, **experts})

    tokens = torch.randint(101, (2, 64), generator=torch.Generator().manual_seed(1))
    cache = KVCache(config, 2)
    with torch.inference_mode():
        got, wanted = ours(tokens), theirs(tokens).logits
        cached = torch.cat([ours(piece, cache=cache) for piece in tokens.split([40, 1, 1, 22], 1)], 1)
    assert (got - wanted).abs().max() / wanted.abs().max() < 1e-5
    assert (cached - wanted).abs().max() / wanted.abs().max() < 1e-5
    assert wanted.std() > 0.1  # not equal for lack of signal
    before = ours.blocks[0].feedforward
    before.router.weight.data = before.router.weight.flip(0)  # and the choice of experts matters
    assert (ours(tokens) - wanted).abs().max() / wanted.abs().max() > 1e-3
