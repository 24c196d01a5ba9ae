"""NGramCounts against counting by hand."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import count_text

from llm.model.ngrams import DISCOUNT, SMOOTHING, NGramCounts

V = 5


def build(text: list[int], order: int) -> NGramCounts:
    counts = NGramCounts(V, order)
    count_text(counts, np.array(text, np.uint16))
    return counts


def ring(text: list[int], length: int) -> Counter[tuple[int, ...]]:
    """The sequences of `length` tokens in a text whose end goes on at its start."""
    around = text * (1 + length)
    return Counter(tuple(around[i : i + length]) for i in range(len(text)))


def by_hand(text: list[int], context: list[int], target: int, order: int, *, without: bool = False) -> float:
    """The recursion as it stands in the paper, with a Counter; `without` one occurrence of context and target."""
    probability = (Counter(text)[target] + SMOOTHING) / (len(text) + SMOOTHING * V)
    for length in range(2, min(order, len(context) + 1) + 1):
        grams, end = ring(text, length), tuple(context[1 - length :])
        if without and grams[*end, target]:
            grams[*end, target] -= 1
        seen = [count for gram, count in grams.items() if gram[:-1] == end and count > 0]
        if seen:
            given_away = DISCOUNT * len(seen) * probability
            probability = (max(grams[*end, target] - DISCOUNT, 0) + given_away) / sum(seen)
    return probability


texts = st.lists(st.integers(0, V - 1), min_size=1, max_size=40)
orders = st.integers(2, 5)


@settings(deadline=None, max_examples=60)
@given(texts, st.lists(st.integers(0, V - 1), min_size=1, max_size=8), orders)
def test_probabilities_are_those_by_hand(text: list[int], seen: list[int], order: int) -> None:
    counts = build(text, order)
    whole, _ = counts.distribution(torch.tensor([seen]))
    torch.testing.assert_close(whole.sum(-1), torch.ones(1, len(seen)))
    for target in range(V):
        single, _ = counts.probability(torch.tensor([seen]), torch.full((1, len(seen)), target))
        torch.testing.assert_close(single, whole[..., target])
        for place in range(len(seen)):
            expected = by_hand(text, seen[: place + 1], target, order)
            assert single[0, place].item() == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(texts, orders)
def test_an_occurrence_that_is_left_out_was_never_counted(text: list[int], order: int) -> None:
    tokens, targets = torch.tensor([text]), torch.tensor([[*text[1:], text[0]]])
    probability, _ = build(text, order).probability(tokens, targets, leave_out=True)
    for place in range(len(text)):
        expected = by_hand(text, text[: place + 1], targets[0, place].item(), order, without=True)
        assert probability[0, place].item() == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, V - 1), min_size=8, max_size=40), orders, st.integers(0, 2))
def test_tokens_before_are_part_of_the_context(text: list[int], order: int, more: int) -> None:
    counts, tokens, cut = build(text, order), torch.tensor([text]), 5
    before = tokens[:, max(0, cut - (order - 2) - more) : cut]
    rest = counts.distribution(tokens[:, cut:], before)
    torch.testing.assert_close(rest, tuple(whole[:, cut:] for whole in counts.distribution(tokens)))


@settings(deadline=None, max_examples=40)
@given(texts, st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=6), min_size=1, max_size=4), orders)
def test_documents_see_nothing_of_each_other(text: list[int], documents: list[list[int]], order: int) -> None:
    counts = build(text, order)
    first = [[place == 0 for document in documents for place in range(len(document))]]
    packed = counts.distribution(
        torch.tensor([[token for document in documents for token in document]]), None, torch.tensor(first)
    )
    alone = [counts.distribution(torch.tensor([document])) for document in documents]
    torch.testing.assert_close(packed, tuple(torch.cat(parts, 1) for parts in zip(*alone, strict=True)))


def test_nothing_counted_is_a_uniform_guess() -> None:
    counts = NGramCounts(V, 4)
    for _ in range(2):
        whole, known = counts.distribution(torch.tensor([[1, V - 1, V - 1]]))
        torch.testing.assert_close(whole, torch.full((1, 3, V), 1 / V))
        assert known[0].tolist() == [[1, 0, 0, 0, 0, 0]] * 3
        assert len(counts) == 0
        count_text(counts, np.array([1, 2, 3, 3]))
        assert len(counts) == 4 * 3
        counts.reset()


@pytest.mark.parametrize("assign", [True, False])
def test_a_state_brings_its_own_sizes(assign: bool) -> None:
    source, target = build([1, 2, 3, 1, 2, 4], 4), build([0, 1], 4)
    with torch.device("meta" if assign else "cpu"):
        target = NGramCounts(V, 4) if assign else target
    target.load_state_dict(source.state_dict(), assign=assign)
    tokens = torch.tensor([[1, 2, 3, 4, 0]])
    torch.testing.assert_close(target.distribution(tokens), source.distribution(tokens))
    assert not any(name.startswith("starts") for name in source.state_dict())  # they follow from the others


def test_no_cast_touches_a_count() -> None:
    counts, tokens = build([1, 2, 3, 1, 2, 4] * 99, 4), torch.tensor([[1, 2, 3]])
    before = counts.distribution(tokens)
    torch.testing.assert_close(counts.bfloat16().distribution(tokens), before, rtol=0, atol=0)
