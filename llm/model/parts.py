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


def fill_part(part: Tensor, whole: Tensor) -> None:
    """Overwrite what this process holds of a parameter by its part of `whole`, which all processes hold."""
    local = part.to_local() if isinstance(part, DTensor) else part
    local.copy_(part_of(whole, part))
