"""How each feature of the quality filters is counted, over all documents of a layout at once."""

import numpy as np
import pyarrow.compute as pc

from datamodules.corpus.quality.layout import Layout
from datamodules.corpus.quality.repetition import span_repetition
from datamodules.corpus.spans import text_array

LOREM_IPSUM = "lorem ipsum"

Columns = dict[str, np.ndarray]  # name of the feature: one whole number a document


def counts(layout: Layout) -> Columns:
    return layout.counts


def lorem_ipsum(layout: Layout) -> Columns:
    text = text_array(layout.data, layout.documents)
    found = pc.count_substring(text, LOREM_IPSUM, ignore_case=True)
    return {"lorem_ipsum": found.to_numpy(zero_copy_only=False)}


def repeated_lines(layout: Layout) -> Columns:
    lines, characters = span_repetition(layout.lines)
    return {"repeated_lines": lines, "repeated_line_characters": characters}


def repeated_paragraphs(layout: Layout) -> Columns:
    paragraphs, characters = span_repetition(layout.paragraphs)
    return {"repeated_paragraphs": paragraphs, "repeated_paragraph_characters": characters}
