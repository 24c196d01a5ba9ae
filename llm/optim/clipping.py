"""The norm of all gradients together, and clipping by it, also where parameters are sharded over processes."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from llm.optim.sharding import local


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients as one vector, a float32 scalar: that of one process, on every rank.

    What is sharded is summed once over the processes that share it, along each dimension of its own mesh; what all hold
    (ddp, replicated along a dimension of the mesh) counts once. All processes must call.

    Args:
        gradients: plain tensors or DTensors, which may lie on different meshes, as under FSDP2 with tensor parallel.
    """
    groups: defaultdict[tuple[object, ...], list[Tensor]] = defaultdict(list)
    for gradient in gradients:
        groups[_summed_over(gradient)].append(_without_partial_sums(gradient))
    norms = [_of_one_kind([local(g) for g in group], dimensions) for dimensions, group in groups.items()]
    if not norms:
        return torch.zeros(())
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def clip_by_norm(gradients: Sequence[Tensor], norm: Tensor, most: float) -> None:
    """Scale gradients whose total `norm` is above `most` down to it; where it is not finite they stay as they are.

    As `torch.nn.utils.clip_grad_norm_`, without a wait for the device.
    """
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    _multiply(gradients, torch.where(norm.isfinite(), factor, 1.0))


def clip_by_value(gradients: Sequence[Tensor], most: float) -> None:
    """Bound every number of the gradients by `most` from above and by its negative from below."""
    parts = [local(g) for g in gradients]
    if parts:
        torch._foreach_clamp_min_(parts, -most)
        torch._foreach_clamp_max_(parts, most)


def _of_one_kind(parts: list[Tensor], dimensions: tuple[object, ...]) -> Tensor:
    """The norm of tensors that are summed over the same processes."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(parts, 2, dtype=torch.float32)))
    if not dimensions:
        return norm
    mesh, *places = dimensions
    square = norm.square()
    for place in places:
        dist.all_reduce(square, group=mesh.get_group(place))  # type: ignore[attr-defined]
    return square.sqrt()


def _summed_over(gradient: Tensor) -> tuple[object, ...]:
    """The mesh and its dimensions along which processes hold different parts; () where each holds all."""
    if not isinstance(gradient, DTensor):
        return ()
    sharded = [place for place, how in enumerate(gradient.placements) if how.is_shard() or _is_strided(how)]
    return (gradient.device_mesh, *sharded) if sharded else ()


def _without_partial_sums(gradient: Tensor) -> Tensor:
    """Add up what processes hold as terms of a sum, whose norm cannot be had from the terms'."""
    if not isinstance(gradient, DTensor) or not any(how.is_partial() for how in gradient.placements):
        return gradient
    placements = [Replicate() if how.is_partial() else how for how in gradient.placements]
    return gradient.redistribute(gradient.device_mesh, placements)


def _is_strided(placement: object) -> bool:
    return type(placement).__name__ == "_StridedShard"  # FSDP2 over tensor parallel, in versions where it is no Shard


def _multiply(gradients: Sequence[Tensor], factor: Tensor) -> None:
    parts = [local(g) for g in gradients]
    if parts:
        torch._foreach_mul_(parts, factor)
