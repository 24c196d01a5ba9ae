"""Where a Lightning run stands, in optimizer steps, and how its counters are set back to a step after a resume."""

import logging

from lightning.pytorch import Trainer
from lightning.pytorch.loops.progress import _ProcessedTracker, _ReadyCompletedTracker

log = logging.getLogger(__name__)


def steps_done(trainer: Trainer, micro_steps: int) -> int:
    """Optimizer steps that are done, of `micro_steps` batches each.

    Counted by the trainer and not by what a loader handed out, which workers fetch ahead. Under manual optimization
    the trainer cannot know what a step is, so batches are counted.
    """
    if trainer.lightning_module is None or trainer.lightning_module.automatic_optimization:
        return trainer.global_step
    return _processed(trainer.fit_loop.epoch_loop.batch_progress.total).processed // micro_steps


def set_back_to_step(
    trainer: Trainer, *, saved_rows_per_batch: int, saved_rows_per_step: int, rows_per_step: int, micro_steps: int
) -> None:
    """Make a resumed epoch count its batches in whole steps of `micro_steps` batches.

    Two things make Lightning's own number wrong. A checkpoint from the middle of an accumulation has batches whose
    gradients are lost, so that step is done again from its first batch. And the number counts micro-batches, of which
    a step has more or fewer when the number of devices or the micro-batch has changed: `saved_rows_per_batch` is what
    one batch was over all devices in the run that saved the checkpoint, `saved_rows_per_step` what one step was.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    current, total = _processed(progress.current), _processed(progress.total)
    steps, begun = divmod(current.processed * saved_rows_per_batch, saved_rows_per_step)
    batches = steps * saved_rows_per_step // rows_per_step * micro_steps
    if not begun and batches == current.processed:
        return
    log.info("resumed: the epoch goes on after batch %d (the checkpoint counted %d)", batches, current.processed)
    earlier = (total.processed - current.processed) * saved_rows_per_batch // rows_per_step * micro_steps
    for tracker, value in ((current, batches), (total, earlier + batches)):
        # After whole steps the checkpoint was saved between two of these counts, and Lightning reads from their
        # differences what is still to be done; before a step that is begun anew all was done.
        ready, started, completed = (
            (0, 0, 0)
            if begun
            else (count - tracker.processed for count in (tracker.ready, tracker.started, tracker.completed))
        )
        tracker.ready, tracker.started = value + ready, value + started
        tracker.processed, tracker.completed = value, value + completed
    progress.is_last_batch = progress.is_last_batch and not begun


def _processed(tracker: _ReadyCompletedTracker) -> _ProcessedTracker:
    assert isinstance(tracker, _ProcessedTracker)
    return tracker
