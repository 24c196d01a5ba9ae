"""What quality filters look at, computed from the text once and kept as columns: counts, so that they are exact."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.corpus.quality.characters import CLOSING, LETTER, NUMBER, SPACE, TERMINAL, character_widths
from datamodules.corpus.quality.layout import Layout
from datamodules.corpus.quality.repetition import REPEATED, TOP, ngram_repetition, span_repetition
from datamodules.corpus.spans import text_bytes
from datamodules.corpus.words import hash_spans

VERSION = 1  # raised when a value below changes
SLICE_BYTES = 1 << 20  # of text worked on at once: its arrays stay in the processor's cache

SHORT_LINE = 30  # characters (FineWeb)
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Rae et al. 2021, appendix A1.1
LOREM_IPSUM = "lorem ipsum"
CLOSERS_AT_MOST = 2  # quotes and brackets between the end of a sentence and the white space behind it


class Feature(NamedTuple):
    """A column of int32."""

    name: str
    meaning: str


FEATURES = (
    Feature("characters", "code points of the text"),
    Feature("newlines", "newline characters"),
    Feature("letters", "characters that are letters of any script"),
    Feature("numbers", "characters that are digits or other numbers of any script"),
    Feature("hash_signs", "characters #"),
    Feature("curly_brackets", "characters {"),
    Feature("ellipses", "... (three dots, no dot counted twice) or the one character …"),
    Feature("lorem_ipsum", "occurrences of 'lorem ipsum' in any case"),
    Feature("words", "runs of characters that are not white space"),
    Feature("word_characters", "characters of all words"),
    Feature("letter_words", "words with at least one letter"),
    Feature("stop_words", "how many of the eight words of STOP_WORDS occur, in small letters, as a word on their own"),
    Feature("sentences", "ends of sentences (. ! ? and the like, then white space), and lines that end without one"),
    Feature("lines", "lines with at least one word; all that follow about lines is of these"),
    Feature("longest_line", "characters of the longest line"),
    Feature("short_lines", f"lines of at most {SHORT_LINE} characters"),
    Feature("bullet_lines", "lines whose first word begins with • or -"),
    Feature("ellipsis_lines", "lines whose last word ends in ... or …"),
    Feature("ended_lines", "lines whose last character is the end of a sentence (. ! ? and the like)"),
    Feature("repeated_lines", "lines with the words of an earlier line of the document"),
    Feature("repeated_line_characters", "characters of these"),
    Feature("paragraphs", "runs of lines with no blank line between them"),
    Feature("repeated_paragraphs", "paragraphs with the words, line by line, of an earlier one of the document"),
    Feature("repeated_paragraph_characters", "characters of these, newlines inside them too"),
    *(
        Feature(
            f"top_{n}gram_characters", f"the most frequent (first of equals) {n} words, spaces between: length × count"
        )
        for n in TOP
    ),
    *(
        Feature(f"repeated_{n}gram_characters", f"characters of the words in runs of {n} words that were read before")
        for n in REPEATED
    ),
)


@dataclass(frozen=True)
class Features:
    """Appends the columns of FEATURES, int32, computed from the column of text (string, no nulls).

    Words are what stands between white space, as in the papers; where a language puts none (Chinese, Japanese, Thai)
    a word is a whole clause, and rules about words do not fit it.
    """

    column: str = "text"

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        text = batch.column(self.column)
        parts = [_features(part) for part in _slices(text)]
        for feature in FEATURES:
            values = np.concatenate([part[feature.name] for part in parts]) if parts else np.zeros(0)
            batch = batch.append_column(pa.field(feature.name, pa.int32()), pa.array(values.astype(np.int32)))
        return batch


def _slices(text: pa.StringArray) -> Iterator[pa.StringArray]:
    """The documents in runs of at most SLICE_BYTES, or of one document that is longer."""
    _, offsets = text_bytes(text)
    start = 0
    while start < len(text):
        end = int(np.searchsorted(offsets, offsets[start] + SLICE_BYTES, side="right")) - 1
        end = min(max(end, start + 1), len(text))
        yield text.slice(start, end - start)
        start = end


def _features(text: pa.StringArray) -> dict[str, np.ndarray]:
    layout = Layout(*text_bytes(text))
    lorem_ipsum = pc.count_substring(text, LOREM_IPSUM, ignore_case=True).to_numpy(zero_copy_only=False)
    return (
        {"lorem_ipsum": lorem_ipsum}
        | _character_features(layout)
        | _word_features(layout)
        | _line_features(layout)
        | ngram_repetition(layout)
    )


def _character_features(layout: Layout) -> dict[str, np.ndarray]:
    data, documents = layout.data, layout.documents
    dots, unicode_dots = np.flatnonzero(data == ord(".")), _occurrences(data, "…")
    # The third, sixth, ... dot of a run makes an ellipsis; a run ends with its document.
    begins = np.diff(dots, prepend=-2) > 1
    begins |= _among(dots, documents)
    place = np.arange(len(dots)) - np.maximum.accumulate(np.where(begins, np.arange(len(dots)), 0))
    return {
        "characters": np.diff(layout.characters_before(documents)),
        "newlines": _count(layout.newlines, documents),
        "letters": _count_set(layout.flags & LETTER != 0, documents),
        "numbers": _count(np.flatnonzero(layout.flags & NUMBER != 0), documents),
        "hash_signs": _count(np.flatnonzero(data == ord("#")), documents),
        "curly_brackets": _count(np.flatnonzero(data == ord("{")), documents),
        "ellipses": _count(dots[place % 3 == 2], documents) + _count(unicode_dots, documents),
    }


def _word_features(layout: Layout) -> dict[str, np.ndarray]:
    words = layout.words
    with_letter = _with_letter(layout)
    stop_words = np.zeros(len(layout), dtype=np.int64)
    for stop_word in _hashes(STOP_WORDS):
        stop_words += _count(np.flatnonzero(words.hashes == stop_word), words.offsets) > 0
    return {
        "words": words.counts,
        "word_characters": np.diff(layout.word_characters[words.offsets]),
        "letter_words": _count(np.flatnonzero(with_letter), words.offsets),
        "stop_words": stop_words,
    }


def _line_features(layout: Layout) -> dict[str, np.ndarray]:
    lines, paragraphs, n = layout.lines, layout.paragraphs, len(layout)
    data = layout.data
    first_byte = layout.words.starts[lines.words]
    last_word, end = layout.words.starts[layout.last_words], layout.words.ends[layout.last_words]
    bullets = (data[first_byte] == ord("-")) | _among(first_byte, _occurrences(data, "•"))
    ellipses = _among(end, _occurrences(data, "...") + len("...")) & (end - last_word >= len("..."))
    ellipses |= _among(end, _occurrences(data, "…") + len("…".encode()))
    terminal, sentence_ends = _sentence_ends(layout)
    unended = ~_among(end, sentence_ends)
    longest = np.zeros(n, dtype=np.int64)
    np.maximum.at(longest, lines.documents, lines.characters)

    def per_document(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(lines.documents[chosen], minlength=n)

    repeated_lines, repeated_line_characters = span_repetition(lines, n)
    repeated_paragraphs, repeated_paragraph_characters = span_repetition(paragraphs, n)
    return {
        "sentences": _count(sentence_ends - 1, layout.documents) + per_document(unended),
        "lines": np.bincount(lines.documents, minlength=n),
        "longest_line": longest,
        "short_lines": per_document(lines.characters <= SHORT_LINE),
        "bullet_lines": per_document(bullets),
        "ellipsis_lines": per_document(ellipses),
        "ended_lines": per_document(_among(end, terminal)),
        "repeated_lines": repeated_lines,
        "repeated_line_characters": repeated_line_characters,
        "paragraphs": np.bincount(paragraphs.documents, minlength=n),
        "repeated_paragraphs": repeated_paragraphs,
        "repeated_paragraph_characters": repeated_paragraph_characters,
    }


def _sentence_ends(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Bytes after each character that ends sentences, and, with quotes and brackets, after each that does end one."""
    flags, data, documents = layout.flags, layout.data, layout.documents
    first = np.flatnonzero(flags & TERMINAL != 0)
    after = first + character_widths(data, first)
    end, last = after.copy(), data.size - 1
    for _ in range(CLOSERS_AT_MOST):
        closing = np.flatnonzero((flags[np.minimum(end, last)] & CLOSING != 0) & ~_among(end, documents))
        end[closing] += character_widths(data, end[closing])
    return after, end[(flags[np.minimum(end, last)] & SPACE != 0) | _among(end, documents)]


def _with_letter(layout: Layout) -> np.ndarray:
    """bool [words]: those with a letter; most begin with one, and only the others are searched."""
    letters = layout.flags & LETTER != 0
    found = letters[layout.words.starts]
    rest = np.flatnonzero(~found)
    if rest.size:
        bounds = np.column_stack((layout.words.starts[rest], layout.words.ends[rest])).ravel()
        bounds = bounds[: np.searchsorted(bounds, letters.size)]  # the last word may end with the text
        found[rest] = np.logical_or.reduceat(letters, bounds)[::2]
    return found


def _count(places: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """int64 [documents]: how many of the places, in order, lie in each document."""
    return np.diff(np.searchsorted(places, documents))


def _count_set(flags: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """int64 [documents]: how many of the flags, bool [bytes], are set in each document; for what most bytes are."""
    counts = np.zeros(len(documents) - 1, dtype=np.int64)
    full = np.flatnonzero(np.diff(documents))
    if full.size:
        counts[full] = np.add.reduceat(flags.view(np.uint8), documents[full], dtype=np.int64)
    return counts


def _among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """bool [n]: which values are among the ordered ones."""
    if not ordered.size:
        return np.zeros(len(values), dtype=bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def _occurrences(data: np.ndarray, wanted: str) -> np.ndarray:
    """int64 [n]: the bytes where `wanted` begins, overlaps included."""
    first, *rest = wanted.encode()
    places = np.flatnonzero(data[: max(data.size - len(rest), 0)] == first)
    for place, byte in enumerate(rest, start=1):
        places = places[data[places + place] == byte]
    return places


def _hashes(words: tuple[str, ...]) -> np.ndarray:
    encoded = [word.encode() for word in words]
    ends = np.cumsum([len(word) for word in encoded])
    return hash_spans(np.frombuffer(b"".join(encoded), dtype=np.uint8), np.concatenate(([0], ends[:-1])), ends)
