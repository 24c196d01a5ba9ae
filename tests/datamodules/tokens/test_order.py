import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.tokens.order import Permutation
from datamodules.tokens.sample_order import SampleOrder


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(-(2**63), 2**63), st.integers(0, 1000))
def test_it_is_a_bijection(n: int, seed: int, epoch: int) -> None:
    values = Permutation(n, seed, epoch)(np.arange(n))
    assert values.dtype == np.int64
    assert (np.sort(values) == np.arange(n)).all()


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 2**16, 2**16 + 1])
def test_it_is_a_bijection_at_the_edges(n: int) -> None:
    assert (np.sort(Permutation(n, 0)(np.arange(n))) == np.arange(n)).all()


def test_one_at_a_time_equals_all_at_once() -> None:
    permutation = Permutation(1000, 3)
    together = permutation(np.arange(1000))
    assert [int(permutation(np.array([index]))[0]) for index in range(1000)] == together.tolist()
    assert (permutation(np.arange(1000).reshape(10, 100)) == together.reshape(10, 100)).all()


def test_huge_ranges_need_no_memory() -> None:
    values = Permutation(10**15 + 7, 1)(np.arange(100_000))
    assert values.min() >= 0
    assert values.max() < 10**15 + 7
    assert len(np.unique(values)) == 100_000
    assert values.mean() / 10**15 == pytest.approx(0.5, abs=0.01)


def test_keys_give_unrelated_orders() -> None:
    orders = [Permutation(10_000, *key)(np.arange(10_000)) for key in ((0, 0), (0, 1), (1, 0))]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (orders[first] == orders[second]).sum() < 10
    for order in orders:
        assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.04
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.04


@pytest.mark.parametrize("n", [2, 5, 100])
def test_every_row_comes_equally_often_at_every_place(n: int) -> None:
    trials = 2000
    counts = np.zeros((n, n))
    for epoch in range(trials):
        counts[np.arange(n), Permutation(n, 7, epoch)(np.arange(n))] += 1
    expected = trials / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = (n - 1) ** 2
    assert abs(chi_square - freedom) < 6 * np.sqrt(2 * freedom)


def test_an_epoch_has_each_row_at_most_once_and_the_rest_changes() -> None:
    order = SampleOrder(0, 103, 10)
    assert (order.steps_per_epoch, order.samples_per_epoch) == (10, 100)
    epochs = order(np.arange(300)).reshape(3, 100)
    left_out = []
    for rows in epochs:
        assert len(np.unique(rows)) == 100
        left_out.append(set(range(103)) - set(rows.tolist()))
    assert left_out[0] != left_out[1]
    assert (order(np.array([250, 50, 150])) == epochs[[2, 0, 1], 50]).all()


def test_fewer_rows_than_a_step() -> None:
    with pytest.raises(ValueError, match="9 rows are fewer than the 10 of one step"):
        SampleOrder(0, 9, 10)
