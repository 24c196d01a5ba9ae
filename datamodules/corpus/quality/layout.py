"""What the features of quality filters are made of: counts of documents, and their words, lines and paragraphs."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa

from datamodules.corpus.quality import characters
from datamodules.corpus.quality.scan import COUNTED, SLOTS, scan

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Rae et al. 2021, appendix A1.1


@dataclass(frozen=True)
class Spans:
    """Words, lines or paragraphs: document i has those of `offsets[i]` to `offsets[i + 1]`, int64 [documents + 1].

    `hashes` uint64 [n] are the same for the same words (line by line in paragraphs), however these are spaced;
    `characters` int64 [n] are those from the first to the last, without the newline at the end.
    """

    hashes: np.ndarray
    characters: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Layout:
    """UTF-8 text of documents one behind the other: `data` uint8 [bytes], `documents` int64 [documents + 1] offsets.

    A word is a run of characters that are not white space (Python's `str.split()`). A line ends at a newline and counts
    if it has a word. A paragraph is a run of lines without a blank one between them. `counts` has an int64 [documents]
    for every name of COUNTED.
    """

    data: np.ndarray
    documents: np.ndarray
    counts: dict[str, np.ndarray]
    words: Spans
    lines: Spans
    paragraphs: Spans


def lay_out(data: np.ndarray, documents: np.ndarray) -> Layout:
    """What there is to find in the text; `data` and `documents` are as in Layout."""
    return _scanned(data, documents, _stop_words())


@cache
def _stop_words() -> np.ndarray:
    """uint64 [SLOTS]: hashes of the stop words, each in the slot of its upper bits."""
    text = np.frombuffer(" ".join(STOP_WORDS).encode(), dtype=np.uint8)
    slots = np.zeros(SLOTS, dtype=np.uint64)
    hashes = _scanned(text, np.array([0, len(text)]), slots).words.hashes
    slots[hashes // np.uint64(2**64 // SLOTS)] = hashes
    return slots


def _room(rows: int, columns: int) -> np.ndarray:
    """int64 [rows, columns] from Arrow's pool, which keeps freed memory where NumPy gives it back and has it zeroed."""
    return np.frombuffer(pa.allocate_buffer(8 * rows * columns), dtype=np.int64).reshape(rows, columns)


def _scanned(data: np.ndarray, documents: np.ndarray, stop_words: np.ndarray) -> Layout:
    data = data.view()
    data.flags.writeable = False  # so that the loop is compiled for one kind of array
    n = len(documents) - 1
    room = (data.size + n) // 2 + 1  # a word takes two bytes, with what separates it
    hashes, lengths = _room(3, room).view(np.uint64), _room(3, room)
    offsets = np.empty((3, n + 1), dtype=np.int64)
    counts = np.empty((n, len(COUNTED)), dtype=np.int64)
    pages = np.ones(1, dtype=bool)
    while pages.any():
        pages = np.zeros(len(characters.FLAGS), dtype=bool)
        scan(
            data, documents, characters.FLAGS, stop_words, counts,
            hashes[0], lengths[0], hashes[1], lengths[1], hashes[2], lengths[2], offsets, pages,
        )  # fmt: skip
        characters.learn(pages)
    spans = (Spans(hashes[kind, : of[-1]], lengths[kind, : of[-1]], of) for kind, of in enumerate(offsets))
    return Layout(data, documents, dict(zip(COUNTED, counts.T, strict=True)), *spans)
