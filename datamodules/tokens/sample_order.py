"""Which row each sample of a run is."""

import numpy as np

from datamodules.tokens.order import Permutation
from datamodules.tokens.windowed_order import WindowedPermutation


class SampleOrder:
    """Which row each sample of the run is, whatever the hardware.

    An epoch is as many whole steps as the rows allow; the rows of each epoch come from a permutation of all rows
    with a key of its own, so the few that do not fill a step are others in each epoch.

    Args:
        seed: of the permutations.
        rows: that there are.
        rows_per_step: of one optimizer step.
        window: shuffle no farther than within so many rows (datamodules/tokens/windowed_order.py); None: all.
        block: rows that stay together within windows.
    """

    def __init__(
        self, seed: int, rows: int, rows_per_step: int, window: int | None = None, block: int | None = None
    ) -> None:
        if rows < rows_per_step:
            raise ValueError(f"{rows} rows are fewer than the {rows_per_step} of one step")
        self.seed = seed
        self.rows = rows
        self.rows_per_step = rows_per_step
        self.steps_per_epoch = rows // rows_per_step
        self.samples_per_epoch = self.steps_per_epoch * rows_per_step
        self.window, self.block = window, None if window is None else block

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """int64 [...] sample numbers of the run to int64 [...] rows."""
        samples = np.asarray(samples, dtype=np.int64)
        rows = np.empty_like(samples)
        epochs, places = np.divmod(samples, self.samples_per_epoch)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._permutation(int(epoch))(places[chosen])
        return rows

    def _permutation(self, epoch: int) -> Permutation | WindowedPermutation:
        if self.window is None:
            return Permutation(self.rows, self.seed, epoch)
        window = min(self.window, self.rows)
        block = min(self.block or window, window)
        return WindowedPermutation(self.rows, window, block, self.seed, epoch)
