"""An order with locality is a permutation that any place of it can be asked of, and stays near where it reads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.tokens.sample_order import SampleOrder
from datamodules.tokens.windowed_order import WindowedPermutation


@given(n=st.integers(1, 400), window=st.integers(1, 120), share=st.floats(0, 1), epoch=st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_every_row_comes_once_wherever_one_begins_to_ask(n: int, window: int, share: float, epoch: int) -> None:
    block = max(1, int(share * window))
    order = WindowedPermutation(n, window, block, 5, epoch)
    rows = order(np.arange(n))
    assert sorted(rows.tolist()) == list(range(n))
    places = np.random.default_rng(epoch).permutation(n)[:20]
    assert order(places).tolist() == rows[places].tolist()
    assert WindowedPermutation(n, window, block, 5, epoch)(np.array([n - 1])).tolist() == [rows[n - 1]]


def test_a_window_reads_few_blocks_and_mixes_them() -> None:
    order = WindowedPermutation(10_000, 400, 100, 1, 0)
    rows = order(np.arange(10_000)).reshape(-1, 400)
    blocks = [np.unique(window // 100) for window in rows]
    assert {len(found) for found in blocks} == {4}
    assert sum(np.diff(found).max() > 1 for found in blocks) > 20  # from all over the text
    assert all((np.diff(window) == 1).mean() < 0.05 for window in rows)


def test_epochs_and_seeds_are_different_orders() -> None:
    orders = [SampleOrder(seed, 1000, 10, window=100, block=20) for seed in (0, 1)]
    found = [order(np.arange(2000)).reshape(2, 1000) for order in orders]
    assert not np.array_equal(found[0][0], found[0][1])
    assert not np.array_equal(found[0], found[1])
    for epochs in found:
        assert [sorted(epoch.tolist()) for epoch in epochs] == [list(range(1000))] * 2


def test_a_window_as_large_as_the_text_is_no_error() -> None:
    assert sorted(SampleOrder(0, 50, 5, window=1000, block=500)(np.arange(50)).tolist()) == list(range(50))
    with pytest.raises(ValueError, match="cannot have blocks of 9"):
        WindowedPermutation(50, 5, 9, 0)
