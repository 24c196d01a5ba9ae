"""Whole and part of a parameter that is sharded over processes (DTensor, as FSDP2 makes them).

An optimizer that works element by element needs its own part alone; one that looks at whole matrices gathers them.
"""

from torch import Tensor
from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a part of it."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, without a copy: all of it where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(part: Tensor, like: Tensor) -> Tensor:
    """The whole tensor of which every process gives its `part`, sharded as `like` is; all processes must call."""
    if not isinstance(like, DTensor):
        return part
    whole = DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()
    assert isinstance(whole, Tensor)
    return whole
