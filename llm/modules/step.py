"""What a module does in one optimizer step: its gradients are of all micro-batches and ranks, measured and clipped."""

from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

from llm.model import GPTConfig
from llm.model.moe import balance_experts
from llm.optim.clipping import clip_by_norm, clip_by_value, total_norm
from llm.optim.sharding import local


class StepModule(L.LightningModule):
    """A LightningModule whose gradients are those of Σ nll / Σ targets over a whole global batch.

    Before they are clipped, every callback of the trainer that has a method
    `on_gradients(trainer, pl_module, loss: float, norm: float) -> bool` is told the step's mean loss in nats and the
    norm of its gradients, the same on all ranks. Where one returns False the step does not take place: the optimizer
    finds no gradients, so that weights and moments stay, while the schedule and the step counter go on.
    """

    config: GPTConfig

    def __init__(self) -> None:
        super().__init__()
        # Of the running accumulation window: summed nll (nats) and number of targets.
        self._window: Tensor | None = None
        self._loss = torch.zeros(())  # of the step, nats a target

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the whole run, or None where nothing bounds it."""
        raise NotImplementedError

    def accumulate_loss(self, nll: Tensor, n_targets: Tensor) -> Tensor:
        """Return the loss to back-propagate for one micro-batch of summed `nll` (nats) over `n_targets` tokens.

        Micro-batches hold different numbers of targets, so a mean of their means is not the mean of the step
        (Lightning #20350). Each is therefore divided by one constant, and `rescale_gradients` multiplies by the number
        of targets that the step really had.
        """
        totals = torch.stack([nll.detach().float(), n_targets.float()])
        self._window = totals if self._window is None else self._window + totals
        return nll / self.config.context_length

    def rescale_gradients(self, undo: float) -> None:
        """Multiply the gradients by `undo`, divide them by the targets of all micro-batches and ranks; log the loss."""
        assert self._window is not None
        nll, n_targets = self.trainer.strategy.reduce(self._window, reduce_op="sum")
        self._window = None
        # A step without any target has zero gradients, which stay zero.
        torch._foreach_mul_([local(gradient) for gradient in self._gradients()], undo / n_targets.clamp(min=1))
        self._loss = nll / n_targets.clamp(min=1)
        self.log("train_loss", self._loss, prog_bar=True)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Measure the gradients' norm, let callbacks judge the step, and clip: the same under every strategy."""
        gradients = self._gradients()
        norm = total_norm(gradients).to(self._loss.device)
        if self.is_logged_step():
            self.log("grad_norm", norm)
        if not self._is_wanted(norm):
            for parameter in self.parameters():
                parameter.grad = None
        elif gradient_clip_val is not None and gradient_clip_val > 0:
            if gradient_clip_algorithm == "value":
                clip_by_value(gradients, gradient_clip_val)
            else:
                clip_by_norm(gradients, norm, gradient_clip_val)

    def is_logged_step(self) -> bool:
        """Whether the log gets a row for this step; to log a value takes a third of a millisecond."""
        step = self.trainer.global_step + 1
        return step % self.trainer.log_every_n_steps == 0 or step == self.total_steps  # type: ignore[attr-defined]

    def balance_experts(self) -> None:
        """Even out the load that the experts had in the whole global batch; log the largest share that one had."""
        reduce = partial(self.trainer.strategy.reduce, reduce_op="sum")
        largest = balance_experts(self, reduce)
        if largest is not None:
            self.log("largest_expert_share", largest)

    def _is_wanted(self, norm: Tensor) -> bool:
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        judges = [callback.on_gradients for callback in callbacks if hasattr(callback, "on_gradients")]
        if not judges:
            return True
        loss, length = torch.stack([self._loss, norm]).tolist()  # once, as a GPU is waited for
        verdicts = [judge(self.trainer, self, loss, length) for judge in judges]  # each is asked
        return all(verdicts)

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters() if p.grad is not None]
