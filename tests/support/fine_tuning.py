"""A checkpoint to begin with, and records to learn from, made in a moment."""

import json
import random
from pathlib import Path
from typing import Any

import torch

from datamodules.text.tokenizer import Tokenizer
from datamodules.text.training import train_bpe
from llm.model import GPT, GPTConfig

TEXT = "What is the sum of 12 and 34? The sum is 46. Say it again, please: forty-six, no more and no less.\n" * 20
SHAPE = {"context_length": 64, "n_layers": 2, "d_model": 32, "n_heads": 2, "d_ff": 64, "tie_embeddings": False}


def make_tokenizer() -> Tokenizer:
    """A tokenizer of 300 ids."""
    return Tokenizer(train_bpe([TEXT], 300))


def write_base(folder: Path, *, seed: int = 0, **shape: Any) -> Path:
    """A checkpoint of a model with random weights, as pretraining leaves one: `base.ckpt` in the folder."""
    tokenizer = make_tokenizer()
    config = GPTConfig(**{**SHAPE, "vocab_size": tokenizer.vocab_size, **shape})
    model = GPT(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # what begins at zero counts too
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 20)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "base.ckpt"
    torch.save(
        {
            "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
            "labyrinth": {
                "format": 1,
                "gpt": config.to_dict(),
                "tokenizer": tokenizer.to_str(),
                "data_fingerprint": "0123456789abcdef",
                "decay_start": None,
            },
        },
        path,
    )
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    return path


def write_sums(path: Path, n: int = 200, seed: int = 0) -> Path:
    """Questions and answers that a small model can learn, as JSON lines; no two questions are equal."""
    draw = random.Random(seed)
    pairs = draw.sample([(a, b) for a in range(40) for b in range(40)], n)
    lines = [json.dumps({"instruction": f"sum of {a} and {b}?", "output": f"it is {a + b}."}) for a, b in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
