"""Which checkpoints of a run are made, and which stay."""

import logging
import math
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from callbacks.interruption import Interrupted

log = logging.getLogger(__name__)

BEST = "best.ckpt"
_NAME = re.compile(r"step-(\d+)\.ckpt")


class Checkpoints(Checkpoint):
    """Save the run as it goes, between two optimizer steps: `step-00000500.ckpt`, and `best.ckpt`, a link to the best.

    What stays is decided by what lies in the folder, so nothing is left over from a run that was killed: the newest
    ones, the best one, and those of certain steps for good. A run that ends, or is asked to end, is saved as it is.
    Where the disk is full it warns, and training goes on; only the last state must be saved.

    Args:
        every_n_steps: optimizer steps between two saves; default: after each validation, or each epoch without any.
        keep_last: how many of the newest stay. With two, a damaged one does not cost the run.
        keep_every_n_steps: checkpoints of steps that are a multiple of it stay for good.
        monitor: name of the logged score that makes one the best.
        mode: whether the best score is the lowest or the highest.
        folder: where they lie; default: `checkpoints` in the trainer's `default_root_dir`.
        background: whether a copy is written while training goes on; it takes the memory of a checkpoint.

    Attributes:
        best_model_score: the best score so far; best_step: when it was reached; best_model_path: the link.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        keep_last: int = 2,
        keep_every_n_steps: int | None = None,
        monitor: str = "val_loss",
        mode: Literal["min", "max"] = "min",
        folder: str | None = None,
        background: bool = True,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("keep_every_n_steps", keep_every_n_steps)):
            if value is not None and value < 1:
                raise MisconfigurationException(f"checkpoints.{name} is {value}: it can be 1 or more")
        if keep_last < 1:
            raise MisconfigurationException(f"checkpoints.keep_last is {keep_last}: at least 1 must stay")
        self.every_n_steps, self.keep_last, self.keep_every_n_steps = every_n_steps, keep_last, keep_every_n_steps
        self.monitor, self.mode, self.folder, self.background = monitor, mode, folder, background
        self.best_model_score: float | None = None
        self.best_step: int | None = None
        self.best_model_path = ""
        self._is_best = self._is_due = False
        self._best_on_disk: tuple[float | None, int | None] = None, None
        self._saved_at = self._seen_at = -1
        self._writing = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Tell a CheckpointIO that can write in the background whether to."""
        if hasattr(trainer.strategy.checkpoint_io, "background"):
            trainer.strategy.checkpoint_io.background = self.background

    # ---- when -------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See that there is room for the checkpoints of this run, and drop what is left of one that was killed."""
        folder, step = self._folder(trainer), trainer.global_step
        self._seen_at, self._saved_at = step, step if step in checkpoints_by_step(folder) else -1
        self._best_on_disk = self.best_model_score, self.best_step
        problem = None
        if trainer.is_global_zero:
            remove_leftovers(folder, step)
            self._arrange(folder)
            problem = too_little_room(folder, trainer, self.keep_last)
        problem = trainer.strategy.broadcast(problem)
        if problem:
            raise MisconfigurationException(problem)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note whether this is the best score: better than that of the best checkpoint which is on the disk."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        self._wait(trainer)
        self._is_due = self._is_due or self.every_n_steps is None
        score = float(trainer.callback_metrics.get(self.monitor, math.nan))
        best = self.best_model_score
        if not math.isnan(score) and (best is None or (score < best if self.mode == "min" else score > best)):
            self.best_model_score, self.best_step, self._is_best = score, trainer.global_step, True
        # only the rank that writes knows that a write failed, and all must save, or none
        found = self.best_model_score, self.best_step, self._is_best
        self.best_model_score, self.best_step, self._is_best = trainer.strategy.broadcast(found)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after an epoch, where nothing else says when."""
        if self.every_n_steps is None and not trainer.enable_validation:
            self._is_due = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save what is due, now that the step before and its validation are logged."""
        self._look_after_writing(trainer)
        step = trainer.global_step
        if step == self._seen_at and not (self._is_due or self._is_best):  # the other micro-batches of a step
            return
        self._seen_at = step
        every = (self.every_n_steps, self.keep_every_n_steps)
        if self._is_due or self._is_best or any(n is not None and step % n == 0 for n in every):
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save where the run ended."""
        self._save_last(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Point to the best, also where a run that had ended was started again."""
        if trainer.is_global_zero:
            self._arrange(self._folder(trainer))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save a run that was asked to end, which it does between two batches; after an error the state may be half."""
        if isinstance(exception, Interrupted):
            self._save_last(trainer)

    # ---- what a guard asks ----------------------------------------------------------------------------------------

    def newest_good(self, trainer: L.Trainer, before_step: int) -> str | None:
        """The newest complete checkpoint of fewer than `before_step` steps, or None; the same on all ranks."""
        self._wait(trainer)
        earlier = [path for step, path in checkpoints_by_step(self._folder(trainer)).items() if step < before_step]
        return trainer.strategy.broadcast(str(earlier[-1]) if earlier else None)

    # ---- state --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The best score, which a resumed run must beat."""
        return {"best_model_score": self.best_model_score, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.best_model_score, self.best_step = state_dict["best_model_score"], state_dict["best_step"]

    # ---- how ----------------------------------------------------------------------------------------------------

    def _folder(self, trainer: L.Trainer) -> Path:
        return Path(self.folder) if self.folder is not None else Path(trainer.default_root_dir) / "checkpoints"

    def _save(self, trainer: L.Trainer) -> None:
        self._wait(trainer)
        path = self._folder(trainer) / checkpoint_name(trainer.global_step)
        self._is_best = self._is_due = False
        self._saved_at = trainer.global_step
        self._writing = True
        with _before_the_next_batch(trainer):
            trainer.save_checkpoint(path, weights_only=False)

    def _save_last(self, trainer: L.Trainer) -> None:
        if trainer.global_step != self._saved_at or self._is_best:
            self._save(trainer)
        error = self._wait(trainer)
        if error is not None:
            raise error

    def _wait(self, trainer: L.Trainer) -> BaseException | None:
        """Wait for the write that is under way, and return its error."""
        pending = _pending(trainer)
        error = pending.exception() if pending is not None else None
        self._look_after_writing(trainer)
        return error

    def _look_after_writing(self, trainer: L.Trainer) -> None:
        """Once a write has ended, make the folder what it should be, or tell that it failed."""
        pending = _pending(trainer)
        if not self._writing or (pending is not None and not pending.done()):
            return
        self._writing = False
        error = pending.exception() if pending is not None else None
        if error is None:
            self._best_on_disk = self.best_model_score, self.best_step
            if trainer.is_global_zero:
                self._arrange(self._folder(trainer))
            return
        (self.best_model_score, self.best_step), step, self._saved_at = self._best_on_disk, self._saved_at, -1
        if trainer.is_global_zero:
            reason = getattr(error, "strerror", None) or error
            log.warning(
                "step %d: the checkpoint could not be saved (%s); training goes on without it: make room in %s",
                step,
                reason,
                self._folder(trainer),
            )

    def _arrange(self, folder: Path) -> None:
        """Point to the best one, and remove those that need not stay."""
        checkpoints, every = checkpoints_by_step(folder), self.keep_every_n_steps
        if self.best_step in checkpoints:
            point_to(checkpoints[self.best_step], folder / BEST)
            self.best_model_path = str(folder / BEST)
        stay = {self.best_step, *list(checkpoints)[-self.keep_last :]}
        for step, path in checkpoints.items():
            if step not in stay and not (every and step % every == 0):
                remove(path)


def checkpoint_name(step: int) -> str:
    """Of the checkpoint after so many optimizer steps."""
    return f"step-{step:08}.ckpt"


def checkpoints_by_step(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by optimizer steps done, the earliest first."""
    found = {int(name[1]): path for path in folder.glob("step-*.ckpt") if (name := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def point_to(path: Path, link: Path) -> None:
    """Make `link` a symbolic link to `path` beside it, at once and whatever it was before; a copy where none can be."""
    if link.is_symlink() and link.resolve() == path.resolve():
        return
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(path.name)
    except OSError:  # a file system without links
        if path.is_dir():
            raise
        shutil.copyfile(path, temporary)
    temporary.replace(link)


def remove_leftovers(folder: Path, step: int) -> None:
    """Drop half-written checkpoints, and those beyond `step`, which a resumed run could not use and makes anew."""
    for path in folder.glob(".*.partial"):
        remove(path)
    for later, path in checkpoints_by_step(folder).items():
        if later > step:
            log.info("%s is not used, and will be made anew", path)
            remove(path)
    if (folder / BEST).is_symlink() and not (folder / BEST).exists():
        (folder / BEST).unlink()


def remove(path: Path) -> None:
    """Remove a checkpoint, a file or a folder; never is a part of it left under its name."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    trash = path.with_name(f".{path.name.strip('.')}.removed.partial")
    path.rename(trash)
    shutil.rmtree(trash)


def too_little_room(folder: Path, trainer: L.Trainer, keep_last: int) -> str | None:
    """Why the disk cannot hold a checkpoint beside the one before it, or None; warns where it cannot hold all."""
    weights = [*trainer.lightning_module.parameters(), *trainer.lightning_module.buffers()]
    moments = [value for one in trainer.optimizers for state in one.state.values() for value in state.values()]
    size = sum(tensor.nbytes for tensor in (*weights, *moments) if isinstance(tensor, Tensor))
    if not moments:  # before the first step; the usual optimizers hold two numbers a weight
        size += 2 * sum(weight.nbytes for weight in weights if weight.requires_grad)
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    room = shutil.disk_usage(place).free + held
    advice = "make room there, or choose another place with --runs"
    if room < 2 * size:
        return f"a checkpoint takes about {_gigabytes(size)}, and {folder} has room for {_gigabytes(room)}: {advice}"
    if room < (keep_last + 2) * size:  # the best one, and the one that is being written
        log.warning(
            "the checkpoints of this run can take %s, and %s has room for %s: %s, or lower checkpoints.keep_last",
            _gigabytes((keep_last + 2) * size),
            folder,
            _gigabytes(room),
            advice,
        )
    return None


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


@contextmanager
def _before_the_next_batch(trainer: L.Trainer) -> Iterator[None]:
    """Count as if the next batch had not been fetched: Lightning would count it twice, and validate one step early."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    trackers: tuple[Any, Any] = (progress.current, progress.total)
    fetched = [(tracker, tracker.ready - tracker.started) for tracker in trackers]
    for tracker, ahead in fetched:
        tracker.ready -= ahead
    try:
        yield
    finally:
        for tracker, ahead in fetched:
            tracker.ready += ahead


def _pending(trainer: L.Trainer) -> "Future[None] | None":
    """The newest write of a CheckpointIO that writes in the background."""
    return getattr(trainer.strategy.checkpoint_io, "pending", None)
