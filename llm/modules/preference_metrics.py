"""How well a model tells the better answer, from exact sums."""

import torch
from torch import Tensor
from torchmetrics import Metric

_SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64
PAIRS = ("correct", "margin", "pairs")
SIDES = ("chosen", "rejected", "n_chosen", "n_rejected", "log_ratio", "tokens")


class PreferenceScores(Metric):
    """Shares and means over all pairs and answers; sums are kept, so batches and ranks change nothing."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("loss", "n_losses", *PAIRS, *SIDES):
            self.add_state(name, torch.zeros((), dtype=_SUM_DTYPE), dist_reduce_fx="sum")

    def update(
        self, losses: Tensor, rewards: Tensor, kinds: Tensor, lengths: Tensor, log_ratios: Tensor, paired: bool
    ) -> None:
        """Add a batch.

        Args:
            losses: [N], of its pairs or of its answers.
            rewards: [S], of its answers, the chosen ones first.
            kinds: int64 [S], 1 chosen and 0 rejected.
            lengths: int64 [S], tokens of each answer.
            log_ratios: [S], log π - log π₀ of each answer.
            paired: whether the answers are pairs.
        """
        self._add(loss=losses.sum(), n_losses=losses.numel())
        chosen, rejected = rewards[kinds == 1], rewards[kinds == 0]
        if paired:
            margin = chosen - rejected
            correct = (margin > 0).sum() + 0.5 * (
                margin == 0
            ).sum()  # a model that does not know is right half the time
            self._add(correct=correct, margin=margin.sum(), pairs=margin.numel())
        self._add(chosen=chosen.sum(), rejected=rejected.sum(), n_chosen=chosen.numel(), n_rejected=rejected.numel())
        self._add(log_ratio=log_ratios.sum(), tokens=lengths.sum())

    def _add(self, **values: Tensor | int) -> None:
        for name, value in values.items():
            setattr(self, name, getattr(self, name) + value)

    def compute(self) -> dict[str, Tensor]:
        """`loss`; `accuracy` and `margin` of pairs; mean `reward_chosen` and `reward_rejected`; `kl`.

        `kl` is the mean of log π₀ - log π over the answers' tokens: on text that the reference would write, the
        divergence of π from it in nats a token. NaN where there is nothing to divide by.
        """
        get = {name: getattr(self, name) for name in ("loss", "n_losses", *PAIRS, *SIDES)}
        found = {
            "loss": get["loss"] / get["n_losses"],
            "accuracy": get["correct"] / get["pairs"],
            "margin": get["margin"] / get["pairs"],
            "reward_chosen": get["chosen"] / get["n_chosen"],
            "reward_rejected": get["rejected"] / get["n_rejected"],
            "kl": -get["log_ratio"] / get["tokens"],
        }
        return {name: value.float() for name, value in found.items()}
