"""The distribution that each sampling setting draws from."""

import pytest
import torch

from llm.generation import sample

PROBABILITIES = torch.tensor([0.5, 0.3, 0.15, 0.05])


def frequencies(n: int = 20_000, **settings: object) -> torch.Tensor:
    logits = PROBABILITIES.log().expand(n, 4)
    drawn = sample(logits, generator=torch.Generator().manual_seed(0), **settings)
    return drawn.bincount(minlength=4) / n


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0.5}, (PROBABILITIES**2 / (PROBABILITIES**2).sum()).tolist()),
        ({"top_k": 2}, [0.625, 0.375, 0, 0]),
        ({"top_k": 9}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 0.7}, [0.625, 0.375, 0, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"top_p": 1.0}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 3, "top_p": 0.6}, [0.625, 0.375, 0, 0]),
        ({"temperature": 0}, [1, 0, 0, 0]),
    ],
)
def test_tokens_come_as_often_as_they_should(settings: dict[str, object], expected: list[float]) -> None:
    torch.testing.assert_close(frequencies(**settings), torch.tensor(expected, dtype=torch.float32), rtol=0, atol=0.015)


def test_a_seed_repeats_the_draw() -> None:
    logits = torch.randn(5, 100)
    draws = [sample(logits, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)


def test_very_low_temperature_stays_finite() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert sample(logits, temperature=1e-30).tolist() == [1]


def test_logits_are_left_as_they_are() -> None:
    logits = torch.randn(2, 10)
    before = logits.clone()
    sample(logits, temperature=0.5, top_k=3, top_p=0.5)
    assert torch.equal(logits, before)
