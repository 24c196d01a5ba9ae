"""Small models whose weights are random and far from their start."""

import numpy as np
import torch

from datamodules.tokens.statistics import count_ngrams
from llm.model import GPT, GPTConfig
from llm.model.ngrams import NGramCounts

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
        count_text(model.ngrams.counts, (draws**4 * model.config.vocab_size).astype(np.uint16))
    return model


def count_text(counts: NGramCounts, tokens: np.ndarray) -> None:
    """Count a text, as a run does before its first step."""
    levels = count_ngrams(tokens, counts.order, counts.vocab_size)
    counts.fill((torch.from_numpy(keys), torch.from_numpy(often)) for keys, often in levels)
