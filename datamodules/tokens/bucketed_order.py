"""An order in which samples of like length are read together, so that little of a batch is padding."""

from functools import lru_cache

import numpy as np

from datamodules.tokens.order import Permutation
from datamodules.tokens.sample_order import SampleOrder

WINDOW = 50  # steps whose samples are sorted by length together


class BucketedOrder(SampleOrder):
    """As SampleOrder; within windows of steps the samples are sorted by length, cut into steps, and these mixed again.

    Within a step the longest come first, so micro-batches are of like length as well. All of it is a function of seed,
    epoch and lengths, whatever the hardware.

    Args:
        seed: of the permutations.
        lengths: int64 [rows], of each row.
        rows_per_step: of one optimizer step.
    """

    def __init__(self, seed: int, lengths: np.ndarray, rows_per_step: int) -> None:
        super().__init__(seed, len(lengths), rows_per_step)
        self.window = WINDOW
        self.lengths = np.asarray(lengths)
        self._of_epoch = lru_cache(2)(self._sorted)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """int64 [...] sample numbers of the run to int64 [...] rows."""
        samples = np.asarray(samples, dtype=np.int64)
        rows = np.empty_like(samples)
        epochs, places = np.divmod(samples, self.samples_per_epoch)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._of_epoch(int(epoch))[places[chosen]]
        return rows

    def _sorted(self, epoch: int) -> np.ndarray:
        """The rows of an epoch in the order in which they are read, int64 [samples_per_epoch]."""
        mixed = Permutation(self.rows, self.seed, epoch)(np.arange(self.samples_per_epoch))
        steps = mixed.reshape(self.steps_per_epoch, self.rows_per_step)
        for first in range(0, len(steps), WINDOW):
            window = steps[first : first + WINDOW].ravel()
            by_length = window[np.argsort(-self.lengths[window], kind="stable")].reshape(-1, self.rows_per_step)
            again = Permutation(len(by_length), self.seed, epoch, first)(np.arange(len(by_length)))
            steps[first : first + WINDOW] = by_length[again]
        return steps.ravel()
