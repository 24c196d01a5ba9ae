"""generate: a model continues a sequence of tokens, one at a time."""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from llm.errors import UserError
from llm.generation.sampling import sample
from llm.model import GPT, KVCache

LARGEST_SEED = 2**64 - 1  # that torch takes


def generate(
    model: GPT,
    tokens: Sequence[int],
    max_new_tokens: int = 256,
    *,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_ids: Collection[int] = (),
    first_ids: Collection[int] | None = None,
    use_cache: bool = True,
) -> Iterator[int]:
    """Yield the ids that follow `tokens`, each as soon as it is drawn.

    When the context is full, the model forgets the first half of what it sees: the last context_length // 2 tokens
    are read again from position 0, and the context fills up anew. What is drawn does not depend on `use_cache`.

    The model is in eval mode while a token is computed, and in the mode it was in whenever the caller has control.

    Args:
        model: its device and dtype are used.
        tokens: ids of the prompt, at least one and at most `context_length`.
        max_new_tokens: the most ids to yield.
        temperature: divides the logits; 0 takes the likeliest token each time.
        top_k: only the k likeliest tokens can be drawn.
        top_p: only the smallest set of tokens whose probability reaches p can be drawn.
        seed: of the draws; None takes a random one.
        stop_ids: ids that end the text; they are not yielded.
        first_ids: the only ids that the first new token can be; None allows all.
        use_cache: keep the keys and values of tokens already read, instead of reading them again for each new one.

    Raises:
        UserError: at the call, when the prompt does not fit or a setting is out of range.
    """
    _check(model, tokens, max_new_tokens, temperature, top_k, top_p)
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed is {seed}: it must be 0 to {LARGEST_SEED}")
    device = model.embedding.weight.device
    generator = torch.Generator(device)
    _ = generator.seed() if seed is None else generator.manual_seed(seed)
    allowed = None if first_ids is None else torch.tensor(sorted(first_ids), device=device)
    stop = frozenset(stop_ids)
    return _stream(model, list(tokens), max_new_tokens, temperature, top_k, top_p, generator, stop, allowed, use_cache)


def _stream(
    model: GPT,
    window: list[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
    stop_ids: frozenset[int],
    allowed: Tensor | None,
    use_cache: bool,
) -> Iterator[int]:
    context = model.config.context_length
    weight = model.embedding.weight
    capacity = min(context, len(window) + max_new_tokens)
    cache = KVCache(model.config, capacity=capacity, dtype=weight.dtype, device=weight.device) if use_cache else None
    for _ in range(max_new_tokens):
        if len(window) > context:
            window = window[-(context // 2) :] if context > 1 else window[-1:]
            if cache is not None:
                cache.clear()
        unread = window if cache is None else window[cache.length :]
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                logits = model(torch.tensor([unread], device=weight.device), cache=cache)[:, -1]
                if allowed is not None:
                    logits = torch.full_like(logits, -torch.inf).index_copy(1, allowed, logits[:, allowed])
                    allowed = None
                token = int(sample(logits, temperature, top_k, top_p, generator))
        finally:
            model.train(was_training)
        if token in stop_ids:
            return
        window.append(token)
        yield token


def _check(
    model: GPT,
    tokens: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    context, vocab_size = model.config.context_length, model.config.vocab_size
    if not 1 <= len(tokens) <= context:
        raise UserError(
            f"the prompt has {len(tokens)} tokens but the model's context is {context}: "
            + ("shorten the prompt" if tokens else "give at least one token to continue")
        )
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise UserError(f"the prompt holds the id {token} but the model knows 0 to {vocab_size - 1}")
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens is {max_new_tokens}: it must be at least 0")
    if not temperature >= 0:
        raise UserError(f"temperature is {temperature}: it must be at least 0")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k is {top_k}: it must be at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p}: it must be above 0 and at most 1")
