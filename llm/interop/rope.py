"""RoPE's settings in the words of transformers, the older ones (rope_theta, rope_scaling) and those of version 5."""

from typing import Any

from llm.errors import UserError
from llm.model import ConfigError, GPTConfig
from llm.model.rope_scaling import RopeScaling

_TYPES = ("linear", "dynamic", "yarn", "llama3")
# Of our RopeScaling -> their name; what a type does not use is left out on the way there.
_NAMES = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "truncate": "truncate",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
}
_USED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (
        "factor",
        "original_context_length",
        "beta_fast",
        "beta_slow",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "llama3": ("factor", "original_context_length", "low_freq_factor", "high_freq_factor"),
}


def read_rope(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of GPTConfig that a config.json says of RoPE; UserError for a scaling that we do not have."""
    scaling = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(scaling, dict) or any(isinstance(value, dict) for value in scaling.values()):
        raise UserError("its rope_parameters differ from layer to layer, and ours are those of every layer")
    theta = scaling.get("rope_theta", values.get("rope_theta"))
    fields: dict[str, Any] = {"rope_theta": float(10_000.0 if theta is None else theta)}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    partial = scaling.get("partial_rotary_factor", 1.0)
    if partial != 1.0:
        raise UserError(f"its partial_rotary_factor is {partial}, and our RoPE turns the whole head")
    if kind == "default":
        return fields
    if kind not in _TYPES:
        raise UserError(f"its rope_type is {kind!r}, and known are {', '.join(('default', *_TYPES))}")
    given = {name: scaling[theirs] for name, theirs in _NAMES.items() if scaling.get(theirs) is not None}
    given = {name: value for name, value in given.items() if name in _USED[kind]}
    context = values.get("max_position_embeddings")
    if kind == "dynamic":
        # There the context that a model was trained on is the whole of it, and longer texts are read all the same.
        given["original_context_length"] = context
        if context is not None and "factor" in given:
            fields["context_length"] = int(context * given["factor"])
    elif kind != "linear":
        given.setdefault("original_context_length", context)
    try:
        fields["rope_scaling"] = RopeScaling.from_dict({"type": kind, **given})
    except ConfigError as error:
        raise UserError(str(error)) from error
    return fields


def write_rope(config: GPTConfig) -> dict[str, Any]:
    """The same for a config.json, in the older words, which every version of transformers, vLLM and llama.cpp reads."""
    values: dict[str, Any] = {"rope_theta": config.rope_theta}
    scaling = config.rope_scaling
    if scaling is None:
        return values
    told = {_NAMES[name]: getattr(scaling, name) for name in _USED[scaling.type]}
    values["rope_scaling"] = {"rope_type": scaling.type, **{k: v for k, v in told.items() if v is not None}}
    if scaling.type == "dynamic":
        values["max_position_embeddings"] = scaling.original_context_length
    return values
