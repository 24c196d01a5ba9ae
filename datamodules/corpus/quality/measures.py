"""How each feature of the quality filters is counted, over all documents of a layout at once."""

import numpy as np
import pyarrow.compute as pc

from datamodules.corpus.quality.characters import CLOSING, LETTER, NUMBER, SPACE, TERMINAL, character_widths
from datamodules.corpus.quality.layout import Layout
from datamodules.corpus.quality.repetition import span_repetition
from datamodules.corpus.spans import text_array
from datamodules.corpus.words import hash_spans

SHORT_LINE = 30  # characters (FineWeb)
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Rae et al. 2021, appendix A1.1
LOREM_IPSUM = "lorem ipsum"
CLOSERS_AT_MOST = 2  # quotes and brackets between the end of a sentence and the white space behind it

Columns = dict[str, np.ndarray]  # name of the feature: one whole number a document


def characters(layout: Layout) -> Columns:
    data, documents = layout.data, layout.documents
    return {
        "characters": np.diff(layout.characters_before(documents)),
        "newlines": _count(layout.newlines, documents),
        "hash_signs": _count(np.flatnonzero(data == ord("#")), documents),
        "curly_brackets": _count(np.flatnonzero(data == ord("{")), documents),
    }


def letters(layout: Layout) -> Columns:
    return {
        "letters": _count_set(layout.flags & LETTER != 0, layout.documents),
        "numbers": _count(np.flatnonzero(layout.flags & NUMBER != 0), layout.documents),
    }


def ellipses(layout: Layout) -> Columns:
    data, documents = layout.data, layout.documents
    dots, unicode_dots = np.flatnonzero(data == ord(".")), _occurrences(data, "…")
    # The third, sixth, ... dot of a run makes an ellipsis; a run ends with its document.
    begins = np.diff(dots, prepend=-2) > 1
    begins |= _among(dots, documents)
    place = np.arange(len(dots)) - np.maximum.accumulate(np.where(begins, np.arange(len(dots)), 0))
    return {"ellipses": _count(dots[place % 3 == 2], documents) + _count(unicode_dots, documents)}


def lorem_ipsum(layout: Layout) -> Columns:
    text = text_array(layout.data, layout.documents)
    found = pc.count_substring(text, LOREM_IPSUM, ignore_case=True)
    return {"lorem_ipsum": found.to_numpy(zero_copy_only=False)}


def words(layout: Layout) -> Columns:
    return {"words": layout.words.counts, "word_characters": np.diff(layout.word_characters[layout.words.offsets])}


def letter_words(layout: Layout) -> Columns:
    return {"letter_words": _count(np.flatnonzero(_with_letter(layout)), layout.words.offsets)}


def stop_words(layout: Layout) -> Columns:
    words = layout.words
    lengths = words.ends - words.starts
    short = np.flatnonzero((lengths >= min(map(len, STOP_WORDS))) & (lengths <= max(map(len, STOP_WORDS))))
    hashes = hash_spans(layout.data, words.starts[short], words.ends[short])
    found = np.zeros(len(layout), dtype=np.int64)
    for stop_word in _hashes(STOP_WORDS):
        found += _count(short[hashes == stop_word], words.offsets) > 0
    return {"stop_words": found}


def lines(layout: Layout) -> Columns:
    lines, n = layout.lines, len(layout)
    longest = np.zeros(n, dtype=np.int64)
    np.maximum.at(longest, lines.documents, lines.characters)
    return {
        "lines": np.bincount(lines.documents, minlength=n),
        "longest_line": longest,
        "short_lines": _lines_with(layout, lines.characters <= SHORT_LINE),
    }


def line_marks(layout: Layout) -> Columns:
    data, words = layout.data, layout.words
    first_byte = words.starts[layout.lines.words]
    last_word, end = words.starts[layout.last_words], words.ends[layout.last_words]
    bullets = (data[first_byte] == ord("-")) | _among(first_byte, _occurrences(data, "•"))
    ellipses = _among(end, _occurrences(data, "...") + len("...")) & (end - last_word >= len("..."))
    ellipses |= _among(end, _occurrences(data, "…") + len("…".encode()))
    return {"bullet_lines": _lines_with(layout, bullets), "ellipsis_lines": _lines_with(layout, ellipses)}


def sentences(layout: Layout) -> Columns:
    end = layout.words.ends[layout.last_words]
    terminal, sentence_ends = _sentence_ends(layout)
    unended = ~_among(end, sentence_ends)
    return {
        "sentences": _count(sentence_ends - 1, layout.documents) + _lines_with(layout, unended),
        "ended_lines": _lines_with(layout, _among(end, terminal)),
    }


def repeated_lines(layout: Layout) -> Columns:
    lines, line_characters = span_repetition(layout.lines, layout.line_hashes, len(layout))
    return {"repeated_lines": lines, "repeated_line_characters": line_characters}


def paragraphs(layout: Layout) -> Columns:
    repeated, characters = span_repetition(layout.paragraphs, layout.paragraph_hashes, len(layout))
    return {
        "paragraphs": np.bincount(layout.paragraphs.documents, minlength=len(layout)),
        "repeated_paragraphs": repeated,
        "repeated_paragraph_characters": characters,
    }


def _lines_with(layout: Layout, chosen: np.ndarray) -> np.ndarray:
    """int64 [documents]: how many lines of each are chosen, bool [lines]."""
    return np.bincount(layout.lines.documents[chosen], minlength=len(layout))


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
