"""MinHash signatures of whole batches: keys that find near-duplicates, and bins that estimate how alike two are."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from datamodules.corpus.compiled import compiled
from datamodules.corpus.spans import text_bytes
from datamodules.corpus.split import mix
from datamodules.corpus.words import ngrams, split_words
from datamodules.errors import DataError

VERSION = 3  # raised when the same text gives other keys or signatures
KEYS, SIGNATURE = "near_keys", "near_signature"  # columns
NO_KEY = 0  # of a document without a signature
EMPTY = 0  # a bin of the signature that no n-gram fell into
CHANCE = 258 / 2**16  # that two values of a byte are equal though what they were made from is not; 0 counts as 1
BLOCK_BYTES = 1 << 17  # of text worked on at a time, so that what is made of it stays in the processor's cache

_NONE = np.uint32(0xFFFFFFFF)  # the least value of no n-grams
_VALUE = np.uint64(0x7FFFFFFF)  # the bits of a hash that are its value, which is never _NONE
_HALF = np.uint64(32)  # bits


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
        places = np.arange(self.groupings * self.bands, dtype=np.uint64)
        keys = np.full((len(text), len(places)), NO_KEY, dtype=np.uint64)
        signatures = np.full((len(text), self.bins), EMPTY, dtype=np.uint8)
        factors = mix(np.arange(self.rows, dtype=np.uint64) + np.uint64(1)) | np.uint64(1)
        for start, end in _blocks(text):
            words = split_words(text.slice(start, end - start))
            long = words.counts >= self.min_words
            hashes = ngrams(words, self.ngram)
            some = slice(start, end)
            _sketch(hashes, words.offsets, long, self._shuffles, factors, self.fine, keys[some], signatures[some])
            # The number of grouping and band is in the hash, so keys of different places never meet.
            own = mix(keys[some][long] + mix(places + np.uint64(1)))
            keys[some][long] = np.maximum(own, np.uint64(NO_KEY + 1))
        return Sketches(keys, signatures)

    @cached_property
    def _shuffles(self) -> np.ndarray:
        """int64 [joined, joined]: the bins in the order that each empty bin looks at them."""
        numbers = np.arange(self.joined * self.joined, dtype=np.uint64).reshape(self.joined, self.joined)
        return np.argsort(mix(numbers + np.uint64(1)), axis=1, kind="stable")


@compiled
def _sketch(
    hashes: np.ndarray,
    offsets: np.ndarray,
    long: np.ndarray,
    shuffles: np.ndarray,
    factors: np.ndarray,
    fine: int,
    keys: np.ndarray,
    signatures: np.ndarray,
) -> None:
    """Write signatures, and sums that make keys, of the documents that are long enough, from their n-grams' hashes."""
    joined, rows, bins = len(shuffles), len(factors), signatures.shape[1]
    bands = joined // rows
    least = np.empty(bins, dtype=np.uint32)
    values = np.empty(joined, dtype=np.uint32)
    filled = np.empty(joined, dtype=np.uint32)
    for document in range(len(offsets) - 1):
        if not long[document]:
            continue
        least[:] = _NONE
        for place in range(offsets[document], offsets[document + 1]):
            # The upper half of a hash, scaled to the bins, says which; the lower half has the value.
            number = (hashes[place] >> _HALF) * np.uint64(bins) >> _HALF
            least[number] = min(least[number], np.uint32(hashes[place] & _VALUE))
        for number, value in enumerate(least):
            signatures[document, number] = EMPTY if value == _NONE else max(np.uint8(value), np.uint8(1))
        for grouping in range(keys.shape[1] // bands):
            _group(least, fine, grouping, values)
            _fill(values, shuffles, filled)
            for band in range(bands):
                total = np.uint64(0)
                for row in range(rows):
                    total += np.uint64(filled[row * bands + band]) * factors[row]
                keys[document, grouping * bands + band] = total


@compiled
def _group(least: np.ndarray, fine: int, grouping: int, values: np.ndarray) -> None:
    """Write the least values of joined bins: j takes bin j + grouping * lane (circular) of every lane."""
    joined = len(values)
    values[:] = least[:joined]
    for lane in range(1, fine):
        shift = grouping * lane % joined
        own = least[lane * joined : (lane + 1) * joined]
        _take_less(values[: joined - shift], own[shift:])
        _take_less(values[joined - shift :], own[:shift])


@compiled
def _take_less(values: np.ndarray, others: np.ndarray) -> None:
    for number in range(len(values)):
        values[number] = min(values[number], others[number])


@compiled
def _fill(values: np.ndarray, shuffles: np.ndarray, filled: np.ndarray) -> None:
    """Write the values of joined bins; for an empty one that of the first full one in its own shuffle of all bins."""
    for number in range(len(values)):
        filled[number] = values[number]
        step = 0
        while filled[number] == _NONE:
            filled[number] = values[shuffles[number, step]]
            step += 1


def _blocks(text: pa.StringArray) -> Iterator[tuple[int, int]]:
    """First and last (excluded) document of blocks of about BLOCK_BYTES."""
    offsets = text_bytes(text)[1]
    start = 0
    while start < len(text):
        end = max(start + 1, int(np.searchsorted(offsets, offsets[start] + BLOCK_BYTES)))
        end = min(end, len(text))
        yield start, end
        start = end
