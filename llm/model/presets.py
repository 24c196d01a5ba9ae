"""Named shapes: fields of GPTConfig."""

from typing import Any

_GPT2: dict[str, Any] = {
    "vocab_size": 50257,
    "context_length": 1024,
    "position": "learned",
    "norm": "layernorm",
    "feedforward": "gelu",
    "bias": True,
    "tie_embeddings": True,
    "init": "gpt2",
}

PRESETS: dict[str, dict[str, Any]] = {
    # Radford et al. 2019, table 2. Its dropout of 0.1 is left at 0: it only pays when text is seen many times.
    "gpt2-124m": {**_GPT2, "n_layers": 12, "d_model": 768, "n_heads": 12},
    "gpt2-355m": {**_GPT2, "n_layers": 24, "d_model": 1024, "n_heads": 16},
    "gpt2-774m": {**_GPT2, "n_layers": 36, "d_model": 1280, "n_heads": 20},
    "gpt2-1.5b": {**_GPT2, "n_layers": 48, "d_model": 1600, "n_heads": 25},
    # Learns in minutes on a laptop: narrow, so that many steps fit, with a small vocabulary.
    "tiny": {
        "vocab_size": 2048,
        "context_length": 256,
        "n_layers": 4,
        "d_model": 128,
        "n_heads": 2,
        "qk_norm": True,
    },
    # Tied below a billion parameters, where a second vocabulary table would take a fifth of them, and deep rather than
    # wide (Liu et al. 2024, MobileLLM, sections 2.2.1-2.2.3). GQA from 120m on, where the KV cache begins to weigh.
    "30m": {
        "vocab_size": 8192,
        "context_length": 512,
        "n_layers": 8,
        "d_model": 512,
        "n_heads": 8,
        "qk_norm": True,
        "tie_embeddings": True,
    },
    "120m": {
        "vocab_size": 32768,
        "context_length": 1024,
        "n_layers": 15,
        "d_model": 768,
        "n_heads": 12,
        "n_kv_heads": 4,
        "qk_norm": True,
        "tie_embeddings": True,
    },
    # The shape of TinyLlama 1.1B (Zhang et al. 2024, table 1).
    "1b": {
        "vocab_size": 32000,
        "context_length": 2048,
        "n_layers": 22,
        "d_model": 2048,
        "n_heads": 32,
        "n_kv_heads": 4,
        "d_ff": 5632,
    },
    # The shape of Llama 2 7B (Touvron et al. 2023).
    "7b": {
        "vocab_size": 32000,
        "context_length": 4096,
        "n_layers": 32,
        "d_model": 4096,
        "n_heads": 32,
        "d_ff": 11008,
    },
    # The shape of Llama 3 70B (Grattafiori et al. 2024, table 3; vocabulary and context of the first release).
    "70b": {
        "vocab_size": 128256,
        "context_length": 8192,
        "n_layers": 80,
        "d_model": 8192,
        "n_heads": 64,
        "n_kv_heads": 8,
        "d_ff": 28672,
        "rope_theta": 500_000.0,
    },
}
