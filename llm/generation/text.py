"""Text in, text out: a model continues a prompt."""

from collections.abc import Iterator
from typing import Any, Protocol

from llm.generation.generate import generate
from llm.generation.stream import stream_text
from llm.model import GPT


class TextTokenizer(Protocol):
    """What `continue_text` asks of a tokenizer."""

    end_of_text: int

    def encode_prompt(self, text: str) -> list[int]:
        """End-of-text, then the ids of the text."""

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""

    def starting_with(self, token: int) -> list[int]:
        """The ids whose bytes begin with those of `token`, itself included."""


def continue_text(model: GPT, tokenizer: TextTokenizer, prompt: str, **settings: Any) -> Iterator[str]:
    """Yield what the model writes after `prompt`, piece by piece, up to the end of the document.

    The last token of the prompt is drawn again from those that begin with its text ("token healing"). A prompt that
    ends inside a word, or with a space, would otherwise force a cut between tokens that the model never saw: "def "
    ends in a space of its own, while in every text that it learnt from the space belongs to the name that follows.

    Args:
        model: its device and dtype are used.
        tokenizer: the one that it was trained with.
        prompt: any text; an empty one begins a document.
        settings: those of `generate`: max_new_tokens, temperature, top_k, top_p, seed.

    Raises:
        UserError: at the call, when the prompt does not fit or a setting is out of range.
    """
    ids = tokenizer.encode_prompt(prompt)
    healed = tokenizer.decode(ids[-1:]) if len(ids) > 1 else ""
    first_ids = None
    if healed and "\N{REPLACEMENT CHARACTER}" not in healed:
        first_ids = tokenizer.starting_with(ids.pop())
    else:
        healed = ""
    stream = generate(model, ids, stop_ids={tokenizer.end_of_text}, first_ids=first_ids, **settings)
    return _without_start(stream_text(tokenizer, stream), healed)


def _without_start(pieces: Iterator[str], start: str) -> Iterator[str]:
    for piece in pieces:
        yield piece.removeprefix(start)
        yield from pieces
