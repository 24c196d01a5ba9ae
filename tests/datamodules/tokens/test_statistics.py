"""Counts of pairs equal those of a loop, wherever the store is cut."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from datamodules.tokens import statistics
from datamodules.tokens.statistics import count_bigrams
from datamodules.tokens.store import StoreWriter, TokenStore


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
