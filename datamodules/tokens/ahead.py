"""Files that are fetched before they are read."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from datamodules.errors import DataError
from datamodules.tokens.store import ShardedTokens

log = logging.getLogger(__name__)

POLL = 0.05  # seconds between two looks at where the run stands
STEPS_AHEAD = 10_000


class FetchAhead(threading.Thread):
    """Fetches the files of the next steps while the run computes, so that no step waits for one.

    Args:
        tokens: whose files are fetched.
        starts: the first tokens of the rows that this rank reads in a step, int64 [N].
        length: tokens of a row.
        step: where the run stands.
        most_files: that are needed for the present step and those that are looked ahead to.
    """

    def __init__(
        self,
        tokens: ShardedTokens,
        starts: Callable[[int], np.ndarray],
        length: int,
        step: Callable[[], int],
        most_files: int,
    ) -> None:
        super().__init__(name="fetch-ahead", daemon=True)
        self.tokens, self.starts, self.length, self.step = tokens, starts, length, step
        self.most_files = max(1, most_files)
        self._over = threading.Event()
        self._needed: OrderedDict[int, int] = OrderedDict()  # by file, the last step known to need it

    def run(self) -> None:
        """Look ahead until `stop`; what cannot be fetched is left to whoever reads it, who tells why."""
        following = self.step()
        while not self._over.is_set():
            now = self.step()
            following = max(following, now)
            self._needed = OrderedDict((file, last) for file, last in self._needed.items() if last >= now)
            if following - now > STEPS_AHEAD or not self._go_on(following):
                self._over.wait(POLL)
                continue
            following += 1

    def _go_on(self, step: int) -> bool:
        """Fetch what `step` needs, if there is room for it beside what is needed before."""
        files = self.tokens.shards_of(self.starts(step), self.length)
        new = [file for file in files if file not in self._needed]
        if new and self._needed and len(self._needed) + len(new) > self.most_files:
            return False
        for file in files:
            if file in new and not self._over.is_set():
                try:
                    self.tokens.fetch(file)
                except (DataError, OSError) as error:
                    log.debug("ahead of step %d: %s", step, error)
            self._needed[file] = step
        return True

    def stop(self) -> None:
        """End, after the file that is being fetched."""
        self._over.set()
        self.join()
