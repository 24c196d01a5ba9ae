"""The files of a run's folder that are neither checkpoints nor logs of callbacks."""

from pathlib import Path

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback

from llm.metrics_file import MetricsFile


class RunFiles(SaveConfigCallback):
    """Keep the files of a run's folder in step with the run, from the moment when nothing can refuse it any more."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Agree on rank 0's folder. Lightning would write here, before the data and the model have been checked."""
        trainer._default_root_dir = trainer.strategy.broadcast(trainer.default_root_dir)  # type: ignore[attr-defined]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `config.yaml`, unless a resumed run has it; drop the metrics that a resumed run will write again."""
        path = Path(trainer.default_root_dir) / "config.yaml"
        if trainer.is_global_zero and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, str(path), skip_none=False, overwrite=False)
        if isinstance(trainer.logger, MetricsFile):
            trainer.logger.rewind(trainer.global_step)
