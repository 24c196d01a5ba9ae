"""Sigmoid scores, the balance and a shared expert give the logits of transformers' GLM-4-MoE.

Mixtral and Qwen3-MoE stand in tests/llm/interop/test_families.py.
"""

import torch
import transformers
from torch import Tensor

from llm.model import GPT, GPTConfig, KVCache

N_EXPERTS, N_LAYERS = 6, 2
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
    "mlp": "feedforward",
    "shared_experts": "shared",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
}


def build_theirs() -> torch.nn.Module:
    model = transformers.Glm4MoeForCausalLM(
        transformers.Glm4MoeConfig(
            vocab_size=101,
            max_position_embeddings=64,
            num_hidden_layers=N_LAYERS,
            hidden_size=48,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            use_qk_norm=True,
            rms_norm_eps=0.01,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
            tie_word_embeddings=False,
            n_routed_experts=N_EXPERTS,
            num_experts_per_tok=3,
            moe_intermediate_size=24,
            n_shared_experts=2,
            first_k_dense_replace=0,
            norm_topk_prob=True,
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            scale = 0.5 if name.endswith(("mlp.gate.weight", "bias")) else 0.3 if tensor.ndim == 1 else 0.1
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
    return model.eval()


def our_weights(theirs: torch.nn.Module) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in theirs.state_dict().items():
        ours = ".".join(NAMES.get(part, part) for part in name.removeprefix("model.").split("."))
        ours = ours.replace("feedforward.gate.weight", "feedforward.router.weight")
        ours = ours.replace("feedforward.gate.e_score_correction_bias", "feedforward.router.balance")
        if ours.endswith("experts.gate_up_proj"):
            base = ours.removesuffix("gate_up_proj")
            weights[f"{base}gate"], weights[f"{base}up"] = tensor.chunk(2, dim=1)
        else:
            weights[ours] = tensor
    return weights


def test_logits_equal_those_of_transformers() -> None:
    theirs = build_theirs()
    config = GPTConfig(
        vocab_size=101,
        context_length=64,
        n_layers=N_LAYERS,
        d_model=48,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        qk_norm=True,
        norm_eps=0.01,
        rope_theta=500.0,
        n_experts=N_EXPERTS,
        n_active_experts=3,
        d_expert=24,
        d_shared=48,
    )
    ours = GPT(config).eval()
    ours.load_state_dict(our_weights(theirs))
    tokens = torch.randint(101, (2, 64), generator=torch.Generator().manual_seed(1))
    cache = KVCache(config, 2)
    with torch.inference_mode():
        wanted, got = theirs(tokens).logits, ours(tokens)
        cached = torch.cat([ours(piece, cache=cache) for piece in tokens.split([40, 1, 1, 22], 1)], 1)
        assert wanted.std() > 0.1  # not equal for lack of signal
        assert (got - wanted).abs().max() / wanted.abs().max() < 1e-5
        assert (cached - wanted).abs().max() / wanted.abs().max() < 1e-5
        for block in ours.blocks:
            block.feedforward.router.balance.zero_()  # without the balance other experts are chosen
        assert (ours(tokens) - wanted).abs().max() / wanted.abs().max() > 1e-3
