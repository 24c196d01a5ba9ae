"""Small models of transformers with random weights, and the text of a small tokenizer."""

from typing import Any

import torch
import transformers

transformers.utils.logging.disable_progress_bar()

TEXT = (
    "The cat said: 12 mice, 345 birds; it's 2026!\n\tdef f(x):\n    return x + 1\n" * 4 + "naïve café 中文 don't\n" * 4
)
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
SIZES = {"vocab_size": 304, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 80, "max_position_embeddings": 64}
GPT2_SIZES = {"vocab_size": 304, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 80}


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight far from its start, so that a norm weight or bias in the wrong place shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.ndim == 1 else 0.1))
    return model.eval()


def build(name: str, **settings: Any) -> torch.nn.Module:
    """A model of the architecture `name`: Llama, Mistral, Mixtral, Qwen2, Qwen3, Qwen3Moe, Starcoder2 or GPT2."""
    if name == "GPT2":
        config = transformers.GPT2Config(**{**GPT2_SIZES, **SPECIAL, "layer_norm_epsilon": 0.01, **settings})
        return randomise(transformers.GPT2LMHeadModel(config))
    epsilon = {"norm_epsilon" if name == "Starcoder2" else "rms_norm_eps": 0.01}  # so large that its lack would show
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **SPECIAL, **epsilon, **settings})
    return randomise(getattr(transformers, f"{name}ForCausalLM")(config))
