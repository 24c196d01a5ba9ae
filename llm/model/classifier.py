"""A head that classifies texts, in place of the one that predicts the next token."""

from typing import Literal

import torch
from torch import Tensor, nn

from llm.model.gpt import GPT

Pooling = Literal["last", "mean"]


class ClassificationHead(nn.Module):
    """One vector of a whole text, and a linear map of it to the classes (Radford et al. 2018, GPT, section 3.2).

    Its weights start at zero: all classes are equally likely at first, and the first steps do not shake the model.

    Args:
        d_model: width of the model.
        n_classes: of the texts.
        pooling: the text's vector is that of its `last` token, the only one that has seen all of it, or the `mean`.
    """

    def __init__(self, d_model: int, n_classes: int, pooling: Pooling = "last") -> None:
        super().__init__()
        self.pooling = pooling
        self.weight = nn.Parameter(torch.zeros(n_classes, d_model))
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Logits [B, C] of what the model made of padded texts, [B, T, d_model], of so many real tokens, int64 [B].

        What stands behind a text's last token has no influence (B20: a classifier that reads the last position of a
        padded row reads padding).
        """
        last = lengths - 1
        if self.pooling == "last":
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), last]
        else:
            real = torch.arange(hidden.shape[1], device=hidden.device) <= last[:, None]  # B T
            pooled = (hidden * real[..., None]).sum(1) / lengths[:, None]
        return nn.functional.linear(pooled.to(self.weight.dtype), self.weight, self.bias)


def classify(model: GPT, head: ClassificationHead, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Logits [B, C] of texts: tokens int64 [B, T] padded on the right, lengths int64 [B]."""
    logits: Tensor = head(model.hidden(tokens), lengths)
    return logits
