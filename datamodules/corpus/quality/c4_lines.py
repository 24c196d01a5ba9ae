"""C4's rules about lines: lines that are no sentences go, the document stays."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CITATION = r"\[\d*\]|\[edit\]|\[citation needed\]"
ENDINGS = r"[.?!\"']$"
# Warnings that a browser lacks JavaScript, and lines about terms and cookies.
NOTICES = r"javascript|terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"


@dataclass(frozen=True)
class C4Lines:
    """Changes `text`: keeps the lines that C4 keeps (Raffel et al. 2020, section 2.2, and its published code).

    A line goes if it has a word of more than `max_word_length` characters, does not end in . ? ! " or ', ends in an
    ellipsis, has fewer than `min_words` words (3 in the code, 5 in the paper's text), or mentions JavaScript, a policy
    or cookies. White space at its ends and marks of citation such as [3] or [edit] go from the lines that stay.
    A document may be left with no text.
    """

    min_words: int = 3
    max_word_length: int = 1_000  # characters
    column: str = "text"

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        index = batch.schema.get_field_index(self.column)
        lists = pc.split_pattern(batch.column(index), "\n")
        bounds = lists.offsets.to_numpy()
        lines = pc.utf8_trim_whitespace(lists.values)
        words = pc.utf8_split_whitespace(lines)
        keep = pc.greater_equal(pc.list_value_length(words), self.min_words)
        keep = pc.and_(keep, pc.invert(self._with_long_word(lines, words)))
        lines = pc.replace_substring_regex(lines, CITATION, "")
        keep = pc.and_(keep, pc.match_substring_regex(lines, ENDINGS))
        keep = pc.and_(keep, pc.invert(pc.ends_with(lines, "...")))
        keep = pc.and_(keep, pc.invert(pc.match_substring_regex(lines, NOTICES, ignore_case=True)))
        kept_before = np.concatenate(([0], np.cumsum(keep.to_numpy(zero_copy_only=False))))
        kept = pa.ListArray.from_arrays(pa.array(kept_before[bounds].astype(np.int32)), lines.filter(keep))
        return batch.set_column(index, batch.schema.field(index), pc.binary_join(kept, "\n"))

    def _with_long_word(self, lines: pa.StringArray, words: pa.ListArray) -> pa.BooleanArray:
        """Only lines that are long enough themselves are searched."""
        long = np.flatnonzero(pc.greater(pc.utf8_length(lines), self.max_word_length))
        found = np.zeros(len(lines), dtype=bool)
        candidates = words.take(pa.array(long))
        lengths = pc.utf8_length(pc.list_flatten(candidates)).to_numpy(zero_copy_only=False)
        line = pc.list_parent_indices(candidates).to_numpy(zero_copy_only=False)
        found[long[line[lengths > self.max_word_length]]] = True
        return pa.array(found)
