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
    for token in ids:
        pending.append(token)
        text = tokenizer.decode(pending)
        # A character has at most four bytes; a longer wait is for one that never comes.
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(pending) < 4:
            continue
        yield text
        pending = []
    if pending:
        yield tokenizer.decode(pending)
