"""A family's tensors to ours and back, one tensor at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from llm.errors import UserError
from llm.interop.families import Family
from llm.interop.safetensors_files import DTYPES, Entry, tensors
from llm.interop.weight_names import Stored
from llm.model import GPT, GPTConfig


def read_weights(
    family: Family, config: GPTConfig, entries: dict[str, Entry], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The weights of a GPT of `config` by our names, all of `dtype` (None: the widest of the files).

    What the headers show is checked before anything is read, and then one tensor is read after the other: the model and
    one tensor of its file is all that is ever in memory.

    Raises:
        UserError: a weight is missing, unknown, of another shape, of integers, or not finite.
    """
    stored = {part.name: part for part in family.weights.stored(config)}
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in GPT(config).state_dict().items()}
    entries = _known(family, config, stored, entries)
    for name, entry in entries.items():
        part = stored[family.weights.full_name(name)]
        wanted = part.join([torch.empty(shapes[mine], device="meta") for mine in part.ours]).shape
        if entry.shape != tuple(wanted):
            raise UserError(
                f"{entry.path}: {name} has the shape {list(entry.shape)}, and config.json makes it {list(wanted)}"
            )
    widest = _widest(entries)
    dtype = widest if dtype is None else dtype
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors(entries):
        if not tensor.isfinite().all():
            raise UserError(f"{entries[name].path}: {name} holds NaN or infinite numbers, so the model is of no use")
        part = stored[family.weights.full_name(name)]
        if part.expert is not None:
            (mine,) = part.ours
            if mine not in weights:
                weights[mine] = torch.empty(shapes[mine], dtype=dtype)
            weights[mine][part.expert] = tensor
            continue
        rows = [shapes[mine][0] for mine in part.ours]
        weights |= zip(part.ours, part.split(tensor.to(dtype), rows), strict=True)
    return {name: weights[name] for name in shapes}


def _known(family: Family, config: GPTConfig, stored: dict[str, Stored], entries: dict[str, Entry]) -> dict[str, Entry]:
    """The entries of the weights that we have; UserError where there is one too many or too few."""
    known: dict[str, Entry] = {}
    for name, entry in entries.items():
        full = family.weights.full_name(name)
        if full in stored:
            known[name] = entry
        elif not full.endswith(family.weights.derived) and not (
            config.tie_embeddings and full == f"{family.weights.head}.weight"
        ):
            raise UserError(f"{entry.path} holds {name}, which our model has no place for as config.json describes it")
    full_names = {family.weights.full_name(name) for name in known}
    missing = [name for name in stored if name not in full_names]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"the weights lack {missing[0]}{more}, which config.json asks for")
    return known


def _widest(entries: dict[str, Entry]) -> torch.dtype:
    widest: torch.dtype | None = None
    for name, entry in entries.items():
        if entry.dtype not in DTYPES:
            raise UserError(f"{entry.path}: {name} holds {entry.dtype} numbers, and known are {', '.join(DTYPES)}")
        dtype = DTYPES[entry.dtype]
        widest = dtype if widest is None else torch.promote_types(widest, dtype)
    assert widest is not None
    return widest


def written_weights(family: Family, config: GPTConfig, weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The family's tensors by its names, each made when it is asked for."""
    for part in family.weights.stored(config):
        yield part.name, part.join([weights[name] for name in part.ours])
