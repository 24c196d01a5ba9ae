"""Whitespace of prose: one kind of space, no invisible characters, no trailing blanks, few blank lines."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from datamodules.corpus.cleaning.unicode import TAB
from datamodules.corpus.spans import NEWLINE, lines_of, text_array, text_bytes, trim_spans, without_spans

SPACE = 0x20

# Characters of three bytes, as the number that their bytes make.
WIDE_SPACES = (0xE19A80, *range(0xE28080, 0xE2808B), 0xE280AF, 0xE2819F, 0xE38080)
SEPARATORS = (0xE280A8, 0xE280A9)
INVISIBLE = (0xE2808B, 0xE281A0, 0xEFBBBF)
JOINERS = (0xE2808C, 0xE2808D)


@dataclass(frozen=True)
class Whitespace:
    """Whitespace that a reader cannot see or does not need; leave it out for source code and Markdown.

    Comes behind `Cleaning`, so that there are no carriage returns.

    - `unicode_spaces`: NBSP, U+1680, U+2000 to U+200A, U+202F, U+205F and U+3000 become a space, and the line and
      paragraph separators U+2028 and U+2029 a newline.
    - `zero_width`: U+00AD (soft hyphen), U+200B, U+2060 and U+FEFF go. The joiners U+200C and U+200D go only behind
      ASCII or at the start of a document: Persian, Indic scripts and emoji are written with them. Marks of direction
      stay.
    - `trailing_blanks`: spaces and tabs at the end of a line go.
    - `max_blank_lines`: so many blank lines in a row stay (one more newline than that); None leaves them all.

    Indentation and the spaces between words stay as they are.
    """

    unicode_spaces: bool = True
    zero_width: bool = True
    trailing_blanks: bool = True
    max_blank_lines: int | None = 2
    column: str = "text"

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        index = batch.schema.get_field_index(self.column)
        text = batch.column(index)
        data, offsets = before = text_bytes(text)
        if data.size and data.max() >= 0x80:
            if self.unicode_spaces:
                data, offsets = _plain_spaces(data, offsets)
            if self.zero_width:
                data, offsets = _without_zero_width(data, offsets)
        if self.trailing_blanks:
            data, offsets = _without_trailing_blanks(data, offsets)
        if self.max_blank_lines is not None:
            data, offsets = _without_blank_lines(data, offsets, self.max_blank_lines + 1)
        if data is before[0]:
            return batch
        return batch.set_column(index, batch.schema.field(index), text_array(data, offsets))


def _plain_spaces(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    two, three, codes = _characters(data)
    two = two[data[two + 1] == 0xA0]
    spaces = three[np.isin(codes, WIDE_SPACES)]
    newlines = three[np.isin(codes, SEPARATORS)]
    if not (two.size or spaces.size or newlines.size):
        return data, offsets
    data = data.copy()
    data[two] = data[spaces] = SPACE
    data[newlines] = NEWLINE
    drop = np.zeros(data.size, dtype=bool)
    drop[two + 1] = True
    for place in (spaces, newlines):
        drop[place + 1] = drop[place + 2] = True
    return _without(data, offsets, drop)


def _without_zero_width(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    two, three, codes = _characters(data)
    drop = np.zeros(data.size, dtype=bool)
    two = two[data[two + 1] == 0xAD]
    three = three[np.isin(codes, INVISIBLE)]
    drop[two] = drop[two + 1] = True
    drop[three] = drop[three + 1] = drop[three + 2] = True
    data, offsets = _without(data, offsets, drop)
    # Joiners in what is left. A run of them goes as a whole: its first decides.
    _, three, codes = _characters(data)
    joiners = three[np.isin(codes, JOINERS)]
    if not joiners.size:
        return data, offsets
    begins = np.isin(joiners, offsets)
    begins[1:] |= joiners[1:] != joiners[:-1] + 3
    begins[0] = True
    bare = (np.isin(joiners, offsets) | (data[joiners - 1] < 0x80))[begins][np.cumsum(begins) - 1]
    drop = np.zeros(data.size, dtype=bool)
    gone = joiners[bare]
    drop[gone] = drop[gone + 1] = drop[gone + 2] = True
    return _without(data, offsets, drop)


def _without_trailing_blanks(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    begins, ends, _ = lines_of(data, offsets)
    blank = np.flatnonzero((ends > begins) & ((data[ends - 1] == SPACE) | (data[ends - 1] == TAB)))
    if not blank.size:
        return data, offsets
    begins, ends = begins[blank], ends[blank]
    return without_spans(data, offsets, trim_spans(data, begins, ends)[1], ends)


def _without_blank_lines(data: np.ndarray, offsets: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Newlines that stand directly behind `most` others of the same document go."""
    newlines = np.flatnonzero(data == NEWLINE)
    later, earlier = newlines[most:], newlines[: max(len(newlines) - most, 0)]
    close = later - earlier == most
    later, earlier = later[close], earlier[close]
    begin = offsets[np.searchsorted(offsets, later, side="right") - 1]
    gone = later[earlier >= begin]
    if not gone.size:
        return data, offsets
    drop = np.zeros(data.size, dtype=bool)
    drop[gone] = True
    return _without(data, offsets, drop)


def _characters(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where whitespace can be: characters of C2 and a byte, characters of three bytes, and those bytes as a number."""
    lead = np.flatnonzero(data >= 0xC2)
    byte = data[lead]
    three = lead[np.isin(byte, (0xE1, 0xE2, 0xE3, 0xEF))]
    first, second, third = (data[three + place].astype(np.int32) for place in range(3))
    return lead[byte == 0xC2], three, first << 16 | second << 8 | third


def _without(data: np.ndarray, offsets: np.ndarray, drop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not drop.any():
        return data, offsets
    gone = np.flatnonzero(drop)
    return data[~drop], offsets - np.searchsorted(gone, offsets)
