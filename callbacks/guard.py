"""Steps that would harm a run: numbers that are not finite, and losses or gradients far beyond the usual."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.records import Records
from callbacks.spikes import Spikes

log = logging.getLogger(__name__)

EVENTS = "events.jsonl"
SPAN = 1000  # steps in which `max_events` are counted
# Steps that a GradScaler may skip in a row. It halves its scale at each, from 2^16 by default, and one that is below
# 2^-8 still finds infinities where there are none: those of the gradients themselves.
SCALER_SKIPS = 24
# The smallest deviations, as shares of the median: losses of batches differ by a few percent, norms by tens.
LEAST = {"loss": 0.02, "norm": 0.1}

Nonfinite = Literal["skip", "rollback", "stop"]
Spike = Literal["warn", "skip", "rollback", "none"]

_DONE = {"warn": "the step is taken", "skip": "the step is skipped", "stop": "the run ends"}


class Diverged(Exception):  # noqa: N818
    """The run is ended, in one sentence; its last checkpoint is from before."""


class RollBack(Exception):  # noqa: N818
    """Training is to go on from `checkpoint`, which `fit_with_rollback` does."""

    def __init__(self, checkpoint: str) -> None:
        super().__init__(f"the guard goes back to {checkpoint}: train with callbacks.fit_with_rollback")
        self.checkpoint = checkpoint


class Guard(L.Callback):
    """Look at the loss and the gradient norm of every step before it takes place, and keep bad steps out.

    The module must tell them: it calls `on_gradients` of callbacks that have it after its gradients are complete and
    before the optimizer's step, with values that are the same on all ranks, and drops the gradients where the answer is
    False. Every event is a line of `events.jsonl` in the trainer's `default_root_dir` (docs/guards.md).

    Args:
        on_nonfinite: what to do where the loss or a gradient is NaN or infinite: `skip` the step, so that weights and
            optimizer stay as they are; `rollback` to the newest checkpoint before it and pass over its samples when it
            comes again; or `stop`.
        on_spike: what to do where the loss or the gradient norm is far above those of the steps before: only `warn`,
            `skip`, `rollback`, or `none`: do not look.
        threshold: what is far: so many robust deviations above the median (callbacks/spikes.py).
        window: number of steps before that it is compared with.
        max_events: so many steps within 1,000 that were not taken end the run with an error; its checkpoints stay.
    """

    def __init__(
        self,
        on_nonfinite: Nonfinite = "skip",
        on_spike: Spike = "warn",
        threshold: float = 8.0,
        window: int = 128,
        max_events: int = 10,
    ) -> None:
        for name, value, known in (
            ("on_nonfinite", on_nonfinite, get_args(Nonfinite)),
            ("on_spike", on_spike, get_args(Spike)),
        ):
            if value not in known:
                raise MisconfigurationException(f"guard.{name} is {value!r}: it can be {', '.join(known)}")
        if not 0 < threshold < math.inf:
            raise MisconfigurationException(f"guard.threshold is {threshold}: it is a number above 0, such as 8")
        for name, count in (("window", window), ("max_events", max_events)):
            if count < 1:
                raise MisconfigurationException(f"guard.{name} is {count}: it can be 1 or more")
        self.on_nonfinite, self.on_spike = on_nonfinite, on_spike
        self.threshold, self.max_events = threshold, max_events
        self._spikes = {name: Spikes(window, least) for name, least in LEAST.items()}
        self._passed: set[int] = set()  # steps whose samples are passed over since the run went back from them
        self._not_taken: list[int] = []  # the newest steps that were skipped or gone back from
        self._scaler_skips = 0
        self._gone_back: set[int] = set()  # in this process; the file may not have taken the line
        self._warned = -2

    # ---- judging --------------------------------------------------------------------------------------------------

    def on_gradients(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: float, norm: float) -> bool:
        """Whether the step may take place, whose mean loss and total gradient norm these are; the same on all ranks.

        Raises:
            RollBack: training is to go on from an earlier checkpoint.
            Diverged: the run ends here.
        """
        step, measures = trainer.global_step, {"loss": loss, "norm": norm}
        if step in self._passed:
            return False
        if not all(map(math.isfinite, measures.values())):
            if self._is_scalers(trainer, loss):
                return True
            return self._act(trainer, "not finite", self.on_nonfinite, measures)
        self._scaler_skips = 0
        if self.on_spike != "none":
            far = {name: self._spikes[name].distance(value, self.threshold) for name, value in measures.items()}
            spike = max(far, key=lambda name: far[name])
            if far[spike] > self.threshold and not self._act(trainer, f"{spike} spike", self.on_spike, measures):
                return False
            for name, value in measures.items():
                self._spikes[name].add(value)
        return True

    def _is_scalers(self, trainer: L.Trainer, loss: float) -> bool:
        """Whether a GradScaler (16-mixed) is only searching its scale; it skips such a step itself."""
        if getattr(trainer.precision_plugin, "scaler", None) is None or not math.isfinite(loss):
            return False
        self._scaler_skips += 1
        return self._scaler_skips <= SCALER_SKIPS

    def _act(self, trainer: L.Trainer, kind: str, action: str, measures: dict[str, float]) -> bool:
        """Do what is set, and write it down; whether the step takes place."""
        step, checkpoint = trainer.global_step, None
        if action == "rollback":
            checkpoint = _newest_good(trainer, step)
            if checkpoint is None:
                action = "skip"  # as the log says
        rows = getattr(getattr(trainer, "datamodule", None), "rows_of_step", None)
        record = {"step": step, "kind": kind, **measures, "action": action, "checkpoint": checkpoint}
        record["samples"] = rows(step).tolist() if rows is not None else None
        if trainer.is_global_zero:
            self._records(trainer).append(record)
            self._tell(step, kind, measures, _DONE.get(action, f"back to {checkpoint}"))
        if action == "warn":
            return True
        self._not_taken = [earlier for earlier in self._not_taken if earlier > step - SPAN and earlier != step] + [step]
        if action == "stop" or len(self._not_taken) >= self.max_events:
            count = len(self._not_taken)
            many = f"; {count} of the last {SPAN:,} steps were not taken (guard.max_events)" if action != "stop" else ""
            raise Diverged(
                f"step {step}: the run is ended: {kind}, with loss {measures['loss']:.4g} and gradient norm "
                f"{measures['norm']:.4g}{many}; {self._records(trainer).path} names the samples, a lower learning rate "
                "is often the remedy, and --ckpt_path last goes on from the last checkpoint before"
            )
        if checkpoint is not None:
            self._gone_back.add(step)
            raise RollBack(checkpoint)
        return False

    def _tell(self, step: int, kind: str, measures: dict[str, float], done: str) -> None:
        """A line of the log; of warnings in one step after another only the first."""
        if self._warned != step - 1 or done != _DONE["warn"]:
            loss, norm = measures["loss"], measures["norm"]
            log.warning("step %d: %s (loss %.4g, gradient norm %.4g); %s", step, kind, loss, norm, done)
        self._warned = step

    # ---- what a run keeps -----------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the events that come again; pass over the steps that the run has gone back from."""
        gone_back = sorted(self._gone_back)
        if trainer.is_global_zero:
            records = self._records(trainer)
            records.rewind(trainer.global_step, keep=lambda record: record["action"] == "rollback")
            gone_back += [record["step"] for record in records.read() if record["action"] == "rollback"]
        gone_back = trainer.strategy.broadcast(gone_back)
        self._passed |= set(gone_back)
        self._not_taken = sorted({*self._not_taken, *gone_back})

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must judge by, as the uninterrupted one does."""
        return {
            "spikes": {name: spikes.state_dict() for name, spikes in self._spikes.items()},
            "passed": sorted(self._passed),
            "not_taken": list(self._not_taken),
            "scaler_skips": self._scaler_skips,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for name, values in state_dict["spikes"].items():
            self._spikes[name].load_state_dict(values)
        self._passed, self._not_taken = set(state_dict["passed"]), list(state_dict["not_taken"])
        self._scaler_skips = state_dict["scaler_skips"]

    def _records(self, trainer: L.Trainer) -> Records:
        return Records(Path(trainer.default_root_dir) / EVENTS)


def fit_with_rollback(fit: Callable[..., None], *arguments: Any, **settings: Any) -> None:
    """`trainer.fit(...)`, and again from where a `Guard` goes back to; all processes of a run go back together.

    Args:
        fit: `trainer.fit`; `arguments` and `settings` are its own.
    """
    while True:
        try:
            return fit(*arguments, **settings)
        except RollBack as back:
            settings["ckpt_path"] = back.checkpoint


def _newest_good(trainer: L.Trainer, step: int) -> str | None:
    """The newest checkpoint that misses at least one step before `step`, which may be the one that did the harm."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if hasattr(callback, "newest_good"):
            return callback.newest_good(trainer, step)
    return None
