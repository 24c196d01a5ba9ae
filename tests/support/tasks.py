"""Tasks for the corpus engine; in a module of their own, so that worker processes can import them."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import DataError


@dataclass(frozen=True)
class Square:
    """Squares a number; `trouble` of the number `at` is what goes wrong instead."""

    number: int
    trouble: str = ""
    at: int = 3
    once: Path | None = None

    def __call__(self) -> dict[str, Any]:
        if self.number == self.at and self.trouble:
            self._fail()
        return {"square": self.number**2, "process": os.getpid()}

    def _fail(self) -> None:
        if self.trouble == "refused":
            raise DataError("file 3 is damaged; mend it")
        if self.trouble == "error":
            raise KeyError("a slip of ours")
        if self.once is not None:
            if self.once.exists():
                return
            self.once.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Sleep:
    """Takes its time and leaves a file."""

    seconds: float
    file: Path

    def __call__(self) -> dict[str, Any]:
        time.sleep(self.seconds)
        self.file.touch()
        return {}


@dataclass(frozen=True)
class Meet:
    """Leaves a file and waits for that of another one."""

    own: Path
    other: Path

    def __call__(self) -> dict[str, Any]:
        self.own.touch()
        end = time.monotonic() + 20
        while not self.other.exists() and time.monotonic() < end:
            time.sleep(0.01)
        return {"met": self.other.exists()}
