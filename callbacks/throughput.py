"""Tokens per second and model FLOPs utilisation (MFU) of training."""

import time
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.utilities.types import STEP_OUTPUT


def matmul_peak(device: torch.device, size: int = 1024, repeats: int = 5) -> float:
    """Best rate of a square fp32 matrix product on `device`, in FLOP/s: the peak that a CPU really has.

    Raises nothing; takes about 50 ms on two cores.
    """
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class Throughput(L.Callback):
    """Log `tokens_per_second` (all devices together), `mfu` and `data_wait`, counting the time of training only.

    Validation, and what other callbacks report through `exclude`, stop the clock; waiting for data does not. The
    module may have `flops_per_token` (training FLOPs a token), without which there is no MFU. The peak is the data
    sheet's for a GPU that Lightning knows, a measured fp32 matrix product on a CPU, and unknown elsewhere, where no
    `mfu` is logged rather than a guess. `data_wait` are the seconds of a step between the end of a batch and the start
    of the next one: the wait for data, and what other callbacks do between.

    Args:
        tokens_key: key of the batch's tensor [B, T] whose elements are the tokens processed.
    """

    def __init__(self, tokens_key: str = "tokens") -> None:
        self.tokens_key = tokens_key
        self.tokens = 0
        self.seconds = 0.0
        self._peak: float | None = None
        self._started: float | None = None
        self._tokens_at_log = 0
        self._seconds_at_log = 0.0
        self._waited = 0.0  # since the last log, between the end of a batch and the start of the next

    @property
    def tokens_per_second(self) -> float:
        """Mean rate over the whole run, in tokens a second over all devices."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def mfu(self, pl_module: L.LightningModule, tokens_per_second: float) -> float | None:
        """Share of the devices' peak that `tokens_per_second` uses, or None where either is unknown."""
        flops_per_token = getattr(pl_module, "flops_per_token", None)
        if flops_per_token is None or not self._peak:
            return None
        return tokens_per_second * flops_per_token / self._peak

    def exclude(self, seconds: float) -> None:
        """Leave out time that another callback spent between two batches."""
        self.seconds -= seconds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the peak of this device, and forget an earlier run."""
        self.tokens = self._tokens_at_log = 0
        self.seconds = self._seconds_at_log = self._waited = 0.0
        self._peak = self._find_peak(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock where it stands still: at the first batch, and after a validation."""
        now = time.perf_counter()
        if self._started is None:
            self._started = now
        else:
            self._waited += now - self._started

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; log rates at every logging step."""
        now = time.perf_counter()
        assert self._started is not None
        self.seconds += now - self._started
        self._started = now
        # In tensor parallel several ranks share each row.
        shares = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", trainer.world_size)
        self.tokens += batch[self.tokens_key].numel() * shares
        # `fit` logs by optimizer step: only its last micro-batch has something to add.
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.fit_loop._should_accumulate() or trainer.global_step % every:
            return
        seconds = self.seconds - self._seconds_at_log
        if seconds > 0:
            rate = (self.tokens - self._tokens_at_log) / seconds
            self._tokens_at_log, self._seconds_at_log = self.tokens, self.seconds
            pl_module.log("data_wait", self._waited / every, prog_bar=True, rank_zero_only=True)
            self._waited = 0.0
            pl_module.log("tokens_per_second", rate, prog_bar=True, rank_zero_only=True)
            mfu = self.mfu(pl_module, rate)
            if mfu is not None:
                pl_module.log("mfu", mfu, rank_zero_only=True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock: validation is no training."""
        self._started = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._started = None

    @staticmethod
    def _find_peak(trainer: L.Trainer, pl_module: L.LightningModule) -> float | None:
        device = pl_module.device
        if device.type == "cpu":
            return matmul_peak(device) * trainer.world_size
        if device.type != "cuda":
            return None
        dtype = torch.bfloat16 if "bf16" in str(trainer.precision) else torch.float32
        if "16-" in str(trainer.precision) and "bf16" not in str(trainer.precision):
            dtype = torch.float16
        peak = get_available_flops(device, dtype)
        return peak * trainer.world_size if peak else None
