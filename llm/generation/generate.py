"""generate: a model continues sequences of tokens."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from llm.generation.engine import Continuation, Engine
from llm.model import GPT


def generate(
    model: GPT,
    tokens: Sequence[int],
    max_new_tokens: int = 256,
    *,
    seed: int | None = None,
    stop_ids: Collection[int] = (),
    first_ids: Collection[int] | None = None,
    **sampling: Any,
) -> Iterator[int]:
    """Yield the ids that follow `tokens`, each as soon as it is drawn; as in `Engine`, of which this is one text.

    Args:
        model: its device and dtype are used.
        tokens: ids of the prompt, at least one and at most `context_length`.
        max_new_tokens: the most ids to yield.
        seed: of the draws; None takes a random one.
        stop_ids: ids that end the text; they are not yielded.
        first_ids: the only ids that the first new token can be; None allows all.
        sampling: fields of `Sampling`: temperature, top_k, top_p, min_p, repetition_penalty.

    Raises:
        UserError: at the call, when the prompt does not fit or a setting is out of range.
    """
    engine = Engine.for_prompts(model, [tokens], max_new_tokens, stop_ids=stop_ids, **sampling)
    (text,) = engine.submit(tokens, max_new_tokens, seed=seed, first_ids=first_ids)
    return _stream(engine, text)


def _stream(engine: Engine, text: Continuation) -> Iterator[int]:
    while engine.step() and len(text.tokens) > 0 and text.finish_reason != "stop":
        yield text.tokens[-1]


def generate_batch(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    *,
    n_samples: int = 1,
    batch_size: int = 32,
    seed: int | None = None,
    stop_ids: Collection[int] = (),
    logprobs: bool = False,
    **sampling: Any,
) -> list[list[Continuation]]:
    """Continue every one of `prompts`, which can be of unequal length, `batch_size` texts at a time.

    Args:
        model: its device and dtype are used.
        prompts: ids of each, at least one and at most `context_length`.
        max_new_tokens: the most ids to write after each.
        n_samples: texts for each prompt.
        batch_size: the most texts that are written at once, on which none of them depends.
        seed: of each prompt's first sample, whose second has the next seed, and so on; None takes random ones.
        stop_ids: ids that end a text.
        logprobs: keep the log-probability of every token.
        sampling: fields of `Sampling`: temperature, top_k, top_p, min_p, repetition_penalty.

    Returns:
        For each prompt its samples.

    Raises:
        UserError: when a prompt does not fit or a setting is out of range; nothing has been written then.
    """
    engine = Engine.for_prompts(
        model,
        prompts,
        max_new_tokens,
        n_samples=n_samples,
        batch_size=batch_size,
        stop_ids=stop_ids,
        logprobs=logprobs,
        **sampling,
    )
    texts = [engine.submit(prompt, max_new_tokens, seed=seed, n_samples=n_samples) for prompt in prompts]
    while engine.step():
        pass
    return texts
