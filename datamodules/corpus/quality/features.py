"""What quality filters look at, computed from the text once and kept as columns: counts, so that they are exact."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from datamodules.corpus.quality import measures
from datamodules.corpus.quality.layout import Layout, lay_out
from datamodules.corpus.quality.repetition import REPEATED, TOP, ngram_repetition
from datamodules.corpus.quality.scan import SHORT_LINE
from datamodules.corpus.spans import text_bytes

VERSION = 1  # raised when a value below changes
SLICE_BYTES = 1 << 18  # of text worked on at once: its arrays stay in the processor's cache


class Feature(NamedTuple):
    """A column of int32, and the function that counts it, alone or with others."""

    name: str
    measure: Callable[[Layout], measures.Columns]
    meaning: str


FEATURES = (
    Feature("characters", measures.counts, "code points of the text"),
    Feature("newlines", measures.counts, "newline characters"),
    Feature("letters", measures.counts, "characters that are letters of any script"),
    Feature("numbers", measures.counts, "characters that are digits or other numbers of any script"),
    Feature("hash_signs", measures.counts, "characters #"),
    Feature("curly_brackets", measures.counts, "characters {"),
    Feature("ellipses", measures.counts, "... (three dots, no dot counted twice) or the one character …"),
    Feature("lorem_ipsum", measures.lorem_ipsum, "occurrences of 'lorem ipsum' in any case"),
    Feature("words", measures.counts, "runs of characters that are not white space"),
    Feature("word_characters", measures.counts, "characters of all words"),
    Feature("letter_words", measures.counts, "words with at least one letter"),
    Feature(
        "stop_words",
        measures.counts,
        "how many of the eight words of STOP_WORDS occur, in small letters, as a word on their own",
    ),
    Feature(
        "sentences",
        measures.counts,
        "ends of sentences (. ! ? and the like, then white space), and lines that end without one",
    ),
    Feature("lines", measures.counts, "lines with at least one word; all that follow about lines is of these"),
    Feature("longest_line", measures.counts, "characters of the longest line"),
    Feature("short_lines", measures.counts, f"lines of at most {SHORT_LINE} characters"),
    Feature("bullet_lines", measures.counts, "lines whose first word begins with • or -"),
    Feature("ellipsis_lines", measures.counts, "lines whose last word ends in ... or …"),
    Feature("ended_lines", measures.counts, "lines whose last character is the end of a sentence (. ! ? and the like)"),
    Feature("repeated_lines", measures.repeated_lines, "lines with the words of an earlier line of the document"),
    Feature("repeated_line_characters", measures.repeated_lines, "characters of these"),
    Feature("paragraphs", measures.counts, "runs of lines with no blank line between them"),
    Feature(
        "repeated_paragraphs",
        measures.repeated_paragraphs,
        "paragraphs with the words, line by line, of an earlier one of the document",
    ),
    Feature(
        "repeated_paragraph_characters", measures.repeated_paragraphs, "characters of these, newlines inside them too"
    ),
    *(
        Feature(
            f"top_{n}gram_characters",
            ngram_repetition,
            f"the most frequent (first of equals) {n} words, spaces between: length × count",
        )
        for n in TOP
    ),
    *(
        Feature(
            f"repeated_{n}gram_characters",
            ngram_repetition,
            f"characters of the words in runs of {n} words that were read before",
        )
        for n in REPEATED
    ),
)
ALL = tuple(feature.name for feature in FEATURES)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names of features, each once, as FEATURES has them."""
    wanted = set(names)
    return tuple(name for name in ALL if name in wanted)


@dataclass(frozen=True)
class Features:
    """Appends the columns `names` of FEATURES, int32, computed from the column of text (string, no nulls).

    Words are what stands between white space, as in the papers; where a language puts none (Chinese, Japanese, Thai)
    a word is a whole clause, and rules about words do not fit it.
    """

    names: tuple[str, ...] = ALL
    column: str = "text"

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        needed = dict.fromkeys(feature.measure for feature in FEATURES if feature.name in self.names)
        parts: list[measures.Columns] = []
        for text in _slices(batch.column(self.column)):
            layout = lay_out(*text_bytes(text))
            columns: measures.Columns = {}
            for measure in needed:
                columns |= measure(layout)
            parts.append(columns)
        for name in self.names:
            values = np.concatenate([part[name] for part in parts]) if parts else np.zeros(0)
            batch = batch.append_column(pa.field(name, pa.int32()), pa.array(values.astype(np.int32)))
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
