"""Tokens to text while they are written."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from llm.errors import UserError


class Decoder(Protocol):
    """What `TextStream` asks of a tokenizer."""

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, with U+FFFD for bytes that are no whole character."""


class TextStream:
    """Gives the text of tokens piece by piece, whole characters only, up to the first stop string.

    A token of a byte-level tokenizer can end inside a character of several bytes: such an end is held back until the
    tokens that complete it have come, or no more do. So is an end that a stop string may begin with.

    Args:
        tokenizer: what the tokens are of.
        stop: strings that end the text; none of them is part of it.
        start: what the text of the tokens begins with and is left out; not searched for stop strings.

    Attributes:
        stopped: whether a stop string has come; what follows is ignored.

    Raises:
        UserError: for an empty stop string.
    """

    def __init__(self, tokenizer: Decoder, stop: Sequence[str] = (), start: str = "") -> None:
        if "" in stop:
            raise UserError("a stop string is empty, which would end every text before it begins: leave it out")
        self.tokenizer, self.stop, self.start = tokenizer, tuple(stop), start
        self.stopped = False
        self._pending: list[int] = []  # tokens since the last one that ended with a whole character
        self._decoded = 0  # characters of `_pending` that have left `decode`
        self._held = ""  # text that a stop string may begin with

    def add(self, token: int) -> str:
        """The text that is certain once `token` has come, beyond what was before."""
        self._pending.append(token)
        text = self.tokenizer.decode(self._pending)
        # Bytes at the end that only begin a character are decoded as one U+FFFD; all before it stays as it is.
        whole = text.removesuffix("\N{REPLACEMENT CHARACTER}")
        piece = whole[self._decoded :]
        self._decoded = max(self._decoded, len(whole))
        if whole == text:
            self._pending, self._decoded = [], 0
        return self._until_stop(piece)

    def end(self) -> str:
        """The rest, when no more tokens come."""
        piece = self.tokenizer.decode(self._pending)[self._decoded :] if self._pending else ""
        self._pending, self._decoded = [], 0
        text = self._until_stop(piece) + self._held
        self._held = ""
        return text

    def _until_stop(self, piece: str) -> str:
        """Of what is held and `piece`, what no stop string can begin in."""
        if self.stopped:
            return ""
        if self.start and piece:
            piece, self.start = piece.removeprefix(self.start), ""
        text = self._held + piece
        found = [place for place in (text.find(stop) for stop in self.stop) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        length = max((self._begun(text, stop) for stop in self.stop), default=0)
        self._held = text[len(text) - length :]
        return text[: len(text) - length]

    @staticmethod
    def _begun(text: str, stop: str) -> int:
        """How many characters at the end of `text` are the beginning of `stop`."""
        return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def stream_text(tokenizer: Decoder, ids: Iterable[int]) -> Iterator[str]:
    """Yield the text of `ids` piece by piece; the pieces joined are the text of all `ids` decoded at once."""
    stream = TextStream(tokenizer)
    yield from (piece for piece in map(stream.add, ids) if piece)
    rest = stream.end()
    if rest:
        yield rest
