"""transformers' Llama in our shapes, and its loss."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from llm.model import GPTConfig


def transformers_llama(config: GPTConfig) -> Any:
    """The Llama of transformers (extra `test`) with the shape of `config`."""
    import transformers

    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            max_position_embeddings=config.context_length,
            rms_norm_eps=config.norm_eps,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )


def their_loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """The mean of `targets` int64 [B, T], none of which is ignored, by logits that are whole."""
    return F.cross_entropy(model(tokens).logits.flatten(0, 1), targets.flatten())
