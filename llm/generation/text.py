"""Text in, text out: a model continues prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llm.generation.engine import Continuation, Engine, FinishReason
from llm.generation.stream import TextStream
from llm.model import GPT


class TextTokenizer(Protocol):
    """What is asked of a tokenizer here."""

    end_of_text: int

    def encode_prompt(self, text: str) -> list[int]:
        """End-of-text, then the ids of the text."""

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""

    def starting_with(self, token: int) -> list[int]:
        """The ids whose bytes begin with those of `token`, itself included."""


@dataclass(frozen=True)
class Written:
    """A continuation of a prompt.

    Attributes:
        text: what was written after the prompt, up to the stop string if there was one.
        finish_reason: `stop` at the end of the document or a stop string, `length` at max_new_tokens.
        tokens: all ids that were drawn. The first can begin with the prompt's last characters, and the last can hold
            the stop string.
        logprobs: of each of them under the model itself, in nats; empty if not asked for.
    """

    text: str
    finish_reason: FinishReason
    tokens: list[int]
    logprobs: list[float]


def continue_text(
    model: GPT,
    tokenizer: TextTokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 256,
    seed: int | None = None,
    stop: Sequence[str] = (),
    **sampling: Any,
) -> Iterator[str]:
    """Yield what the model writes after `prompt`, piece by piece, up to the end of the document or a stop string.

    The last token of the prompt is drawn again from those that begin with its text ("token healing"). A prompt that
    ends inside a word, or with a space, would otherwise force a cut between tokens that the model never saw: "def "
    ends in a space of its own, while in every text that it learnt from the space belongs to the name that follows.

    Args:
        model: its device and dtype are used.
        tokenizer: the one that it was trained with.
        prompt: any text; an empty one begins a document.
        max_new_tokens: the most tokens to write.
        seed: of the draws; None takes a random one.
        stop: strings that end the text; none of them is yielded, nor any part of one.
        sampling: fields of `Sampling`: temperature, top_k, top_p, min_p, repetition_penalty.

    Raises:
        UserError: at the call, when the prompt does not fit or a setting is out of range.
    """
    ids, first_ids, start = _heal(tokenizer, prompt)
    engine = Engine.for_prompts(model, [ids], max_new_tokens, stop_ids={tokenizer.end_of_text}, **sampling)
    stream = TextStream(tokenizer, stop, start)
    (text,) = engine.submit(ids, max_new_tokens, seed=seed, first_ids=first_ids)
    return _stream(engine, text, stream)


def _stream(engine: Engine, text: Continuation, stream: TextStream) -> Iterator[str]:
    while not stream.stopped and engine.step() and text.finish_reason != "stop":
        piece = stream.add(text.tokens[-1])
        if piece:
            yield piece
    rest = stream.end()
    if rest:
        yield rest


def continue_texts(
    model: GPT,
    tokenizer: TextTokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 256,
    n_samples: int = 1,
    batch_size: int = 32,
    seed: int | None = None,
    stop: Sequence[str] = (),
    logprobs: bool = False,
    **sampling: Any,
) -> Iterator[tuple[int, int, Written]]:
    """Yield what the model writes after each of `prompts`, as soon as it is finished; otherwise as `continue_text`.

    Args:
        model: its device and dtype are used.
        tokenizer: the one that it was trained with.
        prompts: any texts.
        max_new_tokens: the most tokens to write after each.
        n_samples: texts for each prompt.
        batch_size: the most texts that are written at once, on which none of them depends.
        seed: of each prompt's first sample, whose second has the next seed, and so on; None takes random ones.
        stop: strings that end a text.
        logprobs: keep the log-probability of every token.
        sampling: fields of `Sampling`.

    Yields:
        The number of the prompt, that of its sample, both from 0, and the text.

    Raises:
        UserError: at the call, when a prompt does not fit or a setting is out of range.
    """
    healed = [_heal(tokenizer, prompt) for prompt in prompts]
    engine = Engine.for_prompts(
        model,
        [ids for ids, _, _ in healed],
        max_new_tokens,
        n_samples=n_samples,
        batch_size=batch_size,
        stop_ids={tokenizer.end_of_text},
        logprobs=logprobs,
        **sampling,
    )
    places: dict[Continuation, _Place] = {}
    for number, (ids, first_ids, start) in enumerate(healed):
        texts = engine.submit(ids, max_new_tokens, seed=seed, n_samples=n_samples, first_ids=first_ids)
        for sample, text in enumerate(texts):
            places[text] = _Place(number, sample, TextStream(tokenizer, stop, start))
    return _finished(engine, places)


@dataclass
class _Place:
    """Where a text belongs, and what it has become so far."""

    number: int
    sample: int
    stream: TextStream
    written: str = ""


def _finished(engine: Engine, places: dict[Continuation, _Place]) -> Iterator[tuple[int, int, Written]]:
    texts = [text for text in places if text.finish_reason is not None]  # of no tokens at all
    while texts or (texts := engine.step()):
        for text in texts:
            place = places[text]
            if text.tokens and text.finish_reason != "stop":
                place.written += place.stream.add(text.tokens[-1])
            if place.stream.stopped:
                engine.finish(text, "stop")
            if text.finish_reason is not None:
                written = place.written + place.stream.end()
                yield place.number, place.sample, Written(written, text.finish_reason, text.tokens, text.logprobs)
        texts = []


def _heal(tokenizer: TextTokenizer, prompt: str) -> tuple[list[int], list[int] | None, str]:
    """The ids to continue, those that the first new token can be, and the text of the prompt that it begins with."""
    ids = tokenizer.encode_prompt(prompt)
    healed = tokenizer.decode(ids[-1:]) if len(ids) > 1 else ""
    if healed and "\N{REPLACEMENT CHARACTER}" not in healed:
        return ids[:-1], tokenizer.starting_with(ids[-1]), healed
    return ids, None, ""
