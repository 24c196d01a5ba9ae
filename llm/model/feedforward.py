"""The feed-forward half of a block."""

import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.config import GPTConfig
from llm.model.functions import project, swiglu


class FeedForward(nn.Module):
    """Two linear maps around a non-linearity: GELU (tanh form, as in GPT-2) or squared ReLU (So et al. 2021)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)
        self.squared_relu = config.feedforward == "relu2"

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, T, d_model] to the same shape."""
        hidden = self.up(x)
        hidden = F.relu(hidden).square() if self.squared_relu else F.gelu(hidden, approximate="tanh")
        return self.down(hidden)


class GatedFeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): one linear map opens or closes what the other brings up."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.up = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, T, d_model] to the same shape."""
        return self.down(swiglu(*project(x, self.gate, self.up)))
