"""Which samples a run really read, to be compared with those of another run."""

from pathlib import Path
from typing import Any

import lightning as L
import xxhash


class SampleLog(L.Callback):
    """Write a line a batch: the optimizer step, the rank, and a digest of each row of tokens.

    A run that was interrupted goes on in the same file, with a line `from STEP`; what follows counts for the steps that
    it takes again.

    Args:
        path: of the file; default: `samples-RANK.log` in the trainer's `default_root_dir`.
        key: of the batch's tensor [B, T] whose rows are the samples.
    """

    def __init__(self, path: str | None = None, key: str = "tokens") -> None:
        self.path, self.key = path, key

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell from where the run goes on."""
        self._write(trainer, f"from {trainer.global_step}")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write the line of this batch."""
        rows = batch[self.key].cpu().numpy()
        digests = " ".join(xxhash.xxh3_64_hexdigest(row.tobytes()) for row in rows)
        self._write(trainer, f"{trainer.global_step} {trainer.global_rank} {digests}")

    def _write(self, trainer: L.Trainer, line: str) -> None:
        path = Path(self.path or Path(trainer.default_root_dir) / f"samples-{trainer.global_rank}.log")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
