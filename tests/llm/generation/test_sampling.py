"""The distribution that each sampling setting draws from."""

import pytest
import torch

from llm.errors import UserError
from llm.generation import Sampling

PROBABILITIES = torch.tensor([0.5, 0.3, 0.15, 0.05])


N = 20_000
UNIFORM = torch.rand(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def frequencies(**settings: object) -> torch.Tensor:
    drawn = Sampling(**{"temperature": 1.0, **settings}).draw(PROBABILITIES.log().expand(N, 4), UNIFORM)
    return drawn.bincount(minlength=4) / N


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
        ({"min_p": 0.31}, [0.625, 0.375, 0, 0]),
        ({"min_p": 1.0}, [1, 0, 0, 0]),
        ({"min_p": 0.0}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 0.9, "min_p": 0.4}, [0.625, 0.375, 0, 0]),
        ({"temperature": 0}, [1, 0, 0, 0]),
    ],
)
def test_tokens_come_as_often_as_they_should(settings: dict[str, object], expected: list[float]) -> None:
    torch.testing.assert_close(frequencies(**settings), torch.tensor(expected, dtype=torch.float32), rtol=0, atol=0.015)


def test_a_draw_is_where_its_number_lies_in_the_sum() -> None:
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81, 0.94, 0.96, 1 - 2**-53], dtype=torch.float64)
    drawn = Sampling(temperature=1.0).draw(PROBABILITIES.log().expand(8, 4), uniform)
    assert drawn.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"min_p": 0.2}, {"top_k": 7}])
def test_what_has_no_probability_is_never_drawn(settings: dict[str, float]) -> None:
    logits = torch.full((3, 10), -torch.inf)
    logits[:, 4] = 0.0
    uniform = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert Sampling(temperature=1.0, **settings).draw(logits, uniform).tolist() == [4, 4, 4]


def test_a_large_vocabulary_loses_no_token_to_rounding() -> None:
    size = 200_000
    uniform = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = Sampling(temperature=1.0).draw(torch.zeros(50, size), uniform)
    assert torch.equal(drawn, (uniform * size).long())


def test_very_low_temperature_stays_finite() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert Sampling(temperature=1e-30).draw(logits, torch.zeros(1, dtype=torch.float64)).tolist() == [1]


def test_logits_are_left_as_they_are() -> None:
    logits = torch.randn(2, 10)
    before = logits.clone()
    sampling = Sampling(temperature=0.5, top_k=3, top_p=0.5, min_p=0.1, repetition_penalty=2.0)
    sampling.draw(sampling.penalize(logits, torch.ones(2, 10, dtype=torch.bool)), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(logits, before)


def test_the_penalty_lowers_what_was_seen_whatever_its_sign() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert Sampling(repetition_penalty=2.0).penalize(logits, seen).tolist() == [[1.0, -4.0, 2.0, -2.0]]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="temperature is -1: it must be at least 0"):
        Sampling(temperature=-1)
