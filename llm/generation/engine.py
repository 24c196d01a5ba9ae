"""Engine: many texts written at once, a token each at every step."""

import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor

from llm.errors import UserError
from llm.generation.sampling import Sampling
from llm.model import GPT, KVCache

LARGEST_SEED = 2**64 - 1
LARGEST_READ = 8192  # tokens of prompts in one pass, for the memory that it takes
FinishReason = Literal["stop", "length"]


@dataclass(eq=False)
class Continuation:
    """A text in the making.

    Attributes:
        prompt: its ids.
        tokens: the ids written after it.
        logprobs: of each of them under the model itself, before any sampling setting, in nats; empty if not asked for.
        finish_reason: `stop` at a stop id, which is not among the tokens, or by `Engine.finish`; `length` at
            max_new_tokens; None while it is being written.
    """

    prompt: list[int]
    max_new_tokens: int
    draws: random.Random
    first_ids: list[int] | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def next_read(self) -> int:
        """The id that the model reads next: everything before it is in the cache."""
        return self.tokens[-1] if self.tokens else self.prompt[-1]


class Engine:
    """Writes texts with one model: each has a row of one KV cache, and all of them grow by a token a step.

    A text is the same whatever is written beside it: its random numbers are its own, it sees no other, and when its
    context is full, it alone forgets the first half: the last context_length // 2 tokens are read again from position
    0. (Products of matrices of other heights round differently in their last bits, so a text can still turn where two
    tokens are equally likely to within some 1e-6.)

    Where a text ends, the next that waits takes its row. What a row holds already of its prompt's beginning is copied
    instead of being read: of many samples only the first reads the prompt, and no turn of a conversation reads what was
    said before.

    The model is in eval mode while it computes, and in the mode it was in whenever the caller has control.

    Args:
        model: its device and dtype are used. With `fuse_projections(model)` before, it writes faster.
        sampling: how tokens are drawn.
        batch_size: the most texts that are written at once.
        capacity: the most tokens of a text, its prompt included, that the cache has room for; default: the context.
        stop_ids: ids that end a text.
        logprobs: keep the log-probability of every token written.
    """

    def __init__(
        self,
        model: GPT,
        sampling: Sampling,
        *,
        batch_size: int = 1,
        capacity: int | None = None,
        stop_ids: Collection[int] = (),
        logprobs: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: it must be at least 1")
        self.model, self.sampling, self.logprobs = model, sampling, logprobs
        self.stop_ids = frozenset(stop_ids)
        self.context = model.config.context_length
        scaling = model.config.rope_scaling
        # Or keys depend on the length of their text at the time that they are made.
        self._keys_last = scaling is None or scaling.type != "dynamic"
        weight = model.embedding.weight
        self.device = weight.device
        capacity = self.context if capacity is None else min(capacity, self.context)
        with torch.inference_mode():
            self.cache = KVCache(model.config, batch_size, capacity, weight.dtype, weight.device)
            penalized = sampling.repetition_penalty != 1
            shape = (batch_size, model.config.vocab_size)
            self.seen = torch.zeros(shape, dtype=torch.bool, device=self.device) if penalized else None
        # The ids in each row of the cache, also of those that are free; and the texts in the first of them.
        self.held: list[list[int]] = [[] for _ in range(batch_size)]
        self.active: list[Continuation] = []
        self.waiting: deque[Continuation] = deque()

    @classmethod
    def for_prompts(
        cls,
        model: GPT,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        n_samples: int = 1,
        batch_size: int = 1,
        stop_ids: Collection[int] = (),
        logprobs: bool = False,
        **sampling: Any,
    ) -> Self:
        """An engine with no more rows and no more room than so many samples of `prompts` need."""
        return cls(
            model,
            Sampling(**sampling),
            batch_size=min(batch_size, max(1, len(prompts) * n_samples)),
            capacity=max(1, max(map(len, prompts), default=1) + max_new_tokens - 1),  # nothing reads the last token
            stop_ids=stop_ids,
            logprobs=logprobs,
        )

    def submit(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        *,
        seed: int | None = None,
        n_samples: int = 1,
        first_ids: Collection[int] | None = None,
    ) -> list[Continuation]:
        """Have a prompt continued, as soon as there is room.

        Args:
            prompt: its ids, at least one and at most `context_length`.
            max_new_tokens: the most ids to write.
            seed: of the first sample's random numbers; the second has the next, and so on. None takes random ones.
            n_samples: how many texts to write.
            first_ids: the only ids that the first new token can be; None allows all.

        Returns:
            The texts, which grow as `step` is called.

        Raises:
            UserError: when the prompt does not fit or a setting is out of range.
        """
        check_prompt(self.model, prompt, max_new_tokens, seed)
        longest = min(len(prompt) + max_new_tokens - 1, self.context)  # nothing reads the last token
        if longest > self.cache.capacity:
            raise UserError(f"a text of {longest} tokens does not fit in a capacity of {self.cache.capacity}")
        if n_samples < 1:
            raise UserError(f"n_samples is {n_samples}: it must be at least 1")
        allowed = None if first_ids is None else sorted(first_ids)
        samples = []
        for number in range(n_samples):
            draws = random.Random(None if seed is None else seed + number)
            samples.append(Continuation(list(prompt), max_new_tokens, draws, allowed))
        if max_new_tokens == 0:
            for sample in samples:
                sample.finish_reason = "length"
        else:
            self.waiting.extend(samples)
        return samples

    def step(self) -> list[Continuation]:
        """Write one token of every text that there is room for; those texts. An empty list: nothing is left to do."""
        was_training = self.model.training
        if was_training:  # in a model that is read from, asking every module would take a third of the step
            self.model.eval()
        try:
            with torch.inference_mode():
                return self._step()
        finally:
            if was_training:
                self.model.train()

    @torch.inference_mode()
    def finish(self, text: Continuation, reason: FinishReason) -> None:
        """End a text here, for a reason that the caller knows; its row is free again."""
        text.finish_reason = reason
        if text in self.active:
            self._free(self.active.index(text))
        elif text in self.waiting:
            self.waiting.remove(text)

    # ---- a step -------------------------------------------------------------------------------------------------

    def _step(self) -> list[Continuation]:
        self._admit()
        texts = list(self.active)
        if not texts:
            return []
        for row, text in enumerate(texts):
            if len(self.held[row]) == self.context:
                self._read(row, [*text.prompt, *text.tokens][-(self.context // 2) or -1 : -1], 0)
            self.held[row].append(text.next_read())
        read = torch.tensor([held[-1:] for held in self.held[: len(texts)]], device=self.device)
        cache = self.cache if len(texts) == len(self.held) else self.cache.rows(0, len(texts))
        logits = self.model(read, cache=cache)[:, -1]
        if any(not text.tokens for text in texts) and not logits.isfinite().all():  # once a text, as it costs time
            raise UserError(
                f"the model's logits are not finite: its weights hold NaN or infinity, or overflow in {logits.dtype}; "
                "choose another checkpoint"
            )
        drawn = self._draw(logits, texts)
        ids = drawn.tolist()
        if self.logprobs:
            chosen = logits.float().log_softmax(-1).gather(1, drawn.unsqueeze(1)).squeeze(1).tolist()
        for row, (text, token) in enumerate(zip(texts, ids, strict=True)):
            if token in self.stop_ids:
                text.finish_reason = "stop"
                continue
            text.tokens.append(token)
            if self.logprobs:
                text.logprobs.append(chosen[row])
            if self.seen is not None:
                self.seen[row, token] = True
            if len(text.tokens) == text.max_new_tokens:
                text.finish_reason = "length"
        for row in range(len(texts) - 1, -1, -1):
            if texts[row].finish_reason is not None:
                self._free(row)
        return texts

    def _draw(self, logits: Tensor, texts: list[Continuation]) -> Tensor:
        """One id for each of `texts`, int64 [B], from logits [B, V]."""
        if self.seen is not None:
            logits = self.sampling.penalize(logits, self.seen[: len(texts)])
        for row, text in enumerate(texts):
            if text.first_ids is not None:
                allowed = torch.tensor(text.first_ids, device=self.device)
                kept = logits[row, allowed]
                logits = logits.clone()
                logits[row] = -torch.inf
                logits[row, allowed] = kept
                text.first_ids = None
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        uniform = [text.draws.random() for text in texts]
        return self.sampling.draw(logits, torch.tensor(uniform, dtype=torch.float64, device=self.device))

    # ---- rows ---------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give texts that wait the free rows, with all of their prompts but the last token read."""
        fresh: list[int] = []  # rows that hold nothing of their prompts
        while self.waiting and len(self.active) < len(self.held):
            text, row = self.waiting.popleft(), len(self.active)
            read = text.prompt[:-1]
            if any(self._is_shared(self._in_common(self.active[other].prompt[:-1], read), read) for other in fresh):
                self._read_fresh(fresh)
                fresh = []
            self.active.append(text)
            common = [self._in_common(held, read) for held in self.held]
            source = max(range(len(common)), key=common.__getitem__)
            if self._is_shared(common[source], read):
                if common[source] > common[row]:
                    self.cache.copy_row(source, row)
                self._read(row, read, common[source])
            else:
                fresh.append(row)
            if self.seen is not None:
                self.seen[row] = False
                self.seen[row, torch.tensor(text.prompt, device=self.device)] = True
        self._read_fresh(fresh)

    @staticmethod
    def _is_shared(common: int, read: list[int]) -> bool:
        """Whether so many tokens in common are worth a copy: all prompts may begin with the same few."""
        return common > 0 and 2 * common >= len(read)

    def _read_fresh(self, rows: list[int]) -> None:
        """Read the prompts of `rows`, those together that lie side by side and are of about one length."""
        while rows:
            lengths = [len(self.active[row].prompt) - 1 for row in rows]
            n = 1
            while n < len(rows) and rows[n] == rows[0] + n and self._fit_together(lengths[: n + 1]):
                n += 1
            if n == 1:
                self._read(rows[0], self.active[rows[0]].prompt[:-1], 0)
            else:
                self._read_together(rows[0], lengths[:n])
            rows = rows[n:]

    def _fit_together(self, lengths: list[int]) -> bool:
        """Whether prompts can be read as rows of one length: what fills them up costs time, and places."""
        longest, n_all = max(lengths), max(lengths) * len(lengths)
        if longest == 0 or n_all > LARGEST_READ or 4 * n_all > 5 * sum(lengths):
            return False
        return min(lengths) == longest or (longest <= self.cache.n_places and self._keys_last)

    def _read_together(self, first: int, lengths: list[int]) -> None:
        """Read the prompts of rows from `first` on at once: what follows a prompt's end changes nothing before it."""
        prompts = [text.prompt[:-1] for text in self.active[first : first + len(lengths)]]
        tokens = torch.zeros(len(prompts), max(lengths), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt, dtype=torch.int64)
        view = self.cache.rows(first, first + len(prompts))
        view.clear()
        self.model.hidden(tokens.to(self.device), cache=view)
        view.cut(prompts)
        self.held[first : first + len(prompts)] = prompts

    def _in_common(self, held: list[int], read: list[int]) -> int:
        """How many of the ids that a row holds are the first of `read`, and still as if read with it."""
        if len(held) > self.cache.n_places or not self._keys_last:  # of the first, some are overwritten
            return 0
        return next((i for i, (a, b) in enumerate(zip(held, read, strict=False)) if a != b), min(len(held), len(read)))

    def _read(self, row: int, tokens: list[int], kept: int) -> None:
        """Fill a row with `tokens`, of which it holds the first `kept`."""
        view = self.cache.rows(row, row + 1)
        view.cut([tokens[:kept]])
        if kept < len(tokens):
            self.model.hidden(torch.tensor([tokens[kept:]], device=self.device), cache=view)
        self.held[row] = list(tokens)

    def _free(self, row: int) -> None:
        """Take a text out; the last row moves into its place, so that the rows in use stay side by side."""
        last = len(self.active) - 1
        if row != last:
            self.active[row] = self.active[last]
            self.cache.copy_row(last, row)
            self.held[row] = list(self.held[last])
            if self.seen is not None:
                self.seen[row] = self.seen[last]
        del self.active[last]


def check_prompt(model: GPT, prompt: Sequence[int], max_new_tokens: int, seed: int | None) -> None:
    """Raise UserError where `prompt` cannot be continued so far."""
    context, vocab_size = model.config.context_length, model.config.vocab_size
    if not 1 <= len(prompt) <= context:
        raise UserError(
            f"the prompt has {len(prompt)} tokens but the model's context is {context}: "
            + ("shorten the prompt" if len(prompt) else "give at least one token to continue")
        )
    for token in prompt:
        if not 0 <= token < vocab_size:
            raise UserError(f"the prompt holds the id {token} but the model knows 0 to {vocab_size - 1}")
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens is {max_new_tokens}: it must be at least 0")
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed is {seed}: it must be 0 to {LARGEST_SEED}")
