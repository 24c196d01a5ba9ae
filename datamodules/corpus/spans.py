"""The bytes of the texts of a batch, spans of them, and the texts without these."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

NEWLINE = 0x0A
BLANK = np.zeros(256, dtype=bool)
BLANK[[0x09, 0x0A, 0x0D, 0x20]] = True
NEAR = 8  # bytes; so few blanks at the end of a span are passed one by one


def text_bytes(text: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 bytes (uint8) of n strings without nulls, and their n + 1 offsets (int64); the bytes are not copied."""
    _, offsets_buffer, data_buffer = text.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[text.offset : text.offset + len(text) + 1].astype(np.int64)
    data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer is not None else np.zeros(0, dtype=np.uint8)
    return data[offsets[0] : offsets[-1]], offsets - offsets[0]


def text_array(data: np.ndarray, offsets: np.ndarray) -> pa.StringArray:
    """n strings from their UTF-8 bytes (uint8) and n + 1 offsets; what `text_bytes` takes apart."""
    return pa.StringArray.from_buffers(
        len(offsets) - 1, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data.tobytes())
    )


def documents_of(offsets: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """int64 [m]: the document in which each byte position of a batch lies; offsets int64 [n + 1]."""
    return np.searchsorted(offsets, positions, side="right") - 1


def character_starts(data: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Each position (int64, up to the end of the data), moved back to where its character begins in the UTF-8 bytes."""
    positions = positions.copy()
    for _ in range(3):  # a character has at most three bytes behind its first
        inside = np.flatnonzero(positions < data.size)
        inside = inside[(data[positions[inside]] & 0xC0) == 0x80]
        positions[inside] -= 1
    return positions


def lines_of(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lines of all documents, in order: where each begins, its text ends, and the next one begins; int64."""
    bounds = np.sort(np.concatenate((offsets, np.flatnonzero(data == NEWLINE) + 1)), kind="stable")  # merges the two
    bounds = bounds[np.concatenate(([True], bounds[1:] != bounds[:-1]))]
    begins, nexts = bounds[:-1], bounds[1:]
    return begins, nexts - (data[nexts - 1] == NEWLINE), nexts


def trim_spans(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The spans without the blanks at their two ends; a span of blanks alone becomes empty, at its own start."""
    padded = np.concatenate((data, np.zeros(1, dtype=np.uint8)))
    first, last = starts.copy(), ends.copy()
    ahead = behind = np.arange(len(starts))
    for _ in range(NEAR):
        ahead = ahead[(first[ahead] < last[ahead]) & BLANK[padded[first[ahead]]]]
        first[ahead] += 1
        behind = behind[(first[behind] < last[behind]) & BLANK[padded[last[behind] - 1]]]
        last[behind] -= 1
    rough = np.union1d(ahead, behind)
    if rough.size:
        solid = np.flatnonzero(~BLANK[padded])  # the byte after the end counts as one, so that there is always a next
        first[rough] = solid[np.searchsorted(solid, first[rough])]
        last[rough] = solid[np.maximum(np.searchsorted(solid, last[rough]) - 1, 0)] + 1
    empty = first >= last
    return np.where(empty, starts, first), np.where(empty, starts, last)


def without_spans(
    data: np.ndarray, offsets: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Data and offsets without the bytes [start, end) of each span; spans are sorted, apart, and whole characters."""
    lengths = np.empty(2 * len(starts) + 1, dtype=np.int64)  # kept, removed, kept, ...
    lengths[0:-1:2] = starts - np.concatenate(([0], ends[:-1]))
    lengths[1::2] = ends - starts
    lengths[-1] = data.size - ends[-1] if len(ends) else data.size
    kept = np.repeat(np.arange(len(lengths)) % 2 == 0, lengths)
    removed = np.concatenate(([0], np.cumsum(ends - starts)))
    # An offset inside or behind k spans moves back by what lies before it of them.
    behind = np.searchsorted(starts, offsets)
    inside = np.maximum(np.concatenate(([0], ends))[behind] - offsets, 0)
    return data[kept], offsets - (removed[behind] - inside)


def remove_spans(text: pa.StringArray, starts: np.ndarray, ends: np.ndarray) -> pa.StringArray:
    """The texts without the bytes [start, end) of each span; spans are sorted, apart, and whole characters."""
    return text_array(*without_spans(*text_bytes(text), starts, ends)) if len(starts) else text


def replace_spans(
    text: pa.StringArray, starts: np.ndarray, ends: np.ndarray, replacements: Sequence[bytes]
) -> pa.StringArray:
    """The texts with the bytes [start, end) of each span replaced; spans are sorted, apart, and in one document each.

    A loop over the spans, as each has a replacement of its own length; meant for few.
    """
    if not len(starts):
        return text
    data, offsets = text_bytes(text)
    pieces: list[bytes] = []
    at = 0
    for start, end, replacement in zip(starts.tolist(), ends.tolist(), replacements, strict=True):
        pieces += [data[at:start].tobytes(), replacement]
        at = end
    pieces.append(data[at:].tobytes())
    grown = np.array([len(replacement) for replacement in replacements], dtype=np.int64) - (ends - starts)
    moved = np.concatenate(([0], np.cumsum(grown)))[np.searchsorted(starts, offsets)]
    return text_array(np.frombuffer(b"".join(pieces), dtype=np.uint8), offsets + moved)
