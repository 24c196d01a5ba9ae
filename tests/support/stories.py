"""The 260,000-parameter Llama of llama2.c, from its own file."""

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llm.model import GPT, GPTConfig


def read_stories(folder: Path) -> GPT:
    """Read the legacy layout: seven int32, then every weight as float32, matrix kind by matrix kind."""
    data = (folder / "stories260K.bin").read_bytes()
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
    model = GPT(config)
    model.load_state_dict(weights)
    return model.eval()
