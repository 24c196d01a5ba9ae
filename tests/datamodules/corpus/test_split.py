import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.corpus.split import cut_tail, in_validation, is_near, mix


def test_the_share_is_as_asked_and_a_larger_one_holds_the_smaller() -> None:
    clusters = np.random.default_rng(0).integers(0, 2**63, size=(100_000, 2)).astype(np.uint64)
    small, large = in_validation(clusters, 0.05), in_validation(clusters, 0.2)
    assert small.mean() == pytest.approx(0.05, abs=0.003)
    assert large.mean() == pytest.approx(0.2, abs=0.005)
    assert not (small & ~large).any()
    assert not in_validation(clusters, 0.0).any()


def test_the_split_is_the_same_in_every_version() -> None:
    # Of documents that were split before, none may change its side: it would stand in both.
    clusters = np.arange(48, dtype=np.uint64).reshape(2, -1).T
    assert np.flatnonzero(in_validation(clusters, 0.3)).tolist() == [1, 3, 7, 11, 15, 23]


def test_mix_is_the_finaliser_of_splitmix64() -> None:
    # The first outputs of the published generator for the seed 0.
    steps = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mix(steps).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


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


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("x" * 70 + "\n" + "x" * 29, 71),  # before the tail alone
        ("x" * 88 + "\n" + "x" * 11, 89),  # within it alone
        ("x" * 77 + "\n" + "x" * 4 + "\n" + "x" * 17, 78),  # 2 before rather than 3 behind
        ("x" * 76 + "\n" + "x" * 4 + "\n" + "x" * 18, 82),  # 2 behind rather than 3 before
        ("x" * 77 + "\n" + "x" * 3 + "\n" + "x" * 18, 78),  # of two as near the one before
        ("x" * 69 + "\n" + "x" * 20 + "\n" + "x" * 9, 80),  # neither is within half a tail
    ],
)
def test_a_tail_starts_at_the_nearest_line_within_half_a_tail(text: str, start: int) -> None:
    assert len(text) == 100
    assert cut_tail(text, 0.2) == start


def test_near_is_between_half_and_twice() -> None:
    assert is_near(0.025, 0.05)
    assert is_near(0.1, 0.05)
    assert not is_near(0.02, 0.05)
    assert not is_near(0.11, 0.05)
