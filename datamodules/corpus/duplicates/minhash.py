"""MinHash signatures of whole batches: keys that find near-duplicates, and bins that estimate how alike two are."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from datamodules.corpus.spans import text_bytes
from datamodules.corpus.split import mix
from datamodules.corpus.words import ngrams, split_words
from datamodules.errors import DataError

VERSION = 2  # raised when the same text gives other keys or signatures
KEYS, SIGNATURE = "near_keys", "near_signature"  # columns
NO_KEY = 0  # of a document without a signature
EMPTY = 0  # a bin of the signature that no n-gram fell into
CHANCE = 258 / 2**16  # that two values of a byte are equal though what they were made from is not; 0 counts as 1
BLOCK_BYTES = 1 << 17  # of text worked on at a time, so that what is made of it stays in the processor's cache
DOCUMENTS = 256  # whose keys are made at a time

_NONE = np.uint32(0xFFFFFFFF)  # the least value of no n-grams
_HALF = np.uint64(32)  # bits
_VALUE = np.uint32(0x9E3779B1)  # odd, so no two hashes have one value


@dataclass(frozen=True)
class Sketches:
    """What n documents are compared by: `keys` uint64 [n, groupings * bands], `signatures` uint8 [n, bins].

    Two documents that share a key at one place are candidates. A document with no signature has keys and bins of zeros.
    """

    keys: np.ndarray
    signatures: np.ndarray


@dataclass(frozen=True)
class MinHash:
    """Adds the columns `near_keys` and `near_signature`, null where a document has fewer than `min_words` words.

    One-permutation MinHash over the set of word n-grams (Li, Owen, Zhang 2012): the hash of an n-gram names one of
    `fine * bands * rows` bins and a value, and each bin keeps the least value.

    `near_signature` (binary, a byte a bin) is 0 for an empty bin, else the low byte of the least value, 1 if that is 0
    (b-bit minwise hashing, Li and König 2010, section 3); `similarity` estimates the Jaccard similarity from two.

    `near_keys` (a list of uint64) are for finding candidates: the bins joined `fine` by `fine` give bands * rows least
    values, and a key is the hash of `rows` of them, so that two documents of Jaccard similarity J share one of `bands`
    keys with a probability of 1 - (1 - J^rows)^bands. The bins can be joined in `fine` ways that share one bin at most,
    so other groupings are nearly as good as other hash functions: `groupings` of them make `bands` keys each.
    Where a joined bin is empty it takes the value of another, which it picks by a fixed shuffle of its own (optimal
    densification, Shrivastava 2017); the values of two documents are then equal with a probability of J as well.

    Raises:
        DataError: for settings out of range.
    """

    ngram: int = 5
    bands: int = 14
    rows: int = 8
    fine: int = 8
    groupings: int = 2
    min_words: int = 10
    column: str = "text"

    def __post_init__(self) -> None:
        for name in ("ngram", "bands", "rows", "fine", "groupings", "min_words"):
            if getattr(self, name) < 1:
                raise DataError(f"minhash: {name} is {getattr(self, name)}; it must be 1 or more")
        if self.groupings > self.fine:
            raise DataError(f"minhash: groupings is {self.groupings}; it can be {self.fine} (fine) at most")
        if self.joined > 4096:
            raise DataError(f"minhash: bands * rows is {self.joined}; it can be 4096 at most")

    @property
    def joined(self) -> int:
        """Least values that the keys of one grouping are made of."""
        return self.bands * self.rows

    @property
    def bins(self) -> int:
        """Bins, and so bytes, of a signature."""
        return self.joined * self.fine

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        sketches = self.sketch(batch.column(self.column))
        missing = sketches.keys[:, 0] == NO_KEY
        keys = pa.FixedSizeListArray.from_arrays(
            pa.array(sketches.keys.ravel()), sketches.keys.shape[1], mask=pa.array(missing)
        )
        signatures = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(self.bins), len(batch), [pa.array(~missing).buffers()[1], pa.py_buffer(sketches.signatures)]
        )
        return batch.append_column(KEYS, keys).append_column(SIGNATURE, signatures)

    def sketch(self, text: pa.StringArray) -> Sketches:
        """The keys and signatures of n strings without nulls."""
        keys = np.full((len(text), self.groupings * self.bands), NO_KEY, dtype=np.uint64)
        signatures = np.full((len(text), self.bins), EMPTY, dtype=np.uint8)
        # One array for all: to give large ones back to the system and ask for them again costs more than to fill them.
        room = np.empty((min(DOCUMENTS, len(text)), self.bins), dtype=np.uint32)
        for start in range(0, len(text), DOCUMENTS):
            least = room[: len(text) - start]
            some = self._find_least(text.slice(start, DOCUMENTS), least)
            if len(some) < len(least):
                least = least[some]
            low = least.astype(np.uint8)
            low |= low == 0
            low *= least != _NONE
            signatures[start + some] = low
            keys[start + some] = self._keys(least)
        return Sketches(keys, signatures)

    def _find_least(self, text: pa.StringArray, least: np.ndarray) -> np.ndarray:
        """Write the least values by bin (uint32 [n, bins]) of n documents; int64: which of these have words enough."""
        least.fill(_NONE)
        counts = np.zeros(len(text), dtype=np.int64)
        for start, end in _blocks(text):
            words = split_words(text.slice(start, end - start))
            hashes = ngrams(words, self.ngram)
            counts[start:end] = words.counts
            place = np.multiply(hashes, np.uint64(self.bins), dtype=np.uint64)  # a hash, scaled to the bins
            place >>= _HALF
            place = place.view(np.int64)
            place += np.repeat(np.arange(end - start) * self.bins, words.counts)
            np.minimum.at(least[start:end].reshape(-1), place, hashes * _VALUE)
        return np.flatnonzero(counts >= self.min_words)

    def _keys(self, least: np.ndarray) -> np.ndarray:
        """uint64 [documents, groupings * bands], from the least values by bin (uint32 [documents, bins])."""
        lanes = least.reshape(len(least), self.fine, self.joined)
        values = np.repeat(lanes[None, :, 0], self.groupings, axis=0)
        for grouping in range(self.groupings):
            # Joined bin j takes bin j + grouping * lane (circular) of every lane.
            for lane in range(1, self.fine):
                shift = grouping * lane % self.joined
                cut = self.joined - shift
                left, right = values[grouping, :, :cut], values[grouping, :, cut:]
                np.minimum(left, lanes[:, lane, shift:], out=left)
                np.minimum(right, lanes[:, lane, :shift], out=right)
        self._fill(values.reshape(-1, self.joined))
        # Documents last: an axis of a few rows or bands makes slow loops.
        values = values.reshape(self.groupings, len(least), self.rows, self.bands).transpose(2, 0, 3, 1)
        odd = mix(np.arange(self.rows, dtype=np.uint64) + np.uint64(1)) | np.uint64(1)
        total = np.zeros(values.shape[1:], dtype=np.uint64)
        for row, factor in zip(values, odd, strict=True):
            total += row * factor
        # The number of grouping and band is in the hash, so keys of different places never meet.
        keys = total.reshape(self.groupings * self.bands, len(least))
        keys += mix(np.arange(len(keys), dtype=np.uint64) + np.uint64(1))[:, None]
        return np.maximum(mix(keys), np.uint64(NO_KEY + 1)).T

    def _fill(self, values: np.ndarray) -> None:
        """Give every empty bin, in place, the value of the first full one in its own shuffle of all bins."""
        empty, flat, joined = values == _NONE, values.reshape(-1), self.joined
        at = np.flatnonzero(empty)
        missing = np.bincount(at // joined, minlength=len(values))
        # Where most are full, each empty one goes through its shuffle; all together, step by step.
        at = at[missing[at // joined] < joined // 2]
        step = 0
        while at.size:
            other = at - at % joined + self._shuffles[at % joined, step]
            found = ~empty.reshape(-1)[other]
            flat[at[found]] = flat[other[found]]
            at = at[~found]
            step += 1
        # Where few are full, all of these are looked at: the one that stands first in the shuffle.
        few = np.flatnonzero(missing >= max(joined // 2, 1))
        if few.size:
            other = np.flatnonzero(~empty[few]) % joined
            counts = joined - missing[few]
            first = np.minimum.reduceat(self._ranks[other], np.cumsum(counts) - counts, axis=0)
            taken = np.take_along_axis(values[few], self._shuffles[np.arange(joined), first], axis=1)
            values[few] = np.where(empty[few], taken, values[few])

    @cached_property
    def _shuffles(self) -> np.ndarray:
        """int64 [joined, joined]: the bins in the order that each empty bin looks at them."""
        numbers = np.arange(self.joined * self.joined, dtype=np.uint64).reshape(self.joined, self.joined)
        return np.argsort(mix(numbers + np.uint64(1)), axis=1, kind="stable")

    @cached_property
    def _ranks(self) -> np.ndarray:
        """[joined, joined]: at [i, j], when bin j looks at bin i."""
        return np.argsort(self._shuffles, axis=1).T.astype(np.min_scalar_type(self.joined))


def _blocks(text: pa.StringArray) -> Iterator[tuple[int, int]]:
    """First and last (excluded) document of blocks of about BLOCK_BYTES."""
    offsets = text_bytes(text)[1]
    start = 0
    while start < len(text):
        end = max(start + 1, int(np.searchsorted(offsets, offsets[start] + BLOCK_BYTES)))
        end = min(end, len(text))
        yield start, end
        start = end
