"""What preference tuning minimises: functions of the log-probabilities of answers, without a model.

With a model π, the reference π₀ that training began with, and prompt x, the reward of an answer y is
r = β (log π(y|x) - log π₀(y|x)): how much likelier tuning has made it.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

PairLoss = Literal["dpo", "ipo", "simpo"]
Loss = Literal["dpo", "ipo", "simpo", "kto"]


def dpo(chosen: Tensor, rejected: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log σ(r_chosen - r_rejected) of rewards [B] (Rafailov et al. 2023, equation 7).

    With `label_smoothing` ε, that share of the labels is taken to be the wrong way round (Mitchell 2023, "A note on DPO
    with noisy preferences").
    """
    margin = chosen - rejected
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def ipo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """(h - 1/(2β))² of log-ratios per token [B], whose difference is h (Azar et al. 2023, equation 17).

    The mean over an answer's tokens in place of the sum is the authors' correction: a sum makes the goal, which is a
    number for all pairs, depend on the answers' lengths.
    """
    return (chosen - rejected - 1 / (2 * beta)).square()


def simpo(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """-log σ(β (c - r) - γ) of log-probabilities per token [B], without a reference (Meng et al. 2024, equation 6)."""
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


def kto(rewards: Tensor, is_wanted: Tensor, kl: Tensor, beta: float) -> Tensor:
    """1 - σ(r - β z) for an answer that is wanted, 1 - σ(β z - r) for one that is not (Ethayarajh et al. 2024, eq. 8).

    Args:
        rewards: of single answers, [S].
        is_wanted: bool [S].
        kl: z, at least 0: how far the model has moved from the reference, in nats an answer.
        beta: of the rewards.
    """
    distance = rewards - beta * kl
    return 1 - (distance * (is_wanted.to(rewards.dtype) * 2 - 1)).sigmoid()
