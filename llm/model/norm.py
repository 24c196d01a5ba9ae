"""The two norms."""

from torch import Tensor, nn

from llm.model.config import GPTConfig
from llm.model.functions import rms_norm


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm over the last dimension, with a weight (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps=eps)
        self.epsilon = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., size] to the same shape."""
        return rms_norm(x, self.weight, self.epsilon)


def build_norm(config: GPTConfig) -> nn.Module:
    """The norm of the residual stream that `config` asks for."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.d_model, config.norm_eps)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps, bias=config.bias)
