"""Where a run stands in the order of its samples, kept over interruptions."""

import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from datamodules import progress
from datamodules.tokens.sample_order import SampleOrder

log = logging.getLogger(__name__)


class Place:
    """How many samples and steps the run had consumed when its state was last loaded; the trainer counts from there."""

    def __init__(self) -> None:
        self.consumed = {"samples": 0, "steps": 0}
        self._loaded: dict[str, Any] | None = None

    def first_step(self, order: SampleOrder) -> int:
        """The step of the order at which the run's step 0 would be: other than 0 where the steps' size has changed."""
        return -(-self.consumed["samples"] // order.rows_per_step) - self.consumed["steps"]

    def step(self, order: SampleOrder, trainer: Trainer | None, micro_steps: int) -> int:
        """The step of the order at which the run stands; a step is never begun in its middle."""
        done = self.consumed["steps"] if trainer is None else progress.steps_done(trainer, micro_steps)
        return self.first_step(order) + done

    def state(self, order: SampleOrder, trainer: Trainer, micro_steps: int, fingerprint: str) -> dict[str, Any]:
        """What a checkpoint keeps: the same on every rank."""
        return {
            "samples": self.step(order, trainer, micro_steps) * order.rows_per_step,
            "steps": progress.steps_done(trainer, micro_steps),
            "rows_per_batch": order.rows_per_step // micro_steps,
            "fingerprint": fingerprint,
            **self._identity(order),
        }

    def load(self, state: Mapping[str, Any], order: SampleOrder, fingerprint: str) -> None:
        """Take over where a checkpoint stood; warn where the samples are others than in the run that wrote it."""
        self._loaded = dict(state)
        self.consumed = {"samples": state["samples"], "steps": state["steps"]}
        now = {**self._identity(order), "fingerprint": fingerprint}
        changed = [f"{key} {state.get(key)} -> {value}" for key, value in now.items() if state.get(key) != value]
        if changed:
            log.warning("resumed with another order (%s): samples may come again or be missed", ", ".join(changed))

    def align(self, order: SampleOrder, trainer: Trainer | None, micro_steps: int) -> None:
        """At the start of a fit forget the state of an earlier one; after a resume count batches as this run does."""
        loaded, self._loaded = self._loaded, None
        if trainer is None:
            return
        if loaded is None:
            self.consumed = {"samples": 0, "steps": 0}
            return
        progress.set_back_to_step(
            trainer,
            saved_rows_per_batch=loaded["rows_per_batch"],
            saved_rows_per_step=loaded["rows_per_step"],
            rows_per_step=order.rows_per_step,
            micro_steps=micro_steps,
        )

    @staticmethod
    def _identity(order: SampleOrder) -> dict[str, Any]:
        return {
            "seed": order.seed,
            "rows_per_step": order.rows_per_step,
            "rows": order.rows,
            "window": order.window,
            "block": order.block,
        }
