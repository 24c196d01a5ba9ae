"""How far long work is: a bar on a terminal, plain lines elsewhere."""

import logging
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class StepProgress:
    """Of one step over `shards` shards: those done, documents/s, MB/s, and the time left.

    A context manager; call it with the record of each shard as it is done, which holds `documents` and `bytes`. The
    bar is drawn on a terminal's standard error, from the beginning. Elsewhere a line is logged every ten seconds, so
    that short work says nothing.
    """

    def __init__(self, step: str, shards: int, console: Console | None = None) -> None:
        self.step = step
        self.shards = shards
        self.done = self.documents = self.bytes = 0
        self.console = console or Console(stderr=True)
        self.bar: Progress | None = None

    def __enter__(self) -> "StepProgress":
        self.started = self.last_line = time.monotonic()
        if self.console.is_terminal:
            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} shards  {task.fields[rates]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task(self.step, total=self.shards, rates="")
            self.bar.start()
        return self

    def __call__(self, record: dict[str, Any]) -> None:
        """Count one shard that is done."""
        self.done += 1
        self.documents += record["documents"]
        self.bytes += record["bytes"]
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, rates=self.rates())
        elif now - self.last_line >= SECONDS_BETWEEN_LINES and self.done < self.shards:
            self.last_line = now
            left = (now - self.started) / self.done * (self.shards - self.done)
            log.info("%s: %d of %d shards, %s, left %.0f s", self.step, self.done, self.shards, self.rates(), left)

    def rates(self) -> str:
        """Documents and megabytes (10^6) of text a second since the step began."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        return f"{self.documents / seconds:,.0f} documents/s, {self.bytes / seconds / 1e6:.1f} MB/s"

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
