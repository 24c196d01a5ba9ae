"""Which split a record belongs to, and which records stand in more than one."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Literal

import xxhash

log = logging.getLogger(__name__)

Split = Literal["train", "validation", "test"]
SALT = 0x7265636F  # fixed rather than the run's seed: runs of several seeds share one validation set
SHOWN = 5


def key_of(text: str) -> int:
    """64 bits that are the same for texts that differ in case, width of characters and blanks alone."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return xxhash.xxh3_64_intdigest(plain.encode(), seed=SALT)


def split_of(key: int, validation_fraction: float) -> Split:
    """`validation` where the key lies in its share of all keys: a pure function, and equal keys stay together."""
    return "validation" if key < validation_fraction * 2.0**64 else "train"


class SplitCounts:
    """What became of the records of each split, and which of train stand in the others as well."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._held_out: set[int] = set()
        self._places: list[str] = []
        self._n_contaminated = 0

    def add(self, split: str, what: str) -> None:
        """Count one record."""
        self._counts.setdefault(split, Counter())[what] += 1

    def of(self, split: str) -> dict[str, int]:
        """How many records of a split became what."""
        return dict(self._counts.get(split, Counter()))

    def told(self, split: str) -> str:
        """The same in words."""
        return ", ".join(f"{n:,} {what}" for what, n in self.of(split).items()) or "there are none"

    def is_contaminated(self, given: Split, text: str, place: Callable[[], str]) -> bool:
        """Whether a record for training stands in validation or test as well; those are to be asked about first."""
        key = key_of(text)
        if given != "train":
            self._held_out.add(key)
            return False
        if key not in self._held_out:
            return False
        self._n_contaminated += 1
        self.add("train", "in_held_out")
        if len(self._places) < SHOWN:
            self._places.append(place())
        return True

    def warn(self) -> None:
        """Name the records for training that were left out, as they stand in what is held out."""
        if self._n_contaminated:
            more = f" and {self._n_contaminated - SHOWN:,} more" if self._n_contaminated > SHOWN else ""
            log.warning(
                "left out of training, as it stands in validation or test as well: %s record%s: %s%s",
                f"{self._n_contaminated:,}",
                "" if self._n_contaminated == 1 else "s",
                "; ".join(self._places),
                more,
            )
