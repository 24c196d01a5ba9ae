"""Where a Lightning run stands, in optimizer steps, and how its counters are set back to a step after a resume."""

import logging

from lightning.pytorch import Trainer
from lightning.pytorch.loops.progress import _ProcessedTracker

log = logging.getLogger(__name__)


def steps_done(trainer: Trainer, micro_steps: int) -> int:
    """Optimizer steps that are done, of `micro_steps` batches each.

    Counted by the trainer and not by what a loader handed out, which workers fetch ahead. Under manual optimization
    the trainer cannot know what a step is, so batches are counted.
    """
    if trainer.lightning_module is None or trainer.lightning_module.automatic_optimization:
        return trainer.global_step
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed // micro_steps


def rows_in_epoch(trainer: Trainer, rows_per_batch: int, rows_per_step: int) -> int:
    """Rows that the run has consumed in the current epoch of Lightning, in whole steps."""
    rows = trainer.fit_loop.epoch_loop.batch_progress.current.processed * rows_per_batch
    return rows // rows_per_step * rows_per_step


def set_batches(trainer: Trainer, batches: int) -> None:
    """Make a resumed epoch count `batches` batches as done.

    Two things make Lightning's own number wrong. A checkpoint from the middle of an accumulation has batches whose
    gradients are lost, so the step is done again from its first batch. And the number counts micro-batches, of which
    a step has more or fewer when the world size or the micro-batch has changed.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    if progress.current.processed == batches:
        return
    log.info(
        "resumed: the epoch goes on after batch %d (the checkpoint counted %d)", batches, progress.current.processed
    )
    before = progress.total.processed - progress.current.processed
    for tracker, value in ((progress.current, batches), (progress.total, before + batches)):
        assert isinstance(tracker, _ProcessedTracker)
        tracker.ready = tracker.started = tracker.processed = tracker.completed = value
    progress.is_last_batch = False
