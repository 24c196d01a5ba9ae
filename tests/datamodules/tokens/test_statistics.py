"""Counts of pairs and of longer sequences equal those of a loop."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.tokens import statistics
from datamodules.tokens.statistics import count_bigrams, count_ngrams
from datamodules.tokens.store import TokenStore
from datamodules.tokens.store_writer import StoreWriter


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("most", [2, 100, 10_000])
def test_pairs_are_counted_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, most: int):
    monkeypatch.setattr(statistics, "CHUNK", chunk)
    random = np.random.default_rng(0)
    with StoreWriter(tmp_path / "tokens", vocab_size=70_000, end=0) as writer:
        for _ in range(20):
            writer.write(random.choice([1, 2, 3, 69_999], 15), 15)
    store = TokenStore(tmp_path / "tokens")
    pairs, counts = count_bigrams(store, most)
    expected = Counter(pairwise(store.tokens[:most].tolist()))
    assert {(a, b): n for (a, b), n in zip(pairs.T.tolist(), counts.tolist(), strict=True)} == expected


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.sampled_from([5, 2**15, 2**20]),  # of 20 bits, 3 tokens are a number
    st.integers(2, 8),
)
def test_every_sequence_is_counted_in_a_text_whose_end_goes_on_at_its_start(
    text: list[int], vocab_size: int, order: int
) -> None:
    spread = [token * (vocab_size // 5) for token in text]  # high ids, too
    levels = list(count_ngrams(np.array(spread), order, vocab_size))
    assert len(levels) == order
    keys, counts = levels[0]
    assert keys.tolist() == list(range(vocab_size))
    assert {token: count for token, count in enumerate(counts.tolist()) if count} == Counter(spread)
    places = {(token,): token for token in spread}
    for length, (keys, counts) in enumerate(levels[1:], 2):
        around = spread * (1 + length)
        grams = sorted(Counter(tuple(around[start : start + length]) for start in range(len(spread))).items())
        assert keys.tolist() == [places[gram[:-1]] * vocab_size + gram[-1] for gram, _ in grams]
        assert counts.tolist() == [count for _, count in grams]
        places = {gram: place for place, (gram, _) in enumerate(grams)}


def test_a_text_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MOST_IN_NGRAMS", 6)
    with pytest.raises(DataError, match=r"text has 7 tokens, and n-grams .* up to 6: set gpt.ngram_order to 0"):
        next(count_ngrams(np.arange(7), 3, 10))
