"""Maps of one input side by side in memory, so that a product for all of them does without a copy of the weights.

A token that is written alone pays for the number of operations, not for their size. `fuse_projections` lays the weights
of query, key and value, and those of gate and up, one behind the other: the parameters stay what they were, each a
view of a part. Training goes on with one product for each (llm/model/functions.py says why).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.functions import rms_norm
from llm.model.position import Angles, rotate


class FusedProjection:
    """One product for several linear maps of the same input, while their weights lie side by side.

    Args:
        maps: all with a bias, or none; their weights and biases are moved.
    """

    def __init__(self, *maps: nn.Linear) -> None:
        self.weight = lay_together([map.weight for map in maps])
        self.places = [map.weight.data_ptr() for map in maps]
        biases = [map.bias for map in maps if map.bias is not None]
        self.bias = lay_together(biases) if biases else None

    def holds(self, *maps: nn.Module) -> bool:
        """Whether these are still the maps, and their weights lie there: casting a model takes them somewhere else."""
        for map, place in zip(maps, self.places, strict=True):
            if type(map) is not nn.Linear or map._parameters["weight"].data_ptr() != place:  # type: ignore[union-attr]
                return False
        return True

    def __call__(self, x: Tensor) -> Tensor:
        """The results side by side: x [..., d_in] → [..., the sum of the widths]."""
        return F.linear(x, self.weight, self.bias)


class FusedHeads(FusedProjection):
    """Query, key and value of all heads in one product; query and key normed and turned as one.

    Args:
        query, key, value: the maps.
        norms: of queries and of keys; none, or both.
        head_dim: dimensions of a head.
        eps: of the norms.
    """

    def __init__(
        self, query: nn.Linear, key: nn.Linear, value: nn.Linear, norms: list[nn.Parameter], head_dim: int, eps: float
    ) -> None:
        super().__init__(query, key, value)
        self.head_dim, self.eps = head_dim, eps
        self.numbers = [map.out_features // head_dim for map in (query, key, value)]
        self.norms = lay_together(norms).view(2, head_dim) if norms else None
        of_queries, of_keys = self.numbers[:2]
        self.norm_of = torch.tensor([0] * of_queries + [1] * of_keys, device=self.weight.device)

    def heads(self, x: Tensor, angles: Angles | None) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value [B, T, H, D] of x [B, T, d_model]."""
        of_queries, of_keys, of_values = self.numbers
        heads = self(x).view(*x.shape[:2], -1, self.head_dim)
        both, value = heads.split([of_queries + of_keys, of_values], 2)
        if self.norms is not None:
            both = rms_norm(both, self.norms[self.norm_of], self.eps)
        if angles is not None:
            both = rotate(both, angles)
        query, key = both.split([of_queries, of_keys], 2)
        return query, key, value


@torch.inference_mode(False)  # tensors made in that mode could never be trained again
@torch.no_grad()
def lay_together(parameters: Sequence[Tensor]) -> Tensor:
    """Make each of `parameters` a view of a part of the tensor that is returned: all of them along dimension 0."""
    together = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, together.split([len(p) for p in parameters]), strict=True):
        parameter.data = part
    return together


def can_fuse(*maps: nn.Module) -> bool:
    """Whether all are plain linear maps with plain tensors; sharded or replaced ones are left as they are."""
    return all(type(map) is nn.Linear and type(map.weight.data) is Tensor for map in maps)


def fuse_projections(model: nn.Module) -> None:
    """Lay the weights of every attention and gated feed-forward of `model` together.

    For a model that is read from: an optimizer or a strategy may count on each parameter having memory of its own, and
    hooks of the maps are not called. No prediction changes, nor does a name or shape in the state dict. The peak is the
    memory of one group more.
    """
    for module in model.modules():
        fuse = getattr(module, "fuse", None)
        if fuse is not None:
            fuse()
