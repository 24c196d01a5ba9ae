"""Counts of the n-grams of the training text, as a language model that needs no training.

A trie in arrays: level k holds every distinct sequence of k tokens in lexical order, so that the continuations of one
sequence lie side by side in the next level. Probabilities are those of absolute discounting (Ney, Essen & Kneser
1994): every count gives `DISCOUNT` away, and what a context gives away goes to the context shorter by one token.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DISCOUNT = 0.8
_SMOOTHING = 0.5  # occurrences that every single token is given


def count_ngrams(tokens: Tensor, order: int, vocab_size: int) -> list[tuple[Tensor, Tensor]]:
    """Count the sequences of 1 to `order` tokens in one text.

    Args:
        tokens: int64 [N].
        order: tokens of the longest sequences, at least 2.
        vocab_size: ids are 0 to vocab_size - 1.

    Returns:
        For the lengths 2, 3, ... order: keys, int64 and ascending, each the place of the sequence without its last
        token in the level before (of one token: its id) times vocab_size plus the last token; and counts int64.
    """
    levels = []
    places = tokens
    for length in range(2, order + 1):
        keys, inverse, counts = torch.unique(
            places[: len(tokens) - length + 1] * vocab_size + tokens[length - 1 :],
            return_inverse=True,
            return_counts=True,
        )
        levels.append((keys, counts))
        places = inverse  # of the sequence that begins at each token
    return levels


class NGramCounts(nn.Module):
    """The counts, and what they predict.

    Args:
        vocab_size: number of ids.
        sizes: distinct sequences of 2, 3, ... tokens.
    """

    singles: Tensor

    def __init__(self, vocab_size: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.vocab_size, self.order = vocab_size, len(sizes) + 1
        self.register_buffer("singles", torch.zeros(vocab_size))
        before = vocab_size
        for length, size in enumerate(sizes, 2):
            self.register_buffer(f"keys_{length}", torch.zeros(size, dtype=torch.int64))
            self.register_buffer(f"counts_{length}", torch.zeros(size, dtype=torch.int32))
            # Where the continuations of each shorter sequence begin, and how many occurrences lie before them.
            self.register_buffer(f"starts_{length}", torch.zeros(before + 1, dtype=torch.int64))
            self.register_buffer(f"totals_{length}", torch.zeros(before + 1, dtype=torch.int64))
            before = size

    @torch.no_grad()
    def fill(self, tokens: Tensor) -> None:
        """Take the counts of a text int64 [N], of the sizes given."""
        self.singles.copy_(torch.bincount(tokens, minlength=self.vocab_size).float().add_(_SMOOTHING))
        before = self.vocab_size
        for length, (keys, counts) in enumerate(count_ngrams(tokens, self.order, self.vocab_size), 2):
            starts = torch.searchsorted(keys, torch.arange(before + 1) * self.vocab_size)
            ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            self._level(length, "keys").copy_(keys)
            self._level(length, "counts").copy_(counts)
            self._level(length, "starts").copy_(starts)
            self._level(length, "totals").copy_(ends[starts])
            before = len(keys)

    def _level(self, length: int, name: str) -> Tensor:
        return self.get_buffer(f"{name}_{length}")

    def places(self, tokens: Tensor, before: Tensor | None = None) -> list[Tensor]:
        """Where the sequences that end at each of `tokens` int64 [B, T] stand; of 1, 2, ... order - 1 tokens.

        `before` int64 [B, order - 2] are the tokens before them, -1 for none. A place is -1 where the sequence was not
        counted, or begins before the first token.
        """
        width = self.order - 2
        if before is None:
            before = tokens.new_full((len(tokens), width), -1)
        whole = torch.cat([before, tokens], 1)
        found = [whole]
        for length in range(2, self.order):
            shorter = torch.cat([whole.new_full((len(whole), 1), -1), found[-1][:, :-1]], 1)
            found.append(self._continued(length, shorter, whole))
        return [place[:, width:] for place in found]

    def _continued(self, length: int, places: Tensor, tokens: Tensor) -> Tensor:
        """The place in level `length` of the sequence at `places` in the one before, and then `tokens`; -1 for none."""
        keys = self._level(length, "keys")
        wanted = places * self.vocab_size + tokens
        at = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        return torch.where((places >= 0) & (tokens >= 0) & (keys[at] == wanted), at, -1)

    def probability(
        self, tokens: Tensor, targets: Tensor, before: Tensor | None = None, *, leave_out: bool = False
    ) -> tuple[Tensor, Tensor]:
        """How likely `targets` are after `tokens`, both int64 [B, T]; negative targets have any probability.

        Args:
            tokens: what is seen.
            targets: what comes.
            before: as in `places`.
            leave_out: count without this very occurrence of context and target, which is in the text that was counted.

        Returns:
            float32 [B, T], above 0; and what is known of its context, float32 [B, T, order + 2] (see `_evidence`).
        """
        targets = targets.clamp(min=0)
        probability = (self.singles / self.singles.sum())[targets]
        contexts = self.places(tokens, before)
        evidence = _Evidence(self.order, tokens)
        for length, context in enumerate(contexts, 2):
            total, distinct = self._continuations(length, context)
            at = self._continued(length, context, targets)
            count = torch.where(at >= 0, self._level(length, "counts")[at], 0)
            if leave_out:
                own = (at >= 0).long()
                total, distinct, count = total - own, distinct - (own * (count == 1)), count - own
            seen, some = total > 0, total.clamp(min=1)
            mixed = ((count - DISCOUNT).clamp(min=0) + DISCOUNT * distinct * probability) / some
            probability = torch.where(seen, mixed, probability)
            evidence.add(seen, total, distinct)
        return probability, evidence.features()

    def _continuations(self, length: int, context: Tensor) -> tuple[Tensor, Tensor]:
        """How often each context goes on, and by how many distinct tokens; 0 where it was not counted."""
        known, at = context >= 0, context.clamp(min=0)
        totals, starts = self._level(length, "totals"), self._level(length, "starts")
        total = torch.where(known, totals[at + 1] - totals[at], 0)
        return total, torch.where(known, starts[at + 1] - starts[at], 0)

    def distribution(self, tokens: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The probability of every next token, float32 [B, T, V], and what `probability` tells of the context."""
        single = self.singles / self.singles.sum()
        shape = (*tokens.shape, self.vocab_size)
        probability = single.expand(shape).reshape(-1, self.vocab_size)  # B·T V
        evidence = _Evidence(self.order, tokens)
        for length, context in enumerate(self.places(tokens, before), 2):
            total, distinct = self._continuations(length, context)
            seen, some = total > 0, total.clamp(min=1)
            kept = torch.where(seen, DISCOUNT * distinct / some, 1.0)
            probability = probability * kept.view(-1, 1)
            # Every continuation of every context: row by row, those that lie between the row's two starts.
            sizes = distinct.flatten()
            row = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
            offset = torch.arange(len(row), device=sizes.device) - (sizes.cumsum(0) - sizes)[row]
            at = self._level(length, "starts")[context.flatten().clamp(min=0)][row] + offset
            share = (self._level(length, "counts")[at] - DISCOUNT) / some.flatten()[row]
            probability.index_put_((row, self._level(length, "keys")[at] % self.vocab_size), share, accumulate=True)
            evidence.add(seen, total, distinct)
        return probability.view(shape), evidence.features()


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


class NGramMixture(nn.Module):
    """The network's distribution and that of the counts, mixed by a gate: (1 - g) · network + g · counts.

    The gate g is a logistic regression on the hidden state and on what the counts know of the context. In training
    the counts are those without the token's own occurrence, which a text that was not counted never has.

    Args:
        vocab_size: number of ids.
        d_model: of the hidden states.
        sizes: distinct sequences of 2, 3, ... tokens.
    """

    def __init__(self, vocab_size: int, d_model: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.counts = NGramCounts(vocab_size, sizes)
        self.gate = nn.Linear(d_model + self.counts.order + 2, 1)

    def log_probability(
        self, x: Tensor, logits: Tensor, tokens: Tensor, targets: Tensor, before: Tensor | None = None
    ) -> Tensor:
        """Of `targets` int64 [B, T] after `tokens`: float32 [B, T].

        Args:
            x: hidden states [B, T, d_model].
            logits: the network's, [B, T, V].
            tokens: int64 [B, T].
            targets: negative ones have any value.
            before: as in `NGramCounts.places`.
        """
        network = logits.float().log_softmax(-1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        counted, evidence = self.counts.probability(tokens, targets, before, leave_out=self.training)
        gate = self._gate(x, evidence)
        return torch.logaddexp(F.logsigmoid(-gate) + network, F.logsigmoid(gate) + counted.log())

    def log_distribution(self, x: Tensor, logits: Tensor, tokens: Tensor, before: Tensor | None = None) -> Tensor:
        """Of every next token: float32 [B, T, V]; arguments as above."""
        counted, evidence = self.counts.distribution(tokens, before)
        gate = self._gate(x, evidence).unsqueeze(-1)
        return torch.logaddexp(F.logsigmoid(-gate) + logits.float().log_softmax(-1), F.logsigmoid(gate) + counted.log())

    def _gate(self, x: Tensor, evidence: Tensor) -> Tensor:
        return self.gate(torch.cat([x, evidence.to(x.dtype)], -1)).squeeze(-1).float()
