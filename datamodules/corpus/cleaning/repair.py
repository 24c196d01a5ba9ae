"""Mojibake: UTF-8 that was once read in an eight-bit encoding, found by its pattern and repaired by ftfy."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa

from datamodules.corpus.spans import documents_of, lines_of, replace_spans, text_bytes
from datamodules.errors import DataError

# The encodings that ftfy undoes; a byte that one leaves undefined is read as Latin-1, as browsers do.
ENCODINGS = (
    *("latin-1", "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1257"),
    *("iso8859-2", "mac_roman", "cp437"),
)
CODES = 0x10000  # characters beyond the first 65,536 belong to no such encoding
REPLACEMENT = 0xFFFD
SPACE = 0x20
# What a byte can be in UTF-8.
CONTINUES, LEADS_TWO = 1, 2  # and 3 and 4: first of so many bytes; 0: not a byte of a character


@dataclass(frozen=True)
class Repair:
    """Undo mojibake ("naÃ¯ve" becomes "naïve"), and nothing else that ftfy could change; needs the extra `[fix]`.

    Comes before the control characters are removed, as some of them are part of mojibake. Only lines in which `signs`
    finds something are given to ftfy, which repairs line by line anyway.
    """

    column: str = "text"

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        index = batch.schema.get_field_index(self.column)
        text = batch.column(index)
        data, offsets = text_bytes(text)
        begins, _, nexts = lines_of(data, offsets)
        lines = np.unique(np.searchsorted(begins, signs(data, offsets), side="right") - 1)
        if not lines.size:
            return batch
        fix, starts, ends = _fixer(), begins[lines], nexts[lines]
        fixed = [
            fix(data[start:end].tobytes().decode()).encode()
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        return batch.set_column(index, batch.schema.field(index), replace_spans(text, starts, ends, fixed))


def signs(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int64: where a document holds what would be one UTF-8 character, written in one of `ENCODINGS`; ascending.

    That is two to four characters in a row which the same encoding writes as a first byte and its continuations, where
    U+FFFD (a lost byte) continues anything, and so does a space (a no-break space that was made plain) behind "Â", "Ã",
    a second byte, or, in a document with a U+FFFD, any first byte. A control character of C1 is a sign as well: it is
    Windows-1252 read as Latin-1.
    """
    if not data.size or data.max() < 0x80:
        return np.zeros(0, dtype=np.int64)
    high = np.flatnonzero(data >= 0xC2)
    codes, sizes = _decode(data, high)
    adjacent = np.append(high[1:] == (high + sizes)[:-1], False)
    # An answer for all encodings at once rules out most text; so far no document boundary is looked at.
    roles, leads, continues = _tables()
    likely = np.flatnonzero(leads[codes] & adjacent)
    likely = likely[continues[codes[likely + 1]]]
    found = [high[(codes >= 0x80) & (codes < 0xA0)], _before_space(data, offsets, high, codes, leads)]
    document = documents_of(offsets, high[likely])
    end = offsets[document + 1]
    padded = np.concatenate((codes, np.zeros(3, dtype=codes.dtype)))
    joined = np.concatenate((adjacent, np.zeros(3, dtype=bool)))
    places = np.concatenate((high, np.full(3, data.size)))
    widths = np.concatenate((sizes, np.zeros(3, dtype=sizes.dtype)))
    for role in roles:
        row = role[padded[likely]]
        complete, lost = row >= LEADS_TWO, np.zeros(len(likely), dtype=bool)
        for step in range(1, 4):
            needed = complete & (row > step)
            follows = joined[likely + step - 1] & (places[likely + step] < end)
            follows &= role[padded[likely + step]] == CONTINUES
            behind = np.minimum(places[likely + step - 1] + widths[likely + step - 1], data.size - 1)
            lost |= needed & ~follows & (data[behind] == SPACE) & (step > 1)
            complete &= ~needed | follows
        found.append(high[likely[complete | lost]])
    return np.unique(np.concatenate(found))


def _decode(data: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Code points (0 beyond `CODES`) and sizes in bytes of the characters beyond ASCII that begin at `at`."""
    lead = data[at].astype(np.int32)
    sizes = 2 + (lead >= 0xE0) + (lead >= 0xF0)
    last = data.size - 1
    second, third = (data[np.minimum(at + place, last)].astype(np.int32) & 0x3F for place in (1, 2))
    codes = np.where(sizes == 2, (lead & 0x1F) << 6 | second, (lead & 0x0F) << 12 | second << 6 | third)
    return np.where(sizes == 4, 0, codes), sizes


def _before_space(
    data: np.ndarray, offsets: np.ndarray, high: np.ndarray, codes: np.ndarray, leads: np.ndarray
) -> np.ndarray:
    first = np.flatnonzero(leads[codes])
    behind = high[first] + 2 + (data[high[first]] >= 0xE0)
    first = first[data[np.minimum(behind, data.size - 1)] == SPACE]
    capital = (codes[first] == 0xC2) | (codes[first] == 0xC3)
    lost = documents_of(offsets, high[codes == REPLACEMENT])
    return high[first[capital | np.isin(documents_of(offsets, high[first]), lost)]]


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each encoding and code point, what its byte is in UTF-8 (uint8 [encodings, CODES]).

    And bool [CODES] twice: whether it leads in any encoding, and whether it continues in any.
    """
    roles = np.zeros((len(ENCODINGS), CODES), dtype=np.uint8)
    for role, encoding in zip(roles, ENCODINGS, strict=True):
        for byte in range(0x80, 0xF5):
            try:
                code = ord(bytes([byte]).decode(encoding))
            except UnicodeDecodeError:
                code = byte
            if byte < 0xC0:
                role[code] = CONTINUES
            elif byte >= 0xC2:
                role[code] = LEADS_TWO + (byte >= 0xE0) + (byte >= 0xF0)
        role[REPLACEMENT] = CONTINUES
    leads = np.asarray((roles >= LEADS_TWO).any(axis=0))
    continues = np.asarray((roles == CONTINUES).any(axis=0))
    return roles, leads, continues


@cache
def _fixer() -> Callable[[str], str]:
    try:
        import ftfy
    except ImportError:
        raise DataError("repairing mojibake needs ftfy; pip install 'labyrinth-llm[fix]', or leave it out") from None
    only_encoding = ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
        explain=False,
    )
    return lambda text: ftfy.fix_text(text, only_encoding)
