"""The architectures of transformers that GPT covers: how each calls our knobs and weights.

A family is one entry of the table here. Both directions follow from it, and so does the refusal: a configuration that
does not come back the same from a family's own words is not expressible there, and what differs is the knob to name.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from llm.errors import UserError
from llm.interop.rope import read_rope, write_rope
from llm.interop.weight_names import GPT2, LLAMA, MIXTRAL, QWEN3, QWEN3_MOE, STARCODER2, WeightNames
from llm.model import ConfigError, GPTConfig

# Fields that say how a model is trained: no weight and no logit depends on them.
TRAINING_ONLY = ("dropout", "init", "zero_init_residual", "zero_init_head")

# Keys of some config.json that change what a model computes and that no family here has, with the value that does not.
NEUTRAL: dict[str, Any] = {
    "partial_rotary_factor": 1.0,
    "rotary_pct": 1.0,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": None,
    "clip_qkv": None,
    "no_rope_layers": None,
    "num_local_experts": None,
    "num_experts": None,
    "quantization_config": None,
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture of transformers.

    Attributes:
        model_type, architecture: as in its config.json.
        keys: our field -> its key.
        defaults: values of keys that a config.json may leave out; None lets GPTConfig derive the field.
        fixed: our fields in which it leaves no choice.
        constants: its keys in which we leave no choice.
        aliases: other names of its keys, which some versions write.
        twins: its keys that we can only have with the same value as another one.
        window: how it asks for a sliding window: never, by one key, or by a key and a switch with exceptions by layer.
        dropout_keys: its keys for what is one `dropout` here.
        divisible: d_model must be a multiple of n_heads, whatever head_dim is.
        weights: how it calls the weights.
    """

    model_type: str
    architecture: str
    keys: dict[str, str]
    defaults: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    window: Literal["never", "plain", "switched"] = "never"
    dropout_keys: tuple[str, ...] = ()
    divisible: bool = False
    weights: WeightNames

    def read(self, values: dict[str, Any]) -> GPTConfig:
        """The shape that a config.json of this family describes; UserError names the knob that we do not have."""
        values = {self.aliases.get(key, key): value for key, value in values.items()}
        neutral_here = {key: neutral for key, neutral in NEUTRAL.items() if key not in self.keys.values()}
        for key, neutral in {**neutral_here, **self.constants}.items():
            wanted = neutral if isinstance(neutral, tuple) else (neutral,)
            if values.get(key) is not None and values[key] not in wanted:
                raise UserError(f"its {key} is {_short(values[key])}, and our model can only have {_short(wanted[0])}")
        for key, other in self.twins.items():
            one, two = (values.get(name, self.defaults.get(name)) for name in (key, other))
            if one != two:
                raise UserError(f"its {key} is {one!r} and its {other} {two!r}: our model can only have both the same")
        fields: dict[str, Any] = dict(self.fixed)
        for name, key in self.keys.items():
            value = values.get(key)
            if value is None:
                if key not in self.defaults:
                    raise UserError(f"it gives no {key}")
                value = self.defaults[key]
            fields[name] = float(value) if name == "norm_eps" else value
        if self.window != "never":
            fields["sliding_window"] = self._read_window(values)
        if fields["position"] == "rope":
            fields.update(read_rope(values))
        try:
            return GPTConfig(**{name: value for name, value in fields.items() if value is not None})
        except ConfigError as error:
            raise UserError(str(error)) from error

    def _read_window(self, values: dict[str, Any]) -> int | None:
        window: int | None = values.get("sliding_window", self.defaults["sliding_window"])
        if self.window == "plain":
            return window
        if not values.get("use_sliding_window"):
            window = None
        types = values.get("layer_types")
        if types is None:
            n_layers = values[self.keys["n_layers"]]
            full = min(n_layers, values.get("max_window_layers", self.defaults["max_window_layers"]))
            types = ["full_attention"] * full + ["sliding_attention"] * (n_layers - full)
            if window is None:
                return None
        if set(types) == {"full_attention"}:
            return None
        if set(types) == {"sliding_attention"} and window is not None:
            return window
        raise UserError("its layer_types differ from layer to layer, and our sliding_window is that of every layer")

    def write(self, config: GPTConfig) -> dict[str, Any]:
        """The config.json of `config`, as far as this family has words for it (see `inexpressible`)."""
        values: dict[str, Any] = {"architectures": [self.architecture], "model_type": self.model_type}
        values |= {key: value[0] if isinstance(value, tuple) else value for key, value in self.constants.items()}
        values |= {key: getattr(config, name) for name, key in self.keys.items()}
        values |= {key: values[other] for key, other in self.twins.items()}
        if self.window != "never":
            values["sliding_window"] = config.sliding_window
        if self.window == "switched":
            values["use_sliding_window"] = config.sliding_window is not None
            values["max_window_layers"] = 0 if config.sliding_window is not None else config.n_layers
        values |= dict.fromkeys(self.dropout_keys, config.dropout)
        return values | (write_rope(config) if config.position == "rope" else {})

    def inexpressible(self, config: GPTConfig) -> list[str]:
        """The fields of `config` that this family cannot have as they are."""
        try:
            back = self.read(self.write(config)).to_dict()
        except UserError:
            back = {}
        wanted = config.to_dict()
        differing = [name for name, value in wanted.items() if name not in TRAINING_ONLY and back.get(name) != value]
        if self.divisible and config.d_model % config.n_heads:
            differing.append("head_dim")
        return differing


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_SIZES = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "d_ff": "intermediate_size",
    "tie_embeddings": "tie_word_embeddings",
}
_LLAMA_KEYS = {**_SIZES, "norm_eps": "rms_norm_eps"}
_LLAMA_DEFAULTS = {
    "num_key_value_heads": None,
    "head_dim": None,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
}
_LLAMA_FIXED = {"position": "rope", "norm": "rmsnorm", "feedforward": "swiglu", "logit_soft_cap": None}
_SOFTMAX_EXPERTS = {"router": "softmax", "d_shared": 0, "bias": False, "qkv_bias": False}
_SILU = {"hidden_act": ("silu", "swish")}
_TANH_GELU = ("gelu_pytorch_tanh", "gelu_new")

FAMILIES = (
    Family(  # Llama 1 to 3, SmolLM and SmolLM 2, TinyLlama, ...
        model_type="llama",
        architecture="LlamaForCausalLM",
        keys={**_LLAMA_KEYS, "bias": "attention_bias"},
        defaults={**_LLAMA_DEFAULTS, "attention_bias": False, "mlp_bias": False},
        fixed={**_LLAMA_FIXED, "qk_norm": False, "sliding_window": None},
        constants=_SILU,
        twins={"mlp_bias": "attention_bias"},
        divisible=True,
        weights=LLAMA,
    ),
    Family(
        model_type="mistral",
        architecture="MistralForCausalLM",
        keys=_LLAMA_KEYS,
        defaults={**_LLAMA_DEFAULTS, "num_key_value_heads": 8, "sliding_window": 4096},
        fixed={**_LLAMA_FIXED, "qk_norm": False, "bias": False, "qkv_bias": False},
        constants=_SILU,
        window="plain",
        weights=LLAMA,
    ),
    Family(
        model_type="qwen2",
        architecture="Qwen2ForCausalLM",
        keys=_LLAMA_KEYS,
        defaults={**_LLAMA_DEFAULTS, "sliding_window": 4096, "max_window_layers": 28},
        fixed={**_LLAMA_FIXED, "qk_norm": False, "bias": False, "qkv_bias": True},
        constants=_SILU,
        window="switched",
        weights=LLAMA,
    ),
    Family(
        model_type="qwen3",
        architecture="Qwen3ForCausalLM",
        keys=_LLAMA_KEYS,
        defaults={**_LLAMA_DEFAULTS, "head_dim": 128, "sliding_window": 4096, "max_window_layers": 28},
        fixed={**_LLAMA_FIXED, "qk_norm": True, "bias": False, "qkv_bias": False},
        constants={**_SILU, "attention_bias": False},
        window="switched",
        weights=QWEN3,
    ),
    Family(
        model_type="mixtral",
        architecture="MixtralForCausalLM",
        keys={**_LLAMA_KEYS, "n_experts": "num_local_experts", "n_active_experts": "num_experts_per_tok"},
        defaults={**_LLAMA_DEFAULTS, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "sliding_window": None}
        | {"num_local_experts": 8, "num_experts_per_tok": 2},
        fixed={**_LLAMA_FIXED, **_SOFTMAX_EXPERTS, "normalize_routing": True, "qk_norm": False},
        constants=_SILU,
        window="plain",
        weights=MIXTRAL,
    ),
    Family(
        model_type="qwen3_moe",
        architecture="Qwen3MoeForCausalLM",
        keys={
            **_LLAMA_KEYS,
            "n_experts": "num_experts",
            "n_active_experts": "num_experts_per_tok",
            "d_expert": "moe_intermediate_size",
            "normalize_routing": "norm_topk_prob",
        },
        defaults={**_LLAMA_DEFAULTS, "num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8}
        | {"moe_intermediate_size": 768, "norm_topk_prob": False},
        fixed={**_LLAMA_FIXED, **_SOFTMAX_EXPERTS, "qk_norm": True, "sliding_window": None},
        constants={**_SILU, "attention_bias": False, "use_sliding_window": False}
        | {"decoder_sparse_step": 1, "mlp_only_layers": []},
        aliases={"num_local_experts": "num_experts"},
        weights=QWEN3_MOE,
    ),
    Family(
        model_type="starcoder2",
        architecture="Starcoder2ForCausalLM",
        keys={**_SIZES, "norm_eps": "norm_epsilon"},
        defaults={
            "num_key_value_heads": 2,
            "head_dim": None,
            "tie_word_embeddings": True,
            "norm_epsilon": 1e-5,
            "sliding_window": None,
        },
        fixed={
            "position": "rope",
            "norm": "layernorm",
            "feedforward": "gelu",
            "qk_norm": False,
            "bias": True,
            "qkv_bias": True,
            "logit_soft_cap": None,
        },
        constants={"hidden_act": _TANH_GELU, "use_bias": True},
        window="plain",
        dropout_keys=("residual_dropout", "embedding_dropout", "attention_dropout"),
        weights=STARCODER2,
    ),
    Family(
        model_type="gpt2",
        architecture="GPT2LMHeadModel",
        keys={
            "vocab_size": "vocab_size",
            "context_length": "n_positions",
            "n_layers": "n_layer",
            "d_model": "n_embd",
            "n_heads": "n_head",
            "d_ff": "n_inner",
            "norm_eps": "layer_norm_epsilon",
            "tie_embeddings": "tie_word_embeddings",
        },
        defaults={"n_inner": None, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
        fixed={
            "position": "learned",
            "norm": "layernorm",
            "feedforward": "gelu",
            "qk_norm": False,
            "bias": True,
            "qkv_bias": True,
            "logit_soft_cap": None,
            "sliding_window": None,
        },
        constants={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
        dropout_keys=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        weights=GPT2,
    ),
)


def family_of(values: dict[str, Any]) -> Family:
    """The family that a config.json names; UserError where we have none of that name."""
    architectures = values.get("architectures") or []
    for family in FAMILIES:
        if family.architecture in architectures or (
            not architectures and family.model_type == values.get("model_type")
        ):
            return family
    named = ", ".join(map(str, architectures)) or f"model_type {values.get('model_type')!r}"
    known = ", ".join(family.architecture for family in FAMILIES)
    raise UserError(f"its architecture is {named}, and known are {known}")


def expressing(config: GPTConfig) -> Family:
    """The first family that has words for all of `config`; UserError names what the nearest one cannot have."""
    lacking = {family.architecture: family.inexpressible(config) for family in FAMILIES}
    for family in FAMILIES:
        if not lacking[family.architecture]:
            return family
    nearest = min(lacking, key=lambda name: len(lacking[name]))
    knobs = ", ".join(f"{name} {_short(getattr(config, name))}" for name in dict.fromkeys(lacking[nearest]))
    raise UserError(
        f"no architecture of transformers can have all of this model: {nearest}, the nearest, has no {knobs}; "
        "train a model without it to export one"
    )


def grown(config: GPTConfig, vocab_size: int) -> GPTConfig:
    """`config` with another vocabulary."""
    return dataclasses.replace(config, vocab_size=vocab_size)
