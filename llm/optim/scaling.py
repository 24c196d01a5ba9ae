"""Maximal-update scaling (µP): learning rates that hold at every width.

With `init: fan_in`, whose head starts with std 1/d_model, and heads of one size at every width, these multipliers of
the rate are all that µP asks for (Yang et al. 2022, "Tensor Programs V", arXiv 2203.03466, table 3).
"""

import math
from typing import Literal

from llm.optim.groups import Role


def width_multipliers(ratio: float, method: Literal["muon", "adamw"]) -> dict[Role, float]:
    """The factor of each role's rate in a model that is `ratio` times as wide as the one whose rates they are.

    AdamW moves every entry by about lr, so what a matrix does to its input moves by lr · fan_in: matrices and the head
    get 1/ratio; embeddings, norm weights and biases, which sum over no width, 1 (table 3 of the paper, "Adam LR").

    Muon's step is 0.2 √max(rows, columns) · lr · UVᵀ, with every singular value 0.2 √max(rows, columns) · lr. A step
    must have a spectral norm of order √(rows / columns) (Yang, Simon & Bernstein 2023, "A Spectral Condition for
    Feature Learning", arXiv 2310.17813, condition 1), which does not change when both grow alike, whereas
    √max(rows, columns) grows as √ratio: matrices get 1/√ratio. The head is stepped by AdamW and gets 1/ratio.
    """
    matrix = 1 / math.sqrt(ratio) if method == "muon" else 1 / ratio
    return {"matrix": matrix, "embedding": 1.0, "head": 1 / ratio, "scalar": 1.0}
