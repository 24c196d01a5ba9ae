"""Ctrl-C during training."""

import signal
from typing import Any

import lightning as L


class InterruptBetweenSteps(L.Callback):
    """Let Ctrl-C end training between two batches, with every step logged whole; a second one at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take SIGINT over."""
        self._before = signal.signal(signal.SIGINT, self._ask)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End here where it was asked for."""
        if self.asked:
            raise KeyboardInterrupt
        # The logger's step; Lightning restores it one too low or too high after some interruptions.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_validation_batch_start(self, *_: Any) -> None:
        """End here where it was asked for: the scores of a part of the text would mean nothing."""
        if self.asked:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give SIGINT back."""
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
