"""An adapter as a folder that PEFT opens beside the exported model, and the adapter that such a folder holds.

Written by ourselves: peft takes seconds to import, and is needed for nothing here. Its files speak of the maps of the
architecture that the model is exported as. Where one of theirs holds several of ours (query, key and value of GPT-2),
their A is ours one above the other and their B has ours along its diagonal: a higher rank, and the same sum.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm.errors import UserError
from llm.interop.families import Family, expressing
from llm.interop.huggingface import DTYPES
from llm.interop.output import new_folder
from llm.interop.peft_settings import CONFIG_FILE, rank_and_scale, read_settings, write_settings
from llm.model import GPTConfig
from llm.model.adapters import adapter_shapes
from llm.model.lora import LoRA

FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_KINDS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}


class _Module(NamedTuple):
    """A map of theirs: which of ours it holds, one above the other, and their sizes."""

    ours: tuple[str, ...]
    rows: list[int]
    columns: int


class _Part(NamedTuple):
    """What a file says of one map of ours: weights of a rank of their own, and the scale of B A."""

    a: Tensor
    b: Tensor
    magnitude: Tensor | None
    scale: float


def write_adapter(
    output: Path,
    config: GPTConfig,
    lora: LoRA,
    weights: Mapping[str, Tensor],
    base_name: str | None = None,
    *,
    dtype: str = "f32",
) -> dict[str, Any]:
    """Write an adapter as a folder for `peft.PeftModel.from_pretrained`; it is read back before it gets its name.

    Args:
        output: a folder that is not there yet, or an empty one.
        config: of the model that it adapts.
        lora: its settings.
        weights: by the names of `adapter_weights`, of any device.
        base_name: the folder or the repository of the exported model, which PEFT opens where it is given none.
        dtype: of the numbers in the file: `f32`, `f16` or `bf16`.

    Returns:
        The `architecture` that it goes with, the size in `bytes`, and what was `verified`, in words.

    Raises:
        UserError: for a model or an adapter that PEFT's format has no words for, and for an output that cannot be
            written or is not empty.
    """
    family = expressing(config)
    own = {name: weights[name].detach().to("cpu", DTYPES[dtype]) for name in adapter_shapes(config, lora)}
    if not all(tensor.isfinite().all() for tensor in own.values()):
        raise UserError(f"the adapter's weights are not finite numbers as {dtype}: choose another dtype or checkpoint")
    with new_folder(output) as folder:
        ranks, tensors = _theirs(family, config, lora, own)
        save_file(tensors, folder / FILE, metadata={"format": "pt"})
        values = json.dumps(write_settings(family, lora, ranks, base_name), indent=2)
        (folder / CONFIG_FILE).write_text(values + "\n", encoding="utf-8")
        _demand_same(lora, own, *read_adapter(folder, config))
        size = sum(path.stat().st_size for path in folder.iterdir())
    verified = f"read back, B A of {len(lora.maps(config))} maps are equal"
    return {"architecture": family.architecture, "bytes": size, "verified": verified}


def read_adapter(folder: Path, config: GPTConfig) -> tuple[LoRA, dict[str, Tensor]]:
    """The settings and the weights, float32 by the names of `adapter_weights`, of an adapter for a GPT of `config`.

    Ranks and scales that differ from map to map become one: the lower ranks are filled up with zeros, and B takes what
    a scale differs by. So do maps of ours that the adapter leaves out of a block. What it computes stays the same.

    Raises:
        UserError: one sentence for what cannot be read, is for another model, or asks for what our adapters have not.
    """
    path = folder / CONFIG_FILE
    told, values = read_settings(path)
    parts: dict[str, _Part] = {}
    modules = _modules(expressing(config), config)
    for name, tensors in _read_tensors(folder / FILE, modules).items():
        rank, scale = rank_and_scale(path, values, told, name)
        _check_shapes(folder / FILE, name, tensors, modules[name], told.dora, rank)
        parts |= _split(modules[name], tensors, scale)
    return _joined(folder, config, told, parts)


# ---- their maps and ours --------------------------------------------------------------------------------------------


def _modules(family: Family, config: GPTConfig) -> dict[str, _Module]:
    """The maps inside the blocks by the family's names."""
    shapes = adapter_shapes(config, LoRA(rank=1))
    modules: dict[str, _Module] = {}
    for stored in family.weights.stored(config):
        ours = tuple(name.removesuffix(".weight") for name in stored.ours)
        if f"{ours[0]}.lora_a" in shapes:
            rows = [shapes[f"{name}.lora_b"][0] for name in ours]
            modules[stored.name.removesuffix(".weight")] = _Module(ours, rows, shapes[f"{ours[0]}.lora_a"][1])
    return modules


def _short_name(family: Family, module: str) -> str:
    """The end of a map's name by which PEFT finds it in every block, and no other map."""
    *_, half, last = module.split(".")
    alike = [name for name in family.weights.names if name.rpartition(".")[2] == last]
    return last if len(alike) == 1 else f"{half}.{last}"


# ---- on the way there -----------------------------------------------------------------------------------------------


def _theirs(
    family: Family, config: GPTConfig, lora: LoRA, own: dict[str, Tensor]
) -> tuple[dict[str, int], dict[str, Tensor]]:
    """The rank of each map that the adapter has, by its short name, and the tensors of the file."""
    ranks: dict[str, int] = {}
    tensors: dict[str, Tensor] = {}
    for name, module in _modules(family, config).items():
        adapted = [mine for mine in module.ours if f"{mine}.lora_a" in own]
        if not adapted:
            continue
        if lora.dora and len(adapted) < len(module.ours):
            given, whole = (", ".join(mine.rpartition(".")[2] for mine in part) for part in (adapted, module.ours))
            raise UserError(
                f"{family.architecture} has {whole} as one map, and the lengths that DoRA learns of {given} alone "
                "cannot be written for it: merge the adapter into the model, or train one of all three"
            )
        a = torch.cat([own[f"{mine}.lora_a"] for mine in adapted])
        blocks = [
            own[f"{mine}.lora_b"] if mine in adapted else a.new_zeros(rows, 0)
            for mine, rows in zip(module.ours, module.rows, strict=True)
        ]
        told = {"lora_a": a, "lora_b": torch.block_diag(*blocks)}
        if lora.dora:
            told["magnitude"] = torch.cat([own[f"{mine}.magnitude"] for mine in adapted])
        ranks[_short_name(family, name)] = len(a)
        tensors |= {f"{_PREFIX}{name}.{_KINDS[kind]}": tensor.contiguous() for kind, tensor in told.items()}
    return ranks, tensors


def _demand_same(lora: LoRA, own: dict[str, Tensor], back: LoRA, weights: dict[str, Tensor]) -> None:
    """UserError where what was read back computes something else."""
    for name, tensor in own.items():
        place, _, kind = name.rpartition(".")
        if kind == "lora_a":
            wanted = lora.scale * own[f"{place}.lora_b"].float() @ tensor.float()
            zeros = torch.zeros(1, dtype=wanted.dtype)  # what has no part in it may be left out
            b, a = (weights.get(f"{place}.{kind}", zeros) for kind in ("lora_b", "lora_a"))
            same = torch.allclose(back.scale * (b @ a), wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))
        else:
            same = kind != "magnitude" or torch.equal(weights[name], tensor.float())
        if not same:
            raise UserError(
                f"{name} was written and read back as something else: nothing was kept; this is a fault of Labyrinth, "
                "please report it"
            )


# ---- on the way back ------------------------------------------------------------------------------------------------


def _read_tensors(path: Path, modules: dict[str, _Module]) -> dict[str, dict[str, Tensor]]:
    """The file's tensors by the map and the kind."""
    if not path.is_file():
        pickled = path.with_name("adapter_model.bin").is_file()
        raise UserError(
            f"{path.parent} holds the weights as a pickle file, which can run any program when it is opened: get them "
            "as safetensors"
            if pickled
            else f"{path.parent} holds no {FILE}: give the folder of an adapter of PEFT"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a whole safetensors file ({reason}): download it again") from error
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind = next((mine for mine, theirs in _KINDS.items() if name.endswith(f".{theirs}")), None)
        module = "" if kind is None else name.removeprefix(_PREFIX).removesuffix(f".{_KINDS[kind]}")
        if kind is None or module not in modules:
            raise UserError(f"{path} holds {name}, for which an adapter of this model has no place")
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise UserError(f"{path}: {name} holds other than finite numbers, so the adapter is of no use")
        found.setdefault(module, {})[kind] = tensor.float()
    if not found:
        raise UserError(f"{path} holds no tensors")
    return found


def _check_shapes(path: Path, name: str, tensors: dict[str, Tensor], module: _Module, dora: bool, rank: int) -> None:
    wanted: dict[str, list[int]] = {"lora_a": [rank, module.columns], "lora_b": [sum(module.rows), rank]}
    if dora:
        wanted["magnitude"] = [sum(module.rows)]
    for kind in (*wanted, *tensors):
        full = f"{_PREFIX}{name}.{_KINDS[kind]}"
        if kind not in tensors:
            raise UserError(f"{path} lacks {full}, which {CONFIG_FILE} asks for")
        if kind not in wanted:
            raise UserError(f"{path} holds {full}, but {CONFIG_FILE} says nothing of DoRA")
        if list(tensors[kind].shape) != wanted[kind]:
            raise UserError(
                f"{path}: {full} has the shape {list(tensors[kind].shape)}, and the model with {CONFIG_FILE} makes it "
                f"{wanted[kind]}: the adapter belongs to another model"
            )


def _split(module: _Module, tensors: dict[str, Tensor], scale: float) -> dict[str, _Part]:
    """Ours of one of theirs. Of a map that holds several, each keeps those directions alone that its B uses."""
    a, whole, magnitude = tensors["lora_a"], tensors["lora_b"], tensors.get("magnitude")
    lengths = [None] * len(module.rows) if magnitude is None else list(magnitude.split(module.rows))
    parts: dict[str, _Part] = {}
    for mine, b, length in zip(module.ours, whole.split(module.rows), lengths, strict=True):
        used = b.any(0) if len(module.ours) > 1 and whole.any() else torch.ones(len(a), dtype=torch.bool)
        parts[mine] = _Part(a[used], b[:, used], length, scale)
    return parts


def _joined(folder: Path, config: GPTConfig, told: LoRA, parts: dict[str, _Part]) -> tuple[LoRA, dict[str, Tensor]]:
    """One adapter of one rank and one scale."""
    rank = max(1, *(len(part.a) for part in parts.values()))
    alpha = told.alpha if rank == told.rank else told.scale * (rank**0.5 if told.rslora else rank)
    targets = {name.rpartition(".")[2] for name, part in parts.items() if len(part.a) or told.dora}
    lora = LoRA(rank, alpha, told.dropout, tuple(targets), told.rslora, told.dora)
    shapes = adapter_shapes(config, lora)
    weights: dict[str, Tensor] = {}
    for place in lora.maps(config):
        part = parts.get(place)
        if part is None and lora.dora:
            raise UserError(
                f"{folder} has DoRA for some blocks alone, and lacks it for {place}: ours are of every block"
            )
        if part is None:
            part = _Part(
                torch.zeros(0, shapes[f"{place}.lora_a"][1]), torch.zeros(shapes[f"{place}.lora_b"][0], 0), None, 0
            )
        lacking = rank - len(part.a)
        weights[f"{place}.lora_a"] = F.pad(part.a, (0, 0, 0, lacking))
        weights[f"{place}.lora_b"] = F.pad(part.b, (0, lacking)) * (part.scale / told.scale)
        if part.magnitude is not None:
            weights[f"{place}.magnitude"] = part.magnitude.clone()
    return lora, weights
