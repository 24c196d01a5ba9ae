"""An order of rows with locality: what is read in one stretch lies in few files."""

from functools import lru_cache

import numpy as np

from datamodules.tokens.order import Permutation


class WindowedPermutation:
    """A bijection of 0 ... n - 1 that reads blocks of rows in random order, and mixes them within windows.

    Blocks of `block` successive rows are put in a random order; the sequence that this gives is cut into windows of
    `window` rows, each shuffled by itself. While one window is read, only the files that its few blocks lie in are
    needed. Like `Permutation` it is a function of (key, place) alone, in constant memory.

    Args:
        n: rows.
        window: rows that are shuffled with each other.
        block: successive rows that stay together in one window, or in two that follow each other.
        key: of the permutation: the seed and the epoch.
    """

    def __init__(self, n: int, window: int, block: int, *key: int) -> None:
        if not 1 <= block <= window:
            raise ValueError(f"a window of {window} rows cannot have blocks of {block}")
        self.n, self.window, self.block, self.key = n, window, block, key
        self.n_blocks = n // block  # whole ones; the rest of the rows comes last
        self._blocks = Permutation(self.n_blocks, *key, -1) if self.n_blocks else None
        self._within = lru_cache(maxsize=8)(self._permutation_of_window)

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """int64 [...] to int64 [...]."""
        index = np.asarray(index, dtype=np.int64)
        mixed = np.empty_like(index)
        windows = index // self.window
        for window in np.unique(windows).tolist():
            chosen = windows == window
            first = window * self.window
            mixed[chosen] = first + self._within(window)(index[chosen] - first)
        blocks, places = np.divmod(mixed, self.block)
        whole = blocks < self.n_blocks
        if self._blocks is not None and whole.any():
            mixed[whole] = self._blocks(blocks[whole]) * self.block + places[whole]
        return mixed

    def _permutation_of_window(self, number: int) -> Permutation:
        return Permutation(min(self.window, self.n - number * self.window), *self.key, number)
