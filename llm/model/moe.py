"""Mixture of experts: many feed-forwards, of which each token goes through a few (Shazeer et al. 2017)."""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.config import GPTConfig
from llm.model.feedforward import activate, dense_feedforward
from llm.model.grouped import Grouping, grouped_linear


class Router(nn.Module):
    """Which experts each token goes to, and how much of each it takes.

    `softmax`: the likeliest experts of a softmax over all of them (as in Mixtral and Qwen3-MoE). `sigmoid`: the
    highest sum of an expert's score and its entry in `balance`, which decides the choice and nothing else, so that no
    auxiliary loss pulls at the weights (Wang et al. 2024, arXiv 2408.15664; as in DeepSeek-V3).

    Scores are computed in float32 at least: where two are close, bfloat16 would decide by its rounding.
    """

    balance: Tensor | None

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_active = config.n_active_experts
        self.normalize = config.normalize_routing
        self.weight = nn.Parameter(torch.empty(config.n_experts, config.d_model))
        sigmoid = config.router == "sigmoid"
        self.register_buffer("balance", torch.zeros(config.n_experts, dtype=torch.float32) if sigmoid else None)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Map rows [N, d_model] to the chosen experts int64 [N, K] and their weights, float32 or wider [N, K]."""
        exact = torch.promote_types(rows.dtype, torch.float32)
        with torch.autocast(rows.device.type, enabled=False):
            logits = F.linear(rows.to(exact), self.weight.to(exact))  # N E
            if self.balance is None:
                weights, chosen = logits.softmax(-1).topk(self.n_active)
            else:
                scores = logits.sigmoid()
                chosen = (scores.detach() + self.balance).topk(self.n_active).indices
                weights = scores.gather(1, chosen)
            if self.normalize:
                weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return chosen, weights

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Keep `balance` in float32 when the model is cast: its steps are too small for bfloat16 to add up."""
        before: Any = self.balance
        super()._apply(fn, recurse)
        if self.balance is not None and self.balance.dtype != before.dtype:
            self.balance = before.to(self.balance.device)
        return self


class Experts(nn.Module):
    """The experts' matrices, stacked: one product for all of them on CUDA, one parameter each for an optimizer."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.activation = config.feedforward
        inwards = (config.n_experts, config.d_expert, config.d_model)
        self.gate = nn.Parameter(torch.empty(inwards)) if config.feedforward == "swiglu" else None
        self.up = nn.Parameter(torch.empty(inwards))
        self.down = nn.Parameter(torch.empty(config.n_experts, config.d_model, config.d_expert))

    def forward(self, rows: Tensor, ends: Tensor) -> Tensor:
        """Map rows [R, d_model], sorted by expert, to the same shape; `ends` as in `grouped_linear`."""
        inwards = [self.up] if self.gate is None else [self.gate, self.up]
        hidden = activate(self.activation, *grouped_linear(rows, ends, *(weight.to(rows.dtype) for weight in inwards)))
        return grouped_linear(hidden, ends, self.down.to(rows.dtype))[0]


class MixtureOfExperts(nn.Module):
    """The feed-forward of a block, where each token goes through its chosen experts and one that all tokens share.

    Experts have no capacity: no token is dropped, and none is without its experts.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_experts = config.n_experts
        self.balancing_rate = config.balancing_rate
        self.router = Router(config)
        self.experts = Experts(config)
        self.shared = dense_feedforward(config, config.d_shared) if config.d_shared else None
        # How many tokens each expert was chosen for since the last optimizer step, int64 [n_experts]. No buffer: ddp
        # would overwrite every rank's with the first one's. Where activations are computed a second time for the
        # gradient, every token counts twice, which changes no expert's share.
        self.load: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, T, d_model] to the same shape."""
        rows = x.flatten(0, 1)  # N d_model
        chosen, weights = self.router(rows)
        grouping = Grouping(chosen, self.n_experts)
        if self.training:
            sizes = grouping.sizes
            self.load = sizes if self.load is None else self.load + sizes
        if torch.is_autocast_enabled(x.device.type):
            rows = rows.to(torch.get_autocast_dtype(x.device.type))
        mixed = grouping.gather(self.experts(grouping.spread(rows), grouping.ends), weights).view_as(x)
        return mixed if self.shared is None else mixed + self.shared(x)


@torch.no_grad()
def balance_experts(model: nn.Module, reduce: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Move every expert's `balance` a step towards an even load; to be called once an optimizer step.

    An expert that got less than the mean load is raised by the balancing rate, one that got more is lowered (Wang et
    al. 2024, algorithm 1). The loads counted since the last call then start again from zero.

    Args:
        model: a GPT that has been trained on the micro-batches of the step.
        reduce: gives the sum of a tensor over all ranks.

    Returns:
        The largest share of its layer's load that any one expert got: float32 scalar, 1 / n_experts where all is even.
        None without experts, or where none was trained since the last call.
    """
    counted = [(m, m.load) for m in model.modules() if isinstance(m, MixtureOfExperts) and m.load is not None]
    if not counted:
        return None
    total = reduce(torch.stack([load for _, load in counted]))  # layers, experts
    for (mixture, _), load in zip(counted, total, strict=True):
        mixture.load = None
        balance = mixture.router.balance
        if balance is not None:
            # The mean times the number of experts, so that integers decide: an even load moves nothing.
            balance.add_((load.sum() - load * len(load)).sign(), alpha=mixture.balancing_rate)
    return (total.amax(-1) / total.sum(-1)).amax().float()
