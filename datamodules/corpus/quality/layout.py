"""Where words, lines and paragraphs of several documents stand in their text, for the features of quality filters."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from datamodules.corpus.quality.characters import CONTINUATION, SPACE, character_flags
from datamodules.corpus.split import mix
from datamodules.corpus.words import hash_spans

NEWLINE = 0x0A
_PLACE = np.uint64(0x9FB21C651E98DF25)  # an odd constant: a word's place in its line changes what it adds to the hash


@dataclass(frozen=True)
class WordSpans:
    """Words: bytes [start, end) each, int64; document i has the words `offsets[i]` to `offsets[i + 1]`."""

    starts: np.ndarray
    ends: np.ndarray
    offsets: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """int64 [documents]: words of each document."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Spans:
    """Lines or paragraphs: int64 [n] each; characters without the newline at the end.

    `words` is where each one's words begin, in the words of all documents.
    """

    documents: np.ndarray
    characters: np.ndarray
    words: np.ndarray


class Layout:
    """UTF-8 text of documents one behind the other: `data` uint8 [bytes], `documents` int64 [documents + 1] offsets.

    A word is a run of characters that are not white space (Python's `str.split()`). A line ends at a newline and counts
    if it has a word. A paragraph is a run of lines without a blank one between them.
    """

    def __init__(self, data: np.ndarray, documents: np.ndarray) -> None:
        self.data, self.documents = data, documents
        self.flags = character_flags(data)
        self.newlines = np.flatnonzero(data == NEWLINE)
        self.words = self._split_words()

    def __len__(self) -> int:
        return len(self.documents) - 1

    def characters_before(self, at: np.ndarray) -> np.ndarray:
        """int64: characters (code points) before the bytes `at`, each of which begins a character or ends the text."""
        return at - np.searchsorted(self._continuation, at)

    @cached_property
    def _continuation(self) -> np.ndarray:
        """int64: the bytes that do not begin a character; few in most languages with letters of ASCII."""
        return np.flatnonzero(self.flags & CONTINUATION)

    @cached_property
    def word_hashes(self) -> np.ndarray:
        """uint64 [words]: the same for the same word."""
        return hash_spans(self.data, self.words.starts, self.words.ends)

    @cached_property
    def word_documents(self) -> np.ndarray:
        """int64 [words]: the document of each word."""
        return np.repeat(np.arange(len(self)), self.words.counts)

    @cached_property
    def word_characters(self) -> np.ndarray:
        """int64 [words + 1]: characters of all words before each word."""
        lengths = self.characters_before(self.words.ends) - self.characters_before(self.words.starts)
        return np.concatenate(([0], np.cumsum(lengths)))

    def _split_words(self) -> WordSpans:
        inside = self.flags & SPACE == 0
        edges = np.empty(self.data.size + 1, dtype=bool)  # between byte i - 1 and i
        edges[:1], edges[-1:] = True, True
        np.not_equal(inside[1:], inside[:-1], out=edges[1:-1])
        edges[self.documents] = True
        bounds = np.flatnonzero(edges)
        spans = np.flatnonzero(inside[bounds[:-1]]) if self.data.size else bounds[:0]
        starts, ends = bounds[spans], bounds[spans + 1]
        return WordSpans(starts, ends, np.searchsorted(starts, self.documents))

    @cached_property
    def _segments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What stands between newlines, blank or not: first byte, byte after the last, first word, word after the last.

        Both kinds of bounds come in order, so that the n-th begin and the n-th end are of one segment.
        """
        starts = np.sort(np.concatenate((self.documents[:-1], self.newlines + 1)))
        ends = np.sort(np.concatenate((self.newlines, self.documents[1:])))
        return starts, ends, np.searchsorted(self.words.starts, starts), np.searchsorted(self.words.starts, ends)

    @cached_property
    def lines(self) -> Spans:
        starts, ends, first, last = self._segments
        full = np.flatnonzero(last > first)
        first = first[full]
        characters = self.characters_before(ends[full]) - self.characters_before(starts[full])
        return Spans(self.word_documents[first], characters, first)

    @cached_property
    def last_words(self) -> np.ndarray:
        """int64 [lines]: the last word of each line."""
        _, _, first, last = self._segments
        return last[last > first] - 1

    @cached_property
    def paragraphs(self) -> Spans:
        starts, ends, first, last = self._segments
        full = np.flatnonzero(last > first)
        begins = np.ones(len(full), dtype=bool)
        begins[1:] = (np.diff(full) > 1) | (np.diff(self.lines.documents) > 0)
        begin = np.flatnonzero(begins)
        end = np.append(begin[1:], len(full))[: len(begin)] - 1
        characters = self.characters_before(ends[full[end]]) - self.characters_before(starts[full[begin]])
        return Spans(self.lines.documents[begin], characters, self.lines.words[begin])

    @cached_property
    def line_hashes(self) -> np.ndarray:
        """uint64 [lines]: the same for lines of the same words, however these are spaced."""
        return _hash_runs(self.word_hashes, self.lines.words)

    @cached_property
    def paragraph_hashes(self) -> np.ndarray:
        """uint64 [paragraphs]: the same for paragraphs of the same words, line by line."""
        return _hash_runs(self.line_hashes, np.searchsorted(self.lines.words, self.paragraphs.words))


def _hash_runs(hashes: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """uint64 [n]: a hash of each run of hashes that begins at `begin` and ends where the next one begins."""
    if not begin.size:
        return hashes[:0]
    place = np.arange(len(hashes)) - np.repeat(begin, np.diff(begin, append=len(hashes)))
    return np.add.reduceat(mix(hashes + (place.astype(np.uint64) + np.uint64(1)) * _PLACE), begin)
