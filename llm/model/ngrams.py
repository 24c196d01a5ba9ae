"""Counts of the n-grams of the training text, as a language model that needs no training, beside the network.

A trie in arrays: level n holds every distinct sequence of n tokens in lexical order, so that the continuations of one
sequence lie side by side in the next level. Probabilities are those of absolute discounting (Ney, Essen & Kneser
1994): every count gives `DISCOUNT` away, and what a context gives away goes to the context shorter by one token.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DISCOUNT = 0.8
SMOOTHING = 0.5  # occurrences that every single token is given besides its own


class NGramCounts(nn.Module):
    """The counts, and what they predict; none to begin with. A checkpoint brings its own, however many they are.

    Args:
        vocab_size: number of ids.
        order: tokens of the longest sequences that are counted, at least 2.
    """

    def __init__(self, vocab_size: int, order: int) -> None:
        super().__init__()
        self.vocab_size, self.order = vocab_size, order
        self.register_buffer("counts_1", torch.zeros(vocab_size, dtype=torch.int32))
        for length in range(2, order + 1):
            self.register_buffer(f"keys_{length}", torch.zeros(0, dtype=torch.int64))
            self.register_buffer(f"counts_{length}", torch.zeros(0, dtype=torch.int32))
            # Where the continuations of each sequence shorter by one begin, and where those of the last one end.
            n_starts = vocab_size + 1 if length == 2 else 2
            self.register_buffer(f"starts_{length}", torch.zeros(n_starts, dtype=torch.int32), persistent=False)

    def reset(self) -> None:
        """Forget everything: a text of no tokens was counted."""
        self._put("counts", 1, torch.zeros_like(self._level("counts", 1)))
        for length in range(2, self.order + 1):
            self._put("keys", length, self._level("keys", length)[:0])
            self._put("counts", length, self._level("counts", length)[:0])
        self._find_starts()

    def fill(self, levels: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take the counts of a text, in place of those before.

        Args:
            levels: keys, int64 and ascending, and counts, int32, for the sequences of 1, 2, ... order tokens. A key is
                the place of the sequence without its last token in the level before, times vocab_size, plus the last
                token; of one token it is the token, and all vocab_size are there. Of every level the counts have the
                same sum, and of every sequence its continuations have its own count as their sum.
        """
        for length, (keys, counts) in enumerate(levels, 1):
            if length > 1:
                self._put("keys", length, keys)
            self._put("counts", length, counts)
        self._find_starts()

    def __len__(self) -> int:
        """The distinct sequences of two and more tokens."""
        return sum(len(self._level("keys", length)) for length in range(2, self.order + 1))

    def _level(self, name: str, length: int) -> Tensor:
        return self.get_buffer(f"{name}_{length}")

    def _put(self, name: str, length: int, values: Tensor) -> None:
        setattr(self, f"{name}_{length}", values.to(self._level(name, length).device))

    def _find_starts(self) -> None:
        for length in range(2, self.order + 1):
            keys, n_before = self._level("keys", length), len(self._level("counts", length - 1))
            parents = keys.div(self.vocab_size, rounding_mode="floor")
            ends = torch.bincount(parents, minlength=n_before).cumsum(0)
            starts = F.pad(ends, (1, 0 if n_before else 1))  # two values at least: any place can be asked for
            setattr(self, f"starts_{length}", starts.to(torch.int32))  # where the keys are: a state may have moved them

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name, held in list(self._buffers.items()):
            if prefix + name in state_dict and held is not None:
                self._buffers[name] = torch.empty_like(state_dict[prefix + name], device=held.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        self._find_starts()

    def probability(
        self,
        tokens: Tensor,
        targets: Tensor,
        before: Tensor | None = None,
        first: Tensor | None = None,
        *,
        leave_out: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """How likely `targets` are after `tokens`, both int64 [B, T]; negative targets have any probability.

        Args:
            tokens: what is seen.
            targets: what comes.
            before: int64 [B, order - 2 or more], the tokens before them, -1 for none.
            first: bool [B, T], where a document begins, which sees nothing of the one before.
            leave_out: count without this very occurrence of context and target, which is in the text that was counted.

        Returns:
            float32 [B, T], above 0; and what is known of its context, float32 [B, T, order + 2] (see `_Evidence`).
        """
        targets = targets.clamp(min=0)
        probability = self._single()[targets]
        evidence = _Evidence(self.order, tokens)
        for length, context in enumerate(self._contexts(tokens, before, first), 2):
            total, distinct = self._continuations(length, context)
            at = self._continued(length, context, targets)
            count = torch.where(at >= 0, self._at("counts", length, at), 0)
            if leave_out:
                own = (at >= 0).int()
                total, distinct, count = total - own, distinct - (own * (count == 1)), count - own
            seen, some = total > 0, total.clamp(min=1)
            mixed = ((count - DISCOUNT).clamp(min=0) + DISCOUNT * distinct * probability) / some
            probability = torch.where(seen, mixed, probability)
            evidence.add(seen, total, distinct)
        return probability, evidence.features()

    def distribution(
        self, tokens: Tensor, before: Tensor | None = None, first: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The probability of every next token, float32 [B, T, V], and what `probability` tells of the context."""
        shape = (*tokens.shape, self.vocab_size)
        probability = self._single().expand(shape).reshape(-1, self.vocab_size)  # B·T V
        evidence = _Evidence(self.order, tokens)
        for length, context in enumerate(self._contexts(tokens, before, first), 2):
            total, distinct = self._continuations(length, context)
            seen, some = total > 0, total.clamp(min=1)
            kept = torch.where(seen, DISCOUNT * distinct / some, 1.0)
            probability = probability * kept.view(-1, 1)
            # Every continuation of every context: row by row, those that lie between the row's two starts.
            sizes = distinct.flatten().long()
            row = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
            offset = torch.arange(len(row), device=sizes.device) - (sizes.cumsum(0) - sizes)[row]
            at = self._level("starts", length)[context.flatten().clamp(min=0)[row]] + offset
            share = (self._level("counts", length)[at] - DISCOUNT) / some.flatten()[row]
            probability.index_put_((row, self._level("keys", length)[at] % self.vocab_size), share, accumulate=True)
            evidence.add(seen, total, distinct)
        return probability.view(shape), evidence.features()

    def _single(self) -> Tensor:
        """The share of each token in the text, float32 [V]."""
        smoothed = self._level("counts", 1).float() + SMOOTHING
        return smoothed / smoothed.sum()

    def _contexts(self, tokens: Tensor, before: Tensor | None, first: Tensor | None) -> list[Tensor]:
        """Where the sequences of 1, 2, ... order - 1 tokens that end at each of `tokens` stand in their levels.

        -1 where the sequence was not counted, or begins before the first token there is.
        """
        width = self.order - 2
        if before is None:
            before = tokens.new_full((len(tokens), width), -1)
        whole = torch.cat([before[:, before.shape[1] - width :], tokens], 1)
        begins = None if first is None else F.pad(first, (width, 0))
        found = [whole]
        for length in range(2, self.order):
            shorter = F.pad(found[-1][:, :-1], (1, 0), value=-1)
            if begins is not None:
                shorter = shorter.masked_fill(begins, -1)
            found.append(self._continued(length, shorter, whole))
        return [places[:, width:] for places in found]

    def _continued(self, length: int, places: Tensor, tokens: Tensor) -> Tensor:
        """The place in level `length` of the sequence at `places` in the one before, and then `tokens`; -1 for none."""
        keys = self._level("keys", length)
        wanted = places * self.vocab_size + tokens
        at = torch.searchsorted(keys, wanted)
        return torch.where(self._at("keys", length, at) == wanted, at, -1)

    def _at(self, name: str, length: int, places: Tensor) -> Tensor:
        """The values at `places`, of which those out of range give any value, or -1 if there is none at all."""
        values = self._level(name, length)
        return values[places.clamp(0, len(values) - 1)] if len(values) else torch.full_like(places, -1)

    def _continuations(self, length: int, context: Tensor) -> tuple[Tensor, Tensor]:
        """How often each context occurs, and by how many distinct tokens it goes on; 0 where it was not counted."""
        known, at = context >= 0, context.clamp(min=0)
        starts = self._level("starts", length)
        total = torch.where(known, self._at("counts", length - 1, at), 0)
        return total, torch.where(known, starts[at + 1] - starts[at], 0)


class _Evidence:
    """What a gate can go by: the length of the longest context that was seen, how often, and how surely it goes on."""

    def __init__(self, order: int, tokens: Tensor) -> None:
        self.order = order
        self.longest = torch.zeros_like(tokens)
        self.often = torch.zeros(tokens.shape, device=tokens.device)
        self.spread = torch.zeros(tokens.shape, device=tokens.device)

    def add(self, seen: Tensor, total: Tensor, distinct: Tensor) -> None:
        """Take a context longer by one token."""
        self.longest = self.longest + seen
        self.often = torch.where(seen, total.float().log1p() / 5, self.often)
        self.spread = torch.where(seen, distinct / total.clamp(min=1), self.spread)

    def features(self) -> Tensor:
        """float32 [B, T, order + 2]: one-hot of the length, log(1 + occurrences) / 5, distinct continuations of one."""
        length = F.one_hot(self.longest, self.order).float()
        return torch.cat([length, self.often.unsqueeze(-1), self.spread.unsqueeze(-1)], -1)
