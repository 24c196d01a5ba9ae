"""What one process holds of a tensor that is cut over several (DTensor)."""

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of a `whole` tensor that all hold, cut as `like` is; nothing is sent."""
    if not isinstance(like, DTensor):
        return whole
    mesh = like.device_mesh
    replicated = DTensor.from_local(whole.contiguous(), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(mesh, like.placements).to_local()
