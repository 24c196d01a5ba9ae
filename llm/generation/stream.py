"""Tokens to text while they are written."""

from collections.abc import Iterable, Iterator
from typing import Protocol


class Decoder(Protocol):
    """What `stream_text` asks of a tokenizer."""

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, with U+FFFD for bytes that are no whole character."""


def stream_text(tokenizer: Decoder, ids: Iterable[int]) -> Iterator[str]:
    """Yield the text of `ids` piece by piece, whole characters only.

    A token of a byte-level tokenizer can end inside a character of several bytes: such an end is held back until the
    tokens that complete it have come, or no more do. The pieces joined are the text of all `ids` decoded at once.
    """
    pending: list[int] = []
    shown = 0  # characters of `pending` that were yielded
    for token in ids:
        pending.append(token)
        text = tokenizer.decode(pending)
        # Bytes at the end that only begin a character are decoded as one U+FFFD; all before it stays as it is.
        whole = text.removesuffix("\N{REPLACEMENT CHARACTER}")
        if len(whole) > shown:
            yield whole[shown:]
            shown = len(whole)
        if whole == text:
            pending, shown = [], 0
    if pending:
        yield tokenizer.decode(pending)[shown:]
