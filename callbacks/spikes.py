"""Whether a number stands far above those before it, by a measure that outliers do not move."""

import math
from bisect import bisect_left, insort
from collections import deque

NORMAL = 1.4826  # of a normal distribution the standard deviation is this times the median absolute deviation
FEWEST = 32  # values before which nothing is called far: at the start of a run everything moves


class Spikes:
    """The last values of a positive measure, and how far the next one is above their median.

    Looked at are logarithms, as both losses and norms vary in proportion to their size. The distance is counted in
    robust deviations: the median absolute deviation, made comparable to a standard deviation (Hampel 1974; Leys et al.
    2013). A single huge value moves neither of the two medians.

    Args:
        window: number of values that are kept.
        least: smallest deviation, as a share of the median: a measure that hardly moves would make news of its last
            digits.
    """

    def __init__(self, window: int, least: float) -> None:
        self.least = math.log1p(least)
        self._values: deque[float] = deque(maxlen=window)  # in order of time
        self._sorted: list[float] = []

    def distance(self, value: float, threshold: float = 0.0) -> float:
        """How many robust deviations `value` is above the median; 0 where it is below, or too little is known.

        What is surely below `threshold` comes out as 0 too, without the second median, which takes most of the time.
        """
        if value <= 0 or len(self._sorted) < min(FEWEST, self._values.maxlen or FEWEST):
            return 0.0
        median = _median(self._sorted)
        above = math.log(value) - median
        if above <= max(0.0, threshold * self.least):
            return 0.0
        return above / max(NORMAL * _median(sorted([abs(v - median) for v in self._sorted])), self.least)

    def add(self, value: float) -> None:
        """Take a value into the window; the oldest leaves when it is full. A zero (no targets) is none."""
        if value <= 0:
            return
        value = math.log(value)
        if len(self._values) == self._values.maxlen:
            del self._sorted[bisect_left(self._sorted, self._values[0])]
        self._values.append(value)
        insort(self._sorted, value)

    def state_dict(self) -> list[float]:
        """The logarithms, for a checkpoint."""
        return list(self._values)

    def load_state_dict(self, values: list[float]) -> None:
        """Restore what `state_dict` gave; of more values than the window has, the newest."""
        self._values = deque(values, maxlen=self._values.maxlen)
        self._sorted = sorted(self._values)


def _median(ordered: list[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
