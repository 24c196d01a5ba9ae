"""Personal data and secrets in the text of documents, replaced by placeholders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.corpus.cleaning import pii_patterns as patterns
from datamodules.corpus.spans import documents_of, replace_spans, text_bytes
from datamodules.errors import DataError

Kind = Literal["key", "email", "iban", "credit_card", "ip", "phone"]
# In the order in which they are looked for: where two overlap, the first is taken.
PLACEHOLDERS: dict[Kind, bytes] = {
    "key": b"[KEY]",
    "email": b"[EMAIL]",
    "iban": b"[IBAN]",
    "credit_card": b"[CREDIT_CARD]",
    "ip": b"[IP]",
    "phone": b"[PHONE]",
}
KINDS = tuple(PLACEHOLDERS)
COUNTS = pa.field("pii", pa.struct([(kind, pa.int32()) for kind in KINDS]))

_DIGIT = np.zeros(256, dtype=bool)
_DIGIT[0x30:0x3A] = True
_UPPER = np.zeros(256, dtype=bool)
_UPPER[0x41:0x5B] = True
_HEXADECIMAL = _DIGIT.copy()
_HEXADECIMAL[[*range(0x41, 0x47), *range(0x61, 0x67)]] = True
_TOKEN = _DIGIT | _UPPER  # what keys are written with
_TOKEN[[*range(0x61, 0x7B), 0x2D, 0x2E, 0x5F]] = True

SHORTEST_KEY = 20  # bytes
FEWEST_DIGITS = 9  # of a telephone number or a card
WIDEST_GAP = 4  # bytes from a digit to the next within one number, as in "(0171) 123"


@dataclass(frozen=True)
class PII:
    """Replaces what `pii_patterns` finds by "[EMAIL]", "[IP]" and so on, and counts it; never a special token.

    Adds the column `pii`: a struct of int32, how many of each kind were replaced. `kinds` are those to be looked for.
    Applying it twice changes nothing: what comes to light by a replacement is replaced as well.

    The expressions read only the bytes around a sign that is found in the whole batch at once ("@", groups of digits,
    long runs without a blank, ...), so most text is never seen by one. A loop over these places.
    """

    kinds: Sequence[Kind] = KINDS
    column: str = "text"

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise DataError(f"pii kind {kind!r} is unknown; the kinds are {', '.join(KINDS)}")

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        index = batch.schema.get_field_index(self.column)
        text = batch.column(index)
        counts = np.zeros((len(batch), len(KINDS)), dtype=np.int32)
        rows, part = np.arange(len(batch)), text
        while len(rows):
            starts, ends, kinds = find(part, self.kinds)
            if not len(starts):
                break
            documents = documents_of(text_bytes(part)[1], starts)
            np.add.at(counts, (rows[documents], kinds), 1)
            changed = np.unique(documents)
            replaced = replace_spans(part, starts, ends, [PLACEHOLDERS[KINDS[kind]] for kind in kinds.tolist()])
            rows, part = rows[changed], replaced.take(pa.array(changed))
            mask = np.zeros(len(batch), dtype=bool)
            mask[rows] = True
            text = pc.replace_with_mask(text, pa.array(mask), part)
        column = pa.StructArray.from_arrays([pa.array(one) for one in counts.T], fields=list(COUNTS.type))
        return batch.set_column(index, batch.schema.field(index), text).append_column(COUNTS, column)


class Search(NamedTuple):
    """Where a kind may stand, what tells it, and how many bytes before and behind such a place belong to it."""

    kind: Kind
    places: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    finder: Callable[[bytes], patterns.Spans]
    before: int
    behind: int


def find(text: pa.StringArray, kinds: Sequence[Kind] = KINDS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spans of bytes in a batch (starts, ends int64), sorted and apart, and the kind of each, as a place in `KINDS`."""
    data, offsets = text_bytes(text)
    starts = ends = found = np.zeros(0, dtype=np.int64)
    if not data.size:
        return starts, ends, found
    digits = np.flatnonzero(_DIGIT[data])
    for search in _SEARCHES:
        if search.kind not in kinds:
            continue
        lows, highs = _windows(offsets, *search.places(data, offsets, digits), search.before, search.behind)
        spans = [
            (low + start, low + end)
            for low, high in zip(lows.tolist(), highs.tolist(), strict=True)
            for start, end in search.finder(data[low:high].tobytes())
        ]
        if not spans:
            continue
        first, last = np.array(spans, dtype=np.int64).T
        free = np.searchsorted(ends, first, side="right") == np.searchsorted(starts, last)
        kind = np.full(int(free.sum()), KINDS.index(search.kind))
        starts, ends, found = (
            np.concatenate(pair) for pair in ((starts, first[free]), (ends, last[free]), (found, kind))
        )
        order = np.argsort(starts)
        starts, ends, found = starts[order], ends[order], found[order]
    return starts, ends, found


def _windows(
    offsets: np.ndarray, starts: np.ndarray, ends: np.ndarray, before: int, behind: int
) -> tuple[np.ndarray, np.ndarray]:
    """The places widened, within their document, and those that then touch made one."""
    if not len(starts):
        return starts, ends
    document = documents_of(offsets, starts)
    lows = np.maximum(starts - before, offsets[document])
    highs = np.maximum.accumulate(np.minimum(ends + behind, offsets[document + 1]))
    first = np.concatenate(([True], (lows[1:] >= highs[:-1]) | (document[1:] != document[:-1])))
    return lows[first], highs[np.append(first[1:], True)]


def _at_signs(data: np.ndarray, offsets: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    at = np.flatnonzero(data == 0x40)
    return at, at + 1


def _numbers(data: np.ndarray, offsets: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups of `FEWEST_DIGITS` digits and more with small gaps, none across documents."""
    if not len(digits):
        return digits, digits
    apart = np.diff(digits) > WIDEST_GAP
    begins = np.searchsorted(digits, offsets[1:-1])
    apart[begins[(begins > 0) & (begins < len(digits))] - 1] = True
    bounds = np.concatenate(([0], np.flatnonzero(apart) + 1, [len(digits)]))
    many = np.flatnonzero(np.diff(bounds) >= FEWEST_DIGITS)
    return digits[bounds[many]], digits[bounds[many + 1] - 1] + 1


def _dotted(data: np.ndarray, offsets: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Three dots between digits, at most four bytes apart."""
    inner = digits[digits + 2 < data.size]
    dots = inner[(data[inner + 1] == 0x2E) & _DIGIT[data[inner + 2]]] + 1
    close = np.flatnonzero((np.diff(dots[:-1]) <= 4) & (np.diff(dots[1:]) <= 4)) if len(dots) >= 3 else dots[:0]
    return dots[close], dots[close + 2]


def _hexadecimal(data: np.ndarray, offsets: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A 2 or 3 (the range 2000::/3), three hexadecimal digits and a colon."""
    colons = np.flatnonzero(data == 0x3A)
    colons = colons[colons >= 4]
    lead = data[colons - 4]
    colons = colons[(lead == 0x32) | (lead == 0x33)]
    for place in (1, 2, 3):
        colons = colons[_HEXADECIMAL[data[colons - place]]]
    return colons, colons + 1


def _countries(data: np.ndarray, offsets: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two capitals and two digits."""
    inner = digits[(digits >= 2) & (digits + 1 < data.size)]
    at = inner[_UPPER[data[inner - 1]] & _UPPER[data[inner - 2]] & _DIGIT[data[inner + 1]]]
    return at, at + 1


def _tokens(data: np.ndarray, offsets: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of `SHORTEST_KEY` and more bytes that keys are written with, none across documents."""
    others = np.concatenate(([-1], np.flatnonzero(~_TOKEN[data]), [data.size]))
    long = np.flatnonzero(np.diff(others) > SHORTEST_KEY)
    starts, ends = others[long] + 1, others[long + 1]
    run = np.searchsorted(starts, offsets, side="left") - 1
    cuts = np.unique(offsets[(run >= 0) & (offsets < ends[run])]) if len(starts) else offsets[:0]
    return np.sort(np.concatenate((starts, cuts))), np.sort(np.concatenate((ends, cuts)))


def _armour(data: np.ndarray, offsets: np.ndarray, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    whole, sign, places = data.tobytes(), b"PRIVATE KEY", []
    at = whole.find(sign)
    while at >= 0:
        places.append(at)
        at = whole.find(sign, at + len(sign))
    starts = np.array(places, dtype=np.int64)
    return starts, starts + 1


_SEARCHES = (
    Search("key", _armour, patterns.private_keys, 64, 20_200),
    Search("key", _tokens, patterns.keys, 1, 1),
    Search("email", _at_signs, patterns.emails, 66, 260),
    Search("iban", _countries, patterns.ibans, 4, 96),
    Search("credit_card", _numbers, patterns.credit_cards, 4, 4),
    Search("ip", _dotted, patterns.public_ipv4, 24, 8),
    Search("ip", _hexadecimal, patterns.public_ipv6, 24, 48),
    Search("phone", _numbers, patterns.phones, 4, 4),
)
