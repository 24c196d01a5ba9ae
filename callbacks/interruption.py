"""Ending a run that was asked to end: Ctrl-C, and the signals of schedulers."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import lightning as L
import torch
from torch import distributed

# SIGUSR1 is what Slurm is told to send before a job's time is over (sbatch --signal=USR1@120).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
SAME = 1.0  # seconds in which a second signal is the first one, sent by the terminal or the scheduler and a launcher


class Interrupted(KeyboardInterrupt):
    """Training ends here, between two batches, because `number` was received; Lightning ends its loops on it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption(L.Callback):
    """Let a signal end training between two batches, on all ranks at the same one; a second signal ends at once.

    A run of several processes ends as a whole whichever of them was asked. They agree through a reduction that is
    begun at one batch and read at the next, so that no step waits for it.

    Attributes:
        received: the signal that ended the run, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._asked = 0
        self._before: dict[signal.Signals, Any] = {}
        self._watch: _SecondSignal | None = None
        self._agreement: _Agreement | None = None
        self._validation_due = False  # it was cut short

    @property
    def exit_code(self) -> int:
        """That of a program which the signal ended; a scheduler's warning counts as SIGTERM, of which it warns."""
        return 128 + (signal.SIGTERM if self.received == signal.SIGUSR1 else self.received)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over."""
        self.received = self._asked = 0
        self._agreement = _Agreement() if trainer.world_size > 1 else None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
            self._watch = _SecondSignal(trainer.strategy.launcher)
        if self._validation_due:
            self._validation_due = False
            _validate(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End here where it was asked for."""
        self._end_if_asked()
        # The logger's step; Lightning restores it one too low or too high after some interruptions.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """End here where it was asked for; the run that goes on validates again. The last validation is let end."""
        if not self._before or trainer.should_stop:
            return
        try:
            self._end_if_asked()
        except Interrupted:
            self._validation_due = True
            raise

    def state_dict(self) -> dict[str, Any]:
        """Whether the run ended in a validation."""
        return {"validation_due": self._validation_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._validation_due = state_dict["validation_due"]

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back."""
        if self._agreement is not None:
            self._agreement.largest(0)  # read what is under way
        self._give_back()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Go on to listen for a second signal while the run is saved; Lightning ignores Ctrl-C from here on."""
        if self._before and isinstance(exception, Interrupted):
            signal.signal(signal.SIGINT, self._ask)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back, whatever ended the run."""
        self._give_back()

    def _end_if_asked(self) -> None:
        number = self._asked if self._agreement is None else self._agreement.largest(self._asked)
        if number:
            self.received = number
            raise Interrupted(number)

    def _ask(self, number: int, frame: Any) -> None:
        if not self._asked:
            self._asked = number
            tell(f"{signal.Signals(number).name}: ending after this batch; a second one ends at once")

    def _give_back(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self._agreement is not None:
            self._agreement.close()
            self._agreement = None


def _validate(trainer: L.Trainer) -> None:
    """Validate before the first batch, as Lightning does after a step, and log it under that step."""
    loop = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped = trainer.global_step - 1
    loop.val_loop.restarting = False  # from its first batch
    trainer.validating = True
    loop.val_loop.run()
    trainer.training = True


class _Agreement:
    """The largest of the numbers that the ranks gave one call earlier; all must call equally often."""

    def __init__(self) -> None:
        self.group = distributed.new_group(backend="gloo")  # which GPUs do not wait for
        self.number = torch.zeros(1, dtype=torch.int32)
        self.work: Any = None

    def largest(self, number: int) -> int:
        known = 0
        if self.work is not None:
            self.work.wait()
            known = int(self.number)
        self.number = torch.tensor([max(known, number)], dtype=torch.int32)
        self.work = distributed.all_reduce(self.number, distributed.ReduceOp.MAX, self.group, async_op=True)
        return known

    def close(self) -> None:
        distributed.destroy_process_group(self.group)


class _SecondSignal(threading.Thread):
    """Ends the process at the second signal, also when Python's handlers cannot run: in a collective that hangs."""

    def __init__(self, launcher: Any) -> None:
        super().__init__(name="second-signal", daemon=True)
        self.launcher = launcher
        self.reader, self.writer = socket.socketpair()
        self.writer.setblocking(False)
        self.before = signal.set_wakeup_fd(self.writer.fileno(), warn_on_full_buffer=False)
        self.start()

    def run(self) -> None:
        first = None
        while received := self.reader.recv(16):
            for number in received:
                if number == 0:  # closed; the end of the stream does not come while a forked process has it open
                    return
                if number not in (signal.SIGINT, signal.SIGTERM):  # a warning beforehand is not the end
                    continue
                if first is not None and time.monotonic() - first > SAME:
                    self._end(number)
                first = first or time.monotonic()

    def _end(self, number: int) -> None:
        tell(f"{signal.Signals(number).name} again: ending at once")
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h")  # a progress bar has hidden the cursor
        with contextlib.suppress(Exception):
            self.launcher.kill(signal.SIGKILL)
        os._exit(128 + number)

    def close(self) -> None:
        signal.set_wakeup_fd(self.before)
        self.writer.setblocking(True)
        self.writer.send(b"\0")
        self.join()
        self.writer.close()
        self.reader.close()


def tell(message: str) -> None:
    """Write a line on standard error, also from within a signal's handler, where `print` may not."""
    os.write(2, f"{message}\n".encode())
