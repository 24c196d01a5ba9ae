"""Numbers of a report: how they are written, and that bins hold every value once."""

from hypothesis import given
from hypothesis import strategies as st

from datamodules.corpus.reporting import numbers


def test_how_numbers_are_written() -> None:
    assert [numbers.size(n) for n in (0, 999, 1000, 12_345, 999_499, 999_600, 123_456_789, 10**14)] == [
        "0 bytes", "999 bytes", "1.00 kB", "12.3 kB", "999 kB", "1.00 MB", "123 MB", "100 TB"
    ]  # fmt: skip
    assert [numbers.short_count(n) for n in (9_999_999, 10**7, 999_600_000, 2 * 10**12, 10**16)] == [
        "9,999,999", "10.0 million", "1.00 billion", "2.00 trillion", "10,000 trillion"
    ]  # fmt: skip
    assert [numbers.share(*p) for p in ((0, 9), (1, 9), (1, 10**6), (999_999, 10**6), (9, 9), (0, 0))] == [
        "0.0 %", "11.1 %", "< 0.1 %", "> 99.9 %", "100.0 %", "–"
    ]  # fmt: skip
    assert [numbers.duration(s) for s in (0.016, 12.34, 100, 3599, 3723, 36_000_000)] == [
        "0.02 s", "12.3 s", "2 min", "1 h 0 min", "1 h 2 min", "10,000 h"
    ]  # fmt: skip


def test_bins_hold_every_value_once() -> None:
    assert numbers.size_bins({"2": 130, "3": 20, "4": 1, "17": 1}) == [
        (2, 2, 130), (3, 4, 21), (5, 8, 0), (9, 16, 0), (17, 32, 1)
    ]  # fmt: skip
    assert numbers.size_bins({}) == []
    ninety = 0.8999999761581421  # as 32 bits hold it
    found = numbers.jaccard_bins([ninety, 0.8999, 0.95, 0.975, 1.0, 1.0])
    assert found == [(0.875, 0.9, 1), (0.9, 0.925, 1), (0.925, 0.95, 0), (0.95, 0.975, 1), (0.975, 1.0, 3)]


@given(st.dictionaries(st.integers(2, 10**9).map(str), st.integers(0, 10**9)))
def test_cluster_bins_add_up(sizes: dict[str, int]) -> None:
    assert sum(clusters for *_, clusters in numbers.size_bins(sizes)) == sum(sizes.values())
