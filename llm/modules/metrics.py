"""Metrics whose value does not depend on how the text was cut into batches."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

# Sums over millions of tokens need float64; Apple's MPS does not have it.
_SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64


class BitsPerByte(Metric):
    """Loss per target token, and bits per byte of raw text, from exact sums.

    Bits per byte compares across tokenizers, because its denominator is the text and not the tokens: the negative
    log-likelihood (nats) of the tokens that stand for text, divided by ln 2 and by the number of raw bytes that they
    stand for. Special tokens stand for no text, so they count in neither sum. Sums are kept and reduced over ranks,
    never means: batch size, padding and the number of ranks do not change the result.

    Args:
        token_bytes: int64 [V], raw bytes that each token stands for; 0 for special tokens.
    """

    full_state_update = False
    nll: Tensor
    targets: Tensor
    text_nll: Tensor
    text_bytes: Tensor
    token_bytes: Tensor

    def __init__(self, token_bytes: Tensor) -> None:
        super().__init__()
        self.register_buffer("token_bytes", token_bytes, persistent=False)
        for name in ("nll", "text_nll"):
            self.add_state(name, torch.zeros((), dtype=_SUM_DTYPE), dist_reduce_fx="sum")
        for name in ("targets", "text_bytes"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, token_nll: Tensor, targets: Tensor) -> None:
        """Add a batch: `token_nll` float [B, T] in nats, 0 where `targets` int64 [B, T] is -100."""
        real = targets >= 0
        bytes_ = torch.where(real, self.token_bytes[targets.clamp(min=0)], 0)
        self.nll += token_nll.sum(dtype=_SUM_DTYPE)
        self.targets += real.sum()
        self.text_nll += torch.where(bytes_ > 0, token_nll, 0.0).sum(dtype=_SUM_DTYPE)
        self.text_bytes += bytes_.sum()

    def compute(self) -> dict[str, Tensor]:
        """`loss`: nats per target token; `bpb`: bits per raw byte of text. NaN where nothing was seen."""
        return {
            "loss": (self.nll / self.targets).float(),
            "bpb": (self.text_nll / (math.log(2) * self.text_bytes)).float(),
        }
