"""Choosing the next token from its logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from llm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn from the model's distribution. The settings apply in the order in which they stand.

    Args:
        repetition_penalty: what the logits of all tokens that the text already holds, its prompt included, are divided
            by where they are positive, and multiplied by where they are negative (Keskar et al. 2019, CTRL, section
            4.1); 1 changes nothing.
        temperature: divides the logits; 0 takes the likeliest token and draws nothing.
        top_k: only the k likeliest tokens can be drawn (Fan et al. 2018); of equally likely ones k stay, too.
        top_p: only the smallest set of tokens whose probability reaches p can be drawn (Holtzman et al. 2020, nucleus
            sampling).
        min_p: only tokens at least p times as likely as the likeliest can be drawn (Nguyen et al. 2024).

    Raises:
        UserError: for a value out of range.
    """

    repetition_penalty: float = 1.0
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(f"repetition_penalty is {self.repetition_penalty}: it must be a number above 0")
        if not self.temperature >= 0:
            raise UserError(f"temperature is {self.temperature}: it must be at least 0")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}: it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}: it must be above 0 and at most 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min_p is {self.min_p}: it must be 0 to 1")

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Draw one token id for each row.

        Args:
            logits: float [B, V]; the penalty has been applied.
            uniform: float64 [B], 0 ≤ u < 1: where in the cumulative distribution each row's token lies.

        Returns:
            int64 [B].
        """
        if self.temperature == 0:
            return logits.argmax(-1)
        logits = logits.float() / self.temperature
        ids = None
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits, ids = logits.topk(self.top_k)
        elif self.top_p is not None and self.top_p < 1:
            logits, ids = logits.sort(descending=True)
        probabilities = logits.softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            # A token goes when those before it reach p already; before the first there is nothing.
            beyond = probabilities.cumsum(-1) - probabilities >= self.top_p
            probabilities = probabilities.masked_fill(beyond, 0)
        if self.min_p:
            likeliest = probabilities.amax(-1, keepdim=True)
            probabilities = probabilities.masked_fill(probabilities < self.min_p * likeliest, 0)
        # Summed up in float32, the last of 100,000 tokens would lose what they have.
        total = probabilities.cumsum(-1, dtype=torch.float64)
        # The first place where the sum exceeds u of the whole; as u < 1, there is one, and it has a probability.
        places = torch.searchsorted(total, uniform.unsqueeze(1) * total[:, -1:], right=True)
        return (places if ids is None else ids.gather(-1, places)).squeeze(-1)

    def penalize(self, logits: Tensor, seen: Tensor) -> Tensor:
        """`logits` [B, V] with the repetition penalty for the tokens that `seen`, bool [B, V], marks."""
        penalty = self.repetition_penalty
        return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
