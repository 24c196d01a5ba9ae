"""The network's distribution and that of counts, mixed by a gate: (1 - g) · network + g · counts."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.ngrams import NGramCounts


class Beside(NamedTuple):
    """What makes a mixture of the network's probabilities: log(1 - g), and log(g · counts / (1 - g)); float32."""

    closed: Tensor  # B T
    counted: Tensor  # B T of each target, or B T V of every token

    def mix(self, network: Tensor) -> Tensor:
        """Log-probabilities of the mixture, in the shape of `counted`, from the network's."""
        closed = self.closed.unsqueeze(-1) if self.counted.ndim > self.closed.ndim else self.closed
        return closed + torch.logaddexp(network, self.counted)


class NGramMixture(nn.Module):
    """How far to believe the counts of the training text, and what they say.

    A network beside counts need only learn what these cannot know (Neubig & Dyer 2016, hybrid neural/n-gram language
    models). The gate g is a logistic regression on the hidden state and on what the counts know of the context. In
    training the counts are those without the token's own occurrence, as a text that was not counted has none; a gate
    that saw it would trust the counts blindly.

    Args:
        vocab_size: number of ids.
        d_model: of the hidden states.
        order: tokens of the longest sequences that are counted.
    """

    def __init__(self, vocab_size: int, d_model: int, order: int) -> None:
        super().__init__()
        self.counts = NGramCounts(vocab_size, order)
        self.gate = nn.Linear(d_model + order + 2, 1)

    def forward(
        self,
        x: Tensor,
        tokens: Tensor,
        targets: Tensor | None = None,
        before: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Beside:
        """What stands beside the network's prediction of `targets`, or of every token where there are none.

        Args:
            x: hidden states [B, T, d_model].
            tokens: int64 [B, T].
            targets: int64 [B, T], negative ones have any value.
            before, first: as in `NGramCounts.probability`.
        """
        if targets is None:
            counted, evidence = self.counts.distribution(tokens, before, first)
        else:
            counted, evidence = self.counts.probability(tokens, targets, before, first, leave_out=self.training)
        score = self.gate(torch.cat([x, evidence.to(x.dtype)], -1)).float()  # log(g / (1 - g))
        return Beside(
            F.logsigmoid(-score).squeeze(-1), (score if targets is None else score.squeeze(-1)) + counted.log()
        )
