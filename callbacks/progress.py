"""Progress of training: a bar on a terminal, plain lines elsewhere."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

# Shown in this order where the module logs them; the label, and how the number is written.
_SHOWN = {
    "train_loss": ("loss", "{:.3f}"),
    "val_bpb": ("bits/byte", "{:.3f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "data_wait": ("waiting for data, s/step", "{:.2g}"),
}

_BAR_SECONDS = 0.2  # between two drawings of the bar


def readable_seconds(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress(ProgressBar):
    """Step, loss, bits per byte, tokens/s and time left.

    On a terminal this is one bar that is drawn in place. Elsewhere (a file, a pipe, a Slurm log) it is a line at the
    first step, then one every `seconds_between_lines`, and one after each validation.

    Args:
        seconds_between_lines: seconds between two lines where there is no terminal.
        console: where to draw; default: standard error, which keeps standard output for results.
    """

    def __init__(self, seconds_between_lines: float = 10.0, console: Console | None = None) -> None:
        super().__init__()
        self.seconds_between_lines = seconds_between_lines
        self.console = console or Console(stderr=True)
        self._enabled = True
        self._bar: RichProgress | None = None
        self._task: Any = None
        self._last_shown = self._started = 0.0
        self._first_step = 0

    def disable(self) -> None:
        """Called by Lightning on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Undo `disable`."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the bar, from where a resumed run stands."""
        if not self._enabled:
            return
        self._started, self._first_step, self._last_shown = time.monotonic(), trainer.global_step, float("-inf")
        if not self.console.is_terminal:
            return
        columns = [
            TextColumn("[bold]step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        ]
        self._bar = RichProgress(*columns, console=self.console, expand=True)
        self._task = self._bar.add_task("", total=self._total_steps(trainer), completed=trainer.global_step, shown="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Move on."""
        if not self._enabled:
            return
        # Reading the metrics takes longer than a small step should wait for it: not at every step.
        if time.monotonic() - self._last_shown >= (self.seconds_between_lines if self._bar is None else _BAR_SECONDS):
            self._show(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the new score."""
        if self._enabled and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._show(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar where it ended."""
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        self.console.print(*args, **kwargs)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @staticmethod
    def _total_steps(trainer: L.Trainer) -> int | None:
        return trainer.max_steps if trainer.max_steps != -1 else None

    @staticmethod
    def _shown(trainer: L.Trainer) -> str:
        metrics = trainer.progress_bar_metrics
        return "  ".join(
            f"{label} {number.format(float(metrics[name]))}"
            for name, (label, number) in _SHOWN.items()
            if name in metrics
        )

    def _show(self, trainer: L.Trainer) -> None:
        self._last_shown = now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, shown=self._shown(trainer))
            return
        total, done = self._total_steps(trainer), trainer.global_step
        parts = [f"step {done}" + (f"/{total}" if total else ""), self._shown(trainer)]
        if total and done > self._first_step:
            left = (now - self._started) / (done - self._first_step) * (total - done)
            parts.append(f"left {readable_seconds(left)}")
        self.console.print("  ".join(part for part in parts if part), highlight=False, soft_wrap=True)
