"""The feed-forward half of a block."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.config import GPTConfig
from llm.model.functions import project, swiglu
from llm.model.fusing import FusedProjection, can_fuse


class FeedForward(nn.Module):
    """Two linear maps around a non-linearity."""

    def __init__(self, config: GPTConfig, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, width, bias=config.bias)
        self.down = nn.Linear(width, config.d_model, bias=config.bias)
        self.activation = config.feedforward

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, T, d_model] to the same shape."""
        return self.down(activate(self.activation, self.up(x)))


class GatedFeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): one linear map opens or closes what the other brings up."""

    fused: FusedProjection | None = None

    def __init__(self, config: GPTConfig, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, width, bias=config.bias)
        self.up = nn.Linear(config.d_model, width, bias=config.bias)
        self.down = nn.Linear(width, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, T, d_model] to the same shape."""
        if self.fused is not None and not torch.is_grad_enabled() and self.fused.holds(self.gate, self.up):
            return self.down(swiglu(*self.fused(x).chunk(2, -1)))
        return self.down(swiglu(*project(x, self.gate, self.up)))

    def fuse(self) -> None:
        """Lay the weights of gate and up together, for what is read without gradients."""
        if can_fuse(self.gate, self.up) and (self.fused is None or not self.fused.holds(self.gate, self.up)):
            self.fused = FusedProjection(self.gate, self.up)


def dense_feedforward(config: GPTConfig, width: int) -> FeedForward | GatedFeedForward:
    """The kind of feed-forward that `config` asks for, of so much inner width."""
    return (GatedFeedForward if config.feedforward == "swiglu" else FeedForward)(config, width)


def activate(kind: str, *hidden: Tensor) -> Tensor:
    """What stands between the maps: GELU (tanh form, as in GPT-2), squared ReLU (So et al. 2021) or SwiGLU of two."""
    if kind == "swiglu":
        return swiglu(*hidden)
    (up,) = hidden
    return F.relu(up).square() if kind == "relu2" else F.gelu(up, approximate="tanh")
