"""A fit that records which rows each optimizer step saw; run as a script it takes its options as JSON.

Not a test: `test_resume.py` uses it in its own process, and starts it as a script for several ranks.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules import PretrainDataModule


class Recorder(LightningModule):
    """A bigram model whose weights depend on the order of its batches (momentum), and a list of the rows it saw."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(vocab_size, vocab_size, dtype=torch.float64)
        self.steps: dict[int, list[str]] = {}

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        rows = self.steps.setdefault(self.global_step, [])
        rows += [" ".join(map(str, row)) for row in batch["tokens"].tolist()]
        logits = self.table(batch["tokens"]).flatten(0, 1)
        # By the number of places and not of targets: then the mean over micro-batches does not depend on their size.
        return torch.nn.functional.cross_entropy(logits, batch["targets"].flatten(), reduction="sum") / len(logits)

    def validation_step(self, batch: dict[str, torch.Tensor], index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=10.0, momentum=0.9)


class StopAfter(Callback):
    """Saves a checkpoint after so many batches, as ModelCheckpoint does, and stops there as a crash would."""

    def __init__(self, batches: int, path: str, during: bool) -> None:
        self.batches = batches
        self.path = path
        self.during = during

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        if self.during and trainer.fit_loop.total_batch_idx == self.batches:
            raise KeyboardInterrupt

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if not self.during and trainer.fit_loop.total_batch_idx + 1 == self.batches:
            trainer.save_checkpoint(self.path)
            raise RuntimeError("stopped on purpose")

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if self.during:
            trainer.save_checkpoint(self.path)


def fit(
    data: dict[str, Any],
    trainer: dict[str, Any],
    *,
    stop_after: int | None = None,
    during: bool = False,
    checkpoint: str = "",
    resume: bool = False,
    out: str = "",
) -> tuple[dict[int, list[str]], torch.Tensor]:
    """Fit, and return the rows of each step on this rank and the final weights (also saved at `out`-rank.pt)."""
    module = PretrainDataModule(**data)
    model = Recorder(module.vocab_size)
    run = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[StopAfter(stop_after, checkpoint, during)] if stop_after is not None else None,
        **trainer,
    )
    try:
        run.fit(model, datamodule=module, ckpt_path=checkpoint if resume else None, weights_only=resume or None)
    except (RuntimeError, KeyboardInterrupt, SystemExit) as error:
        if stop_after is None or (isinstance(error, RuntimeError) and "on purpose" not in str(error)):
            raise
    if out:
        torch.save({"steps": model.steps, "table": model.table.weight.data}, f"{out}-{run.global_rank}.pt")
    return model.steps, model.table.weight.data


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = json.loads(Path(sys.argv[1]).read_text())
    fit(options.pop("data"), options.pop("trainer"), **options)
