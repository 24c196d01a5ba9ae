"""A model that starts as the bigrams of a text gives their probabilities, and refuses what cannot start so."""

import pytest
import torch

from llm.model import GPT, ConfigError, GPTConfig
from llm.model.spectral import SMOOTHING, start_as_bigrams

VOCABULARY = 40
SHAPE = {
    "vocab_size": VOCABULARY,
    "context_length": 16,
    "n_layers": 2,
    "d_model": 64,
    "n_heads": 2,
    "zero_init_residual": True,
}


def text(length: int = 20_000) -> torch.Tensor:
    """Tokens of which each prefers a few followers, some of them rare."""
    generator = torch.Generator().manual_seed(0)
    chances = torch.rand(VOCABULARY, VOCABULARY, generator=generator) ** 8
    tokens = [0]
    for draw in torch.rand(length, generator=generator).tolist():
        cumulated = chances[tokens[-1]].cumsum(0)
        tokens.append(int(torch.searchsorted(cumulated, draw * cumulated[-1])))
    return torch.tensor(tokens)


def bigrams(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([tokens[:-1], tokens[1:]]).unique(dim=1, return_counts=True)


def smoothed(tokens: torch.Tensor) -> torch.Tensor:
    """Probabilities [V, V] of the follower of each token, by a loop."""
    counts = torch.zeros(VOCABULARY, VOCABULARY)
    for a, b in zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True):
        counts[a, b] += 1
    share = (counts.sum(0) + 0.5) / (counts.sum() + 0.5 * VOCABULARY)
    return (counts + SMOOTHING * share) / (counts.sum(1, keepdim=True) + SMOOTHING)


def test_with_room_enough_the_first_logits_are_those_of_the_smoothed_bigrams() -> None:
    tokens = text()
    model = GPT(GPTConfig(**SHAPE))
    start_as_bigrams(model, *bigrams(tokens))
    got = model(torch.arange(VOCABULARY)[:, None])[:, 0].softmax(-1)
    longest = model.embedding.weight.norm(dim=1) > 0.9999 * 64**0.5  # the longest one was shortened
    assert longest.sum() >= VOCABULARY - 1
    close = (got - smoothed(tokens)).abs().amax(1) < 1e-3
    assert close.sum() >= VOCABULARY - 2


def test_with_less_room_the_first_loss_is_still_near_that_of_the_bigrams() -> None:
    tokens = text()
    expected = -smoothed(tokens)[tokens[:-1], tokens[1:]].log().mean()
    losses = {}
    for width in (8, 32):
        model = GPT(GPTConfig(**{**SHAPE, "d_model": width}))
        start_as_bigrams(model, *bigrams(tokens))
        logits = model(tokens[:-1, None])[:, 0]
        losses[width] = torch.nn.functional.cross_entropy(logits, tokens[1:])
    assert expected < losses[32] < expected + 0.1
    assert losses[32] < losses[8] < torch.tensor(VOCABULARY).log() - 0.2


def test_tokens_that_never_come_are_no_trouble() -> None:
    model = GPT(GPTConfig(**SHAPE))
    start_as_bigrams(model, torch.tensor([[3], [4]]), torch.tensor([7]))
    assert model(torch.arange(16)[None]).isfinite().all()


def test_the_same_counts_give_the_same_weights() -> None:
    first, second = GPT(GPTConfig(**SHAPE)), GPT(GPTConfig(**SHAPE), seed=5)
    for model in (first, second):
        start_as_bigrams(model, *bigrams(text(2000)))
    assert torch.equal(first.embedding.weight, second.embedding.weight)
    assert first.head is not None
    assert second.head is not None
    assert torch.equal(first.head.weight, second.head.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tie_embeddings": True}, "needs tie_embeddings false, not true"),
        ({"norm": "layernorm"}, "needs norm rmsnorm, not layernorm"),
        ({"position": "learned"}, "needs position rope, not learned"),
    ],
)
def test_what_cannot_start_so_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        start_as_bigrams(GPT(GPTConfig(**{**SHAPE, **change})), *bigrams(text(100)))
