"""Unicode normalisation and control characters: the same text always as the same bytes."""

import unicodedata
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.corpus.spans import NEWLINE, text_array, text_bytes

TAB, RETURN = 0x09, 0x0D
C1_LEAD = 0xC2  # U+0080 to U+009F are the two bytes C2 80 to C2 9F, and C2 is never the second byte of a character

# C0 controls and DEL, tab and newline kept; carriage returns are looked at in their context first.
REMOVED = np.zeros(256, dtype=bool)
REMOVED[:0x20] = True
REMOVED[0x7F] = True
REMOVED[[TAB, NEWLINE]] = False


@dataclass(frozen=True)
class Cleaning:
    """Unicode NFC; CRLF and lone CR become LF; control characters (C0, DEL, C1) go, tab and newline stay.

    Works on the UTF-8 bytes of a whole batch at once; a batch of plain ASCII skips the Unicode part.
    """

    column: str = "text"

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        index = batch.schema.get_field_index(self.column)
        text = _normalised(_without_controls(batch.column(index)))
        return batch.set_column(index, batch.schema.field(index), text)


def _without_controls(text: pa.StringArray) -> pa.StringArray:
    if len(text) == 0:
        return text
    data, offsets = text_bytes(text)
    lead = np.flatnonzero(data[:-1] == C1_LEAD)
    controls = lead[data[lead + 1] < 0xA0]
    if not controls.size and not _has_ascii_controls(data):
        return text
    drop = REMOVED[data]
    returns = np.flatnonzero(data == RETURN)
    if returns.size:
        document = np.searchsorted(offsets, returns, side="right")
        followed = (returns + 1 < offsets[document]) & (data[np.minimum(returns + 1, data.size - 1)] == NEWLINE)
        data = data.copy()
        data[returns[~followed]] = NEWLINE
        drop[returns[~followed]] = False
    drop[controls] = drop[controls + 1] = True
    kept_before = np.concatenate(([0], np.cumsum(~drop)))
    return text_array(data[~drop], kept_before[offsets])


def _has_ascii_controls(data: np.ndarray) -> bool:
    """Whether there is a control character, or a carriage return; counted, as that takes no room and little time."""
    kept = np.count_nonzero(data == TAB) + np.count_nonzero(data == NEWLINE)
    return bool(np.count_nonzero(data < 0x20) > kept or (data == 0x7F).any())


def _normalised(text: pa.StringArray) -> pa.StringArray:
    """NFC by Python's own tables: `utf8_normalize` of pyarrow up to 25.0.1 gives NFD for NFC (apache/arrow #51225).

    A loop over the documents that are not ASCII; Python tells those that are in NFC already at a glance.
    """
    ascii_only = pc.string_is_ascii(text)
    if pc.all(ascii_only).as_py() in (True, None):
        return text
    rest = pc.invert(ascii_only)
    parts = [unicodedata.normalize("NFC", part) for part in text.filter(rest).to_pylist()]
    return pc.replace_with_mask(text, rest, pa.array(parts, text.type))
