"""What the weights of experts are called in the safetensors files of transformers' models, and in ours.

Ours follow `blocks.{layer}.feedforward.`, theirs `model.layers.{layer}.`. Where theirs holds `{expert}`, they keep one
matrix an expert, and ours is the stack of them in order. No matrix is transposed.
"""

import torch
from torch import Tensor

_LLAMA_LIKE = {
    "router.weight": "mlp.gate.weight",
    "experts.gate": "mlp.experts.{expert}.gate_proj.weight",
    "experts.up": "mlp.experts.{expert}.up_proj.weight",
    "experts.down": "mlp.experts.{expert}.down_proj.weight",
}
EXPERT_NAMES: dict[str, dict[str, str]] = {  # transformers' model_type → our name → their name
    "mixtral": {
        "router.weight": "block_sparse_moe.gate.weight",
        "experts.gate": "block_sparse_moe.experts.{expert}.w1.weight",
        "experts.up": "block_sparse_moe.experts.{expert}.w3.weight",
        "experts.down": "block_sparse_moe.experts.{expert}.w2.weight",
    },
    "qwen3_moe": _LLAMA_LIKE,
    "glm4_moe": {
        **_LLAMA_LIKE,
        "router.balance": "mlp.gate.e_score_correction_bias",
        "shared.gate.weight": "mlp.shared_experts.gate_proj.weight",
        "shared.up.weight": "mlp.shared_experts.up_proj.weight",
        "shared.down.weight": "mlp.shared_experts.down_proj.weight",
    },
}


def take_experts(weights: dict[str, Tensor], model_type: str, n_layers: int, n_experts: int) -> dict[str, Tensor]:
    """Take the experts' weights out of `weights` as a file names them; returns them under our names."""
    taken = {}
    for layer in range(n_layers):
        for ours, theirs in EXPERT_NAMES[model_type].items():
            name = f"model.layers.{layer}.{theirs}"
            if "{expert}" in name:
                matrix = torch.stack([weights.pop(name.format(expert=expert)) for expert in range(n_experts)])
            else:
                matrix = weights.pop(name)
            taken[f"blocks.{layer}.feedforward.{ours}"] = matrix
    return taken
