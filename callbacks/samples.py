"""Text that the model writes while it trains."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.distributed.tensor import DTensor


class TextSamples(L.Callback):
    """Continue fixed prompts before training, every N steps and at the end, into `samples.txt` of the run.

    The module must have `continue_text(prompt, max_new_tokens=, temperature=, top_k=, seed=) -> str`. The same seed is
    used each time, so what changes between two samples is the model. Rank 0 samples, and with it all ranks where the
    model is sharded over them.

    Args:
        prompts: texts to continue; none turns the callback off.
        every_n_steps: optimizer steps between two samples; 0 samples only before and after.
        max_new_tokens: length of a sample.
        temperature: of the sampling; 0 is greedy.
        top_k: the number of likeliest tokens to choose from.
        seed: of the sampling.
        folder: where `samples.txt` is written; default: the trainer's `default_root_dir`.
    """

    def __init__(
        self,
        prompts: list[str] | None = None,
        every_n_steps: int = 0,
        max_new_tokens: int = 64,
        temperature: float = 0.8,
        top_k: int | None = 50,
        seed: int = 0,
        folder: str | None = None,
    ) -> None:
        self.prompts = prompts or []
        self.every_n_steps = every_n_steps
        self.settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "seed": seed,
        }
        self.folder = folder
        self.before: dict[str, str] = {}
        self.after: dict[str, str] = {}
        self._sampled_at = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sample the untrained (or resumed) model."""
        self.before = self._sample(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Sample every N optimizer steps."""
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0 and step != self._sampled_at:
            start = time.perf_counter()
            self._sample(trainer, pl_module)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if hasattr(callback, "exclude"):
                    callback.exclude(time.perf_counter() - start)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sample the trained model."""
        self.after = self._sample(trainer, pl_module)

    def _sample(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, str]:
        self._sampled_at = trainer.global_step
        # Of a model that is sharded over ranks all must take part.
        needed = trainer.is_global_zero or any(isinstance(weight, DTensor) for weight in pl_module.parameters())
        if not needed or not self.prompts:
            return {}
        texts: dict[str, str] = {p: pl_module.continue_text(p, **self.settings) for p in self.prompts}  # type: ignore[operator]
        if not trainer.is_global_zero:
            return texts
        folder = Path(self.folder or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "samples.txt").open("a", encoding="utf-8") as file:
            for prompt, text in texts.items():
                file.write(f"=== step {trainer.global_step}, prompt {prompt!r}\n{prompt}{text}\n\n")
        return texts
