"""Small models whose weights are random and far from their start."""

import numpy as np
import torch

from llm.model import GPT, GPTConfig

SHAPE = {"vocab_size": 40, "context_length": 24, "n_layers": 2, "d_model": 32, "n_heads": 4}


def random_model(gain: float = 1.0, **change: object) -> GPT:
    """A model in which tables and residual branches that begin at zero count too, the same for the same arguments.

    Its counts of n-grams, where it has some, are those of a text in which low ids come often.
    With a `gain` of 3 its likeliest token leads by so much that a wrong one shows.
    """
    model = GPT(GPTConfig(**{**SHAPE, **change}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 9).mul_(gain)
    if model.ngrams is not None:
        draws = np.random.default_rng(0).random(400)
        model.ngrams.counts.fill((draws**4 * model.config.vocab_size).astype(np.uint16))
    return model
