"""What the reader of a format yields: documents, and records that are none, each with its reason."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from datamodules.errors import DataError

EncodingErrors = Literal["replace", "strict"]

PIECE_BYTES = 16 << 20  # a longer text file is read as several documents of about this size, cut at line ends
BLOCK_BYTES = 4 << 20  # of lines of JSON that are parsed at once
RECORD_BYTES = 64 << 20  # a longer line of JSON, web page or archived record is counted, never held in memory
SHOWN_FIELDS, SHOWN_CHARACTERS = 20, 60  # of those that are there where the text field is not


@dataclass(frozen=True)
class ReadOptions:
    """`text_field` names the field of rows, `a.b` also field b of object a; sizes are bytes, `piece_bytes` at least 8.

    `encoding_errors` is what becomes of invalid UTF-8 in text files and rows; web pages are decoded as browsers do.
    """

    text_field: str = "text"
    encoding_errors: EncodingErrors = "replace"
    piece_bytes: int = PIECE_BYTES
    record_bytes: int = RECORD_BYTES
    block_bytes: int = BLOCK_BYTES


class Record(NamedTuple):
    """One record of an input. `key` tells it from all others of its input, whatever the part in which it is read.

    `text` is None for what is no document, and then `reason` says why in a word or two (snake_case). Where a
    `complaint` is given the record is a bad row: calling it gives the place and what is wrong there, in words.
    `replaced` counts the U+FFFD put for invalid bytes.
    """

    key: int | str
    text: str | None
    reason: str = ""
    complaint: Callable[[], str] | None = None
    url: str | None = None
    replaced: int = 0


def from_row(
    row: Any, key: int | str, text_field: str, place: Callable[[], str], url: str | None = None, replaced: int = 0
) -> Record:
    """The record of a row of fields; `place` says in words where the row stands."""
    if not isinstance(row, dict):
        return bad(key, "not_an_object", place, f"not an object with fields but {type(row).__name__}")
    text = row.get(text_field)
    if text is None and text_field not in row:
        text = row
        names = text_field.split(".")
        for depth, name in enumerate(names):
            if not isinstance(text, dict) or name not in text:
                holder = repr(".".join(names[:depth])) if depth else "it"
                fields = text if isinstance(text, dict) else {}
                return bad(key, "missing_field", place, f"no field {text_field!r}, {holder} has {_named(fields)}")
            text = text[name]
    return from_value(text, key, text_field, place, url, replaced)


def from_value(
    text: Any, key: int | str, text_field: str, place: Callable[[], str], url: str | None = None, replaced: int = 0
) -> Record:
    """The record of the value that stands in the text field."""
    if not isinstance(text, str):
        if text is None:
            return bad(key, "missing_text", place, f"{text_field!r} is missing, not text")
        return bad(key, "not_text", place, f"{text_field!r} is {type(text).__name__}, not text")
    if not encodable(text):
        return bad(key, "lone_surrogate", place, f"a lone surrogate in {text_field!r}")
    return Record(key, text, url=url, replaced=replaced)


def bad(key: int | str, reason: str, place: Callable[[], str], complaint: str) -> Record:
    """A bad row; its place is worked out only if somebody asks for the complaint."""
    return Record(key, None, reason, lambda: f"{place()} ({complaint})")


def demand_field(fields: Sequence[str], name: str, text_field: str) -> None:
    """Raise DataError unless the text field is one of a table's fields."""
    if text_field not in fields:
        raise DataError(f"{name} has no field {text_field!r}, it has {_named(fields)}; set text_field to one of them")


def _named(fields: Collection[str]) -> str:
    """The names of fields for a sentence: what was taken for a header may be anything, of any length."""
    names = [repr(name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}...") for name in fields]
    rest = f" and {len(names) - SHOWN_FIELDS:,} more" if len(names) > SHOWN_FIELDS else ""
    return ", ".join(names[:SHOWN_FIELDS]) + rest or "none"


def decode(data: bytes, errors: EncodingErrors, where: Callable[[], str], offset: int = 0) -> tuple[str, int]:
    """The text of UTF-8 bytes and how many U+FFFD were put for invalid ones.

    Raises:
        DataError: for invalid bytes where `errors` is strict; `offset` is the place of `data` in what `where` names.
    """
    try:
        return data.decode(), 0
    except UnicodeDecodeError as error:
        if errors == "strict":
            raise DataError(
                f"{where()} is not valid UTF-8 at byte {offset + error.start} ({error.reason}); "
                "mend the file, or set encoding_errors to replace"
            ) from None
    text = data.decode(errors="replace")
    return text, text.count("\ufffd") - data.count("\ufffd".encode())


def encodable(text: str) -> bool:
    """False for text with lone surrogates, which JSON can hold and UTF-8 cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
