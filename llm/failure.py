"""A run of several processes that fails ends as a whole, and tells why once."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from llm.errors import UserError

POLL = 0.25  # seconds between two looks at the other processes
GRACE = 1.5  # seconds in which the process that failed first tells why
PATIENCE = 10.0  # seconds in which processes may end by themselves
BEAT = 5.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one after which a process counts as gone: no step of Python's keeps its lock so long

_FAILED, _GONE, _ALIVE = "labyrinth/failed", "labyrinth/gone", "labyrinth/alive/{}"

# How the backends say that a peer of a collective is no longer there.
_LOST = ("connection closed by peer", "connection reset by peer", "broken pipe", "remote process exited", "socket")


class EndTogether:
    """Around a run: the first process that fails tells why, and all others end silently, wherever they wait.

    A process that fails leaves its peers in a collective, where they would wait for half an hour (the default time-out)
    or be told only that a connection was closed. So each watches for a mark that the first one leaves in the store of
    the process group, and the one that started others looks after them. With one process it does nothing.

    Args:
        trainer: that runs.
        release: called before a waiting process is ended, which runs no `finally` any more.
    """

    def __init__(self, trainer: L.Trainer, release: Callable[[], None]) -> None:
        self.trainer, self.release = trainer, release
        self._watch: threading.Thread | None = None
        self._over = threading.Event()
        self._first = self._store_is_lost = False
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._next_beat = 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> "EndTogether":
        if self.trainer.world_size > 1:
            self._watch = threading.Thread(target=self._look_after_others, name="end-together", daemon=True)
            self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let the error out where it is the run's first; end without a word where another process tells it.

        Raises:
            UserError: a peer is gone that could not tell why.
            SystemExit: another process failed first.
        """
        if self._watch is None:
            return
        self._disarm_lightning()
        ours = isinstance(error, Exception) and not isinstance(error, SIGTERMException)
        lost = ours and any(sign in str(error).lower() for sign in _LOST)
        if lost:
            self._over.wait(2 * GRACE)  # for the watch to find out who is gone, or for that one's own mark
        first = not ours or self._claim()
        with self._lock:
            self._over.set()
        if not first:
            self._wait_for_children()
            self._tell_that_gone()
            raise SystemExit(1)
        if lost:
            raise UserError(
                "another process of this run is gone (its connection was closed): what that process or its node wrote "
                "last says why; --ckpt_path last goes on from the newest checkpoint"
            ) from None
        if ours and self.trainer.global_rank == 0:  # the others must still find the mark: rank 0 may hold the store
            threading.Thread(target=self._wait_for_peers, name="end-together-last").start()

    # ---- the watch ----------------------------------------------------------------------------------------------

    def _look_after_others(self) -> None:
        store = None
        while not self._over.wait(POLL):
            self._disarm_lightning()
            if store is None and distributed.is_initialized():
                store = _store()
            try:
                silent = self._silent_rank(store) if store is not None else None
                problem = self._dead_child() or silent
                if problem is not None and self._claim():
                    self._end(f"error: {problem}; --ckpt_path last goes on from the newest checkpoint")
                failed = store is not None and store.check([_FAILED])
            except (RuntimeError, distributed.DistError):
                self._store_is_lost = True
                if not self._over.wait(GRACE) and not self.trainer.state.finished:
                    tells = self.trainer.global_rank == 1
                    self._end("error: the process of rank 0 is gone; --ckpt_path last goes on" if tells else "")
                return
            if failed and not self._first:
                self._over.wait(GRACE)
                self._end()

    def _dead_child(self) -> str | None:
        """What became of a process that this one started and that a signal ended, or None."""
        for rank, child in enumerate(self._children(), start=self.trainer.global_rank + 1):
            if (code := child.poll()) is not None and code < 0:
                name = signal.Signals(-code).name
                hint = " (often the system, when memory ran out)" if -code == signal.SIGKILL else ""
                return f"the process of rank {rank} was ended by {name}{hint}"
        return None

    def _silent_rank(self, store: Any) -> str | None:
        """Give a sign of life; rank 0 returns who has given none for long, as after a cable was cut."""
        now = time.monotonic()
        if now < self._next_beat:
            return None
        self._next_beat = now + BEAT
        store.set(_ALIVE.format(self.trainer.global_rank), str(now))
        if self.trainer.global_rank != 0:
            return None
        for rank in range(1, self.trainer.world_size):
            beat = store.get(_ALIVE.format(rank)) if store.check([_ALIVE.format(rank)]) else b""
            if self._heard.get(rank, (None,))[0] != beat:
                self._heard[rank] = beat, now
            elif now - self._heard[rank][1] > SILENCE:
                return f"nothing was heard of rank {rank} for {SILENCE:.0f} s: its node or the network to it is gone"
        return None

    def _end(self, message: str = "") -> None:
        """End this process, which may hang in a collective; nothing if the run has ended meanwhile."""
        with self._lock:
            if self._over.is_set():
                return
            if message:
                sys.stderr.flush()
                os.write(2, f"{message}\n".encode())
            with contextlib.suppress(Exception):
                self.trainer.strategy.checkpoint_io.wait()  # type: ignore[attr-defined]
            with contextlib.suppress(Exception):
                self.release()
            self._wait_for_children()
            self._tell_that_gone()
            os._exit(1)

    def _tell_that_gone(self) -> None:
        if self._store_is_lost:  # every call would wait for a new connection
            return
        with contextlib.suppress(RuntimeError, distributed.DistError, ValueError):
            _store().add(_GONE, 1)

    def _claim(self) -> bool:
        """Whether this process is the first of all that fails."""
        if self._first:
            return True
        if not distributed.is_initialized():
            return True
        if self._store_is_lost:
            return self.trainer.global_rank == 1
        self._first = _store().add(_FAILED, 1) == 1
        return self._first

    # ---- the processes that this one started ---------------------------------------------------------------------

    def _children(self) -> list[Any]:
        return getattr(self.trainer.strategy.launcher, "procs", [])

    def _disarm_lightning(self) -> None:
        """Lightning kills this process when a child fails, whatever it is doing; here it may end by itself."""
        for thread in threading.enumerate():
            if thread.name == "child-process-observer":
                thread._child_processes = []  # type: ignore[attr-defined]

    def _wait_for_children(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while any(child.poll() is None for child in self._children()) and time.monotonic() < deadline:
            time.sleep(POLL / 5)
        for child in self._children():
            child.kill()  # nothing for one that has ended

    def _wait_for_peers(self) -> None:
        deadline = time.monotonic() + PATIENCE
        self._wait_for_children()
        with contextlib.suppress(RuntimeError, distributed.DistError, ValueError):
            store = _store()
            while store.add(_GONE, 0) < self.trainer.world_size - 1 and time.monotonic() < deadline:
                if self._children():
                    return
                time.sleep(POLL / 5)


def _store() -> Any:
    """A connection of its own to the store of the process group."""
    store = torch.distributed.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]
    store.set_timeout(timedelta(seconds=SILENCE / 2))
    return store
