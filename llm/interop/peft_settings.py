"""The settings of an adapter in the words of PEFT: its adapter_config.json."""

import json
import re
from pathlib import Path
from typing import Any

from llm.errors import UserError
from llm.interop.families import Family
from llm.model import ConfigError
from llm.model.lora import LoRA

CONFIG_FILE = "adapter_config.json"

# Keys of an adapter_config.json that are read, or that say nothing of what an adapter computes: which maps it has,
# the tensors tell. Every other one asks for something that ours are not, unless it is null, false or empty.
_KNOWN = {
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "fan_in_fan_out",
    "base_model_name_or_path",
    "revision",
    "task_type",
    "inference_mode",
    "peft_version",
    "auto_mapping",
    "megatron_core",
    "qalora_group_size",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "ensure_weight_tying",
    "runtime_config",
    "bias",
    "init_lora_weights",
}
# Other ways to start (PiSSA, OLoRA, ...) change the weights of the base as well.
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}


def write_settings(family: Family, lora: LoRA, ranks: dict[str, int], base_name: str | None) -> dict[str, Any]:
    """The adapter_config.json of an adapter.

    Args:
        family: of the exported model.
        lora: its settings.
        ranks: of each map that it has, by the end of its name.
        base_name: the folder or the repository of that model.
    """
    higher = {name: rank for name, rank in ranks.items() if rank != lora.rank}
    alphas = {name: lora.scale * (rank**0.5 if lora.rslora else rank) for name, rank in higher.items()}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": _short_number(lora.alpha),
        "lora_dropout": lora.dropout,
        "target_modules": sorted(ranks),
        "rank_pattern": higher,
        "alpha_pattern": {name: _short_number(alpha) for name, alpha in alphas.items()},
        "use_rslora": lora.rslora,
        "use_dora": lora.dora,
        "fan_in_fan_out": family.weights.transposed,
        "bias": "none",
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _short_number(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def read_settings(path: Path) -> tuple[LoRA, dict[str, Any]]:
    """What an adapter_config.json says of all maps, and its keys; UserError for what ours are not."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path.parent} holds no {CONFIG_FILE}: give the folder of an adapter of PEFT") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no keys with values")
    for key, value in values.items():
        if (key in _ALLOWED and value not in _ALLOWED[key]) or (key not in _KNOWN and value):
            text = repr(value)
            text = text if len(text) <= 60 else f"{text[:57]}..."
            raise UserError(f"{path}: its {key} is {text}, and our adapters have nothing like it")
    try:
        told = LoRA(
            rank=values.get("r", 8),
            alpha=values.get("lora_alpha", 8),
            dropout=values.get("lora_dropout") or 0.0,
            rslora=bool(values.get("use_rslora")),
            dora=bool(values.get("use_dora")),
        )
    except ConfigError as error:
        raise UserError(f"{path}: {error}") from error
    return told, values


def rank_and_scale(path: Path, values: dict[str, Any], told: LoRA, module: str) -> tuple[int, float]:
    """Of one map: those of all, or those of a pattern that its name ends in."""
    try:
        found: list[Any] = [
            next((v for k, v in (values.get(key) or {}).items() if re.match(rf"(.*\.)?({k})$", module)), default)
            for key, default in (("rank_pattern", told.rank), ("alpha_pattern", told.alpha))
        ]
        own = LoRA(rank=found[0], alpha=found[1], rslora=told.rslora)
    except (ConfigError, AttributeError, re.error) as error:
        raise UserError(f"{path}: its rank_pattern or alpha_pattern cannot be used ({error})") from error
    return own.rank, own.scale
