"""NGramCounts against counting by hand."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.model.ngrams import DISCOUNT, NGramCounts, NGramMixture, count_ngrams

V = 5


def build(text: list[int], order: int) -> NGramCounts:
    tokens = torch.tensor(text)
    counts = NGramCounts(V, [len(keys) for keys, _ in count_ngrams(tokens, order, V)])
    counts.fill(tokens)
    return counts


def by_hand(text: list[int], context: list[int], target: int, order: int, left_out: Counter | None = None) -> float:
    """The recursion as it stands in the paper, with a Counter of n-grams; `left_out` are taken away from it."""
    grams = Counter(tuple(text[i : i + n]) for n in range(2, order + 1) for i in range(len(text) - n + 1))
    grams.subtract(left_out or {})
    singles = Counter(text)
    probability = (singles[target] + 0.5) / (len(text) + 0.5 * V)
    for n in range(2, order + 1):
        if len(context) < n - 1:
            break
        seen = {
            gram: count
            for gram, count in grams.items()
            if gram[:-1] == tuple(context[1 - n :]) and count > 0 and len(gram) == n
        }
        total = sum(seen.values())
        if total:
            own = seen.get((*context[1 - n :], target), 0)
            probability = (max(own - DISCOUNT, 0) + DISCOUNT * len(seen) * probability) / total
    return probability


texts = st.lists(st.integers(0, V - 1), min_size=8, max_size=40)


@settings(deadline=None, max_examples=60)
@given(texts, st.lists(st.integers(0, V - 1), min_size=1, max_size=8), st.integers(2, 4))
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
@given(texts, st.integers(2, 4))
def test_an_occurrence_that_is_left_out_was_never_counted(text: list[int], order: int) -> None:
    counts = build(text, order)
    tokens, targets = torch.tensor([text[:-1]]), torch.tensor([text[1:]])
    probability, _ = counts.probability(tokens, targets, leave_out=True)
    for place in range(len(text) - 1):
        gone = Counter(tuple(text[place + 2 - n : place + 2]) for n in range(2, min(order, place + 2) + 1))
        expected = by_hand(text, text[: place + 1], text[place + 1], order, gone)
        assert probability[0, place].item() == pytest.approx(expected, rel=1e-5)


@given(texts, st.integers(3, 4))
def test_tokens_before_are_part_of_the_context(text: list[int], order: int) -> None:
    counts = build(text, order)
    tokens = torch.tensor([text])
    whole, known = counts.distribution(tokens)
    cut = 5
    rest, rest_known = counts.distribution(tokens[:, cut:], tokens[:, cut - (order - 2) : cut])
    torch.testing.assert_close(rest, whole[:, cut:])
    torch.testing.assert_close(rest_known, known[:, cut:])


@pytest.mark.parametrize("training", [False, True])
def test_the_mixture_is_a_distribution_and_its_gate_is_learnt(training: bool) -> None:
    text = torch.randint(0, V, (60,), generator=torch.Generator().manual_seed(0))
    mixture = NGramMixture(V, 6, [len(keys) for keys, _ in count_ngrams(text, 3, V)]).train(training)
    mixture.counts.fill(text)
    x, logits = torch.randn(1, 59, 6, requires_grad=True), torch.randn(1, 59, V)
    tokens, targets = text[None, :-1], text[None, 1:]
    single = mixture.log_probability(x, logits, tokens, targets)
    whole = mixture.log_distribution(x, logits, tokens)
    torch.testing.assert_close(whole.exp().sum(-1), torch.ones(1, 59))
    equal = torch.allclose(single, whole.gather(-1, targets[..., None]).squeeze(-1), atol=1e-5)
    assert equal is not training  # in training the own occurrence is left out
    single.sum().backward()
    assert mixture.gate.weight.grad.abs().sum() > 0
    assert x.grad.abs().sum() > 0
