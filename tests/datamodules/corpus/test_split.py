import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.corpus.split import cut_tail, in_validation, is_near


def test_the_share_is_as_asked_and_a_larger_one_holds_the_smaller() -> None:
    clusters = np.random.default_rng(0).integers(0, 2**63, size=(100_000, 2)).astype(np.uint64)
    small, large = in_validation(clusters, 0.05), in_validation(clusters, 0.2)
    assert small.mean() == pytest.approx(0.05, abs=0.003)
    assert large.mean() == pytest.approx(0.2, abs=0.005)
    assert not (small & ~large).any()
    assert not in_validation(clusters, 0.0).any()


def test_neighbouring_hashes_fall_on_both_sides() -> None:
    clusters = np.arange(20_000, dtype=np.uint64).reshape(-1, 2)
    assert in_validation(clusters, 0.5).mean() == pytest.approx(0.5, abs=0.02)


@given(st.text(alphabet="ab\n", max_size=300), st.floats(0.01, 0.9))
def test_a_tail_is_about_as_long_as_asked(text: str, fraction: float) -> None:
    tail = len(text) - cut_tail(text, fraction)
    asked = round(len(text) * fraction)
    assert asked / 2 - 1 <= tail <= asked * 1.5 + 1


def test_a_tail_starts_at_a_line() -> None:
    text = "".join(f"line {number}\n" for number in range(100))
    cut = cut_tail(text, 0.1)
    assert text[cut - 1] == "\n"
    assert text[cut:].startswith("line 9")
    assert cut_tail("x" * 100, 0.1) == 90


def test_near_is_between_half_and_twice() -> None:
    assert is_near(0.025, 0.05)
    assert is_near(0.1, 0.05)
    assert not is_near(0.02, 0.05)
    assert not is_near(0.11, 0.05)
