"""GPTConfig: everything that decides the shape and the starting weights of a GPT."""

import dataclasses
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, get_args, get_origin, get_type_hints

from llm.model.errors import ConfigError, nearest
from llm.model.presets import PRESETS
from llm.model.rope_scaling import RopeScaling

# The default of a field that follows from the others: __post_init__ puts the value in, so readers always see an int.
_DERIVED: Any = None
LONGEST_NGRAM = 8  # longer sequences hardly ever come again, and each length takes memory


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape of a decoder-only transformer. Every published family is a setting of these fields.

    Args:
        vocab_size: number of token ids, special tokens included.
        context_length: the longest sequence, in tokens.
        n_layers: number of blocks; each holds one attention and one feed-forward.
        d_model: width of the residual stream.
        n_heads: number of query heads.
        n_kv_heads: number of key and value heads, each shared by n_heads / n_kv_heads query heads (Ainslie et al.
            2023). Default: n_heads.
        head_dim: width of one head. Default: d_model / n_heads.
        d_ff: inner width of the feed-forward. Default: 4 d_model; for swiglu, whose three matrices must share the
            parameters of two, 8/3 d_model rounded up to a multiple of 64 (Shazeer 2020).
        position: `rope` turns queries and keys by their position (Su et al. 2021); `learned` adds a vector a position.
        rope_theta: base of RoPE's wavelengths; larger for longer contexts.
        rope_scaling: how RoPE is stretched beyond the context that a model was trained on (llm/model/rope_scaling.py).
        sliding_window: a token sees itself and the sliding_window - 1 tokens before it, in every layer (Beltagy et al.
            2020; as in Mistral 7B). None: all before it.
        norm: `rmsnorm` (Zhang & Sennrich 2019) or `layernorm`.
        norm_eps: added to the variance by every norm.
        feedforward: `swiglu` (Shazeer 2020), `gelu` (tanh form, as in GPT-2) or `relu2` (So et al. 2021).
        n_experts: number of feed-forwards of which each token goes through some (llm/model/moe.py). 0: one feed-forward
            for all tokens, and no other field about experts.
        n_active_experts: number of experts that each token goes through. Default: 2.
        d_expert: inner width of one expert. Default: d_ff.
        d_shared: inner width of an expert that every token goes through besides (Dai et al. 2024). 0: none.
        router: `sigmoid` scores, with experts balanced by a bias on the choice (Wang et al. 2024), or `softmax` scores,
            with nothing that balances them (as in Mixtral and Qwen3-MoE).
        normalize_routing: the chosen experts' scores are divided by their sum (Qwen3-MoE's norm_topk_prob).
        balancing_rate: how far that bias moves, in each optimizer step, for each expert. Default: 0.001, as Wang et al.
        qk_norm: RMS-normalise each query and key head, with a learned weight, before RoPE (as in Qwen3).
        bias: give every linear map but the head, and LayerNorm, a bias.
        qkv_bias: give the query, key and value maps a bias, whatever the others have (as in Qwen2). Default: `bias`.
        logit_soft_cap: bound the logits smoothly, cap · tanh(logits / cap) (as in Gemma 2).
            None: off.
        bigram_rows: rows of a table that is added to the embedding, looked up by a hash of each token and the one
            before it (llm/model/bigrams.py). 0: none.
        ngram_order: tokens of the longest sequences whose counts in the training text are mixed with what the network
            predicts (llm/model/mixture.py). 0: none.
        tie_embeddings: the head's weight is the embedding's.
        dropout: probability, on the embedding, the attention weights and each residual branch (as in GPT-2).
        init: `gpt2` or `fan_in`; the formulas stand in llm/model/init.py.
        zero_init_residual: start the last matrix of each residual branch at zero, so that blocks begin as identities.
        zero_init_head: start the untied head at zero, so that the first loss is exactly ln(vocab_size).

    Raises:
        ConfigError: the fields contradict each other or are out of range.
    """

    vocab_size: int
    context_length: int
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int = _DERIVED
    head_dim: int = _DERIVED
    d_ff: int = _DERIVED
    position: Literal["rope", "learned"] = "rope"
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_eps: float = 1e-5
    feedforward: Literal["swiglu", "gelu", "relu2"] = "swiglu"
    n_experts: int = 0
    n_active_experts: int = _DERIVED
    d_expert: int = _DERIVED
    d_shared: int = 0
    router: Literal["sigmoid", "softmax"] = "sigmoid"
    normalize_routing: bool = True
    balancing_rate: float = _DERIVED
    qk_norm: bool = False
    bias: bool = False
    qkv_bias: bool = _DERIVED
    logit_soft_cap: float | None = None
    bigram_rows: int = 0
    ngram_order: int = 0
    tie_embeddings: bool = False
    dropout: float = 0.0
    init: Literal["gpt2", "fan_in"] = "fan_in"
    zero_init_residual: bool = False
    zero_init_head: bool = False

    def __post_init__(self) -> None:
        given = {field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None}
        if isinstance(self.rope_scaling, dict):
            object.__setattr__(self, "rope_scaling", RopeScaling.from_dict(self.rope_scaling))
        for name, kind in _FIELD_TYPES.items():
            if name in given:
                _check_type(name, kind, getattr(self, name))
        self._derive()
        self._check_ranges("head_dim" in given)

    def _derive(self) -> None:
        """Put values in the fields that were left out."""
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 - the dataclass is frozen
        if self.n_kv_heads is None:
            put("n_kv_heads", self.n_heads)
        if self.qkv_bias is None:
            put("qkv_bias", self.bias)
        if self.head_dim is None and self.n_heads:
            put("head_dim", self.d_model // self.n_heads)
        if self.d_ff is None:
            put("d_ff", -(-8 * self.d_model // (3 * 64)) * 64 if self.feedforward == "swiglu" else 4 * self.d_model)
        if self.n_active_experts is None:
            put("n_active_experts", 2 if self.n_experts else 0)
        if self.d_expert is None:
            put("d_expert", self.d_ff if self.n_experts else 0)
        if self.balancing_rate is None:
            put("balancing_rate", 0.001 if self.n_experts and self.router == "sigmoid" else 0.0)

    def _check_ranges(self, head_dim_given: bool) -> None:
        for name in (
            "vocab_size",
            "context_length",
            "n_layers",
            "d_model",
            "n_heads",
            "n_kv_heads",
            "head_dim",
            "d_ff",
        ):
            if getattr(self, name) is None or getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("rope_theta", "norm_eps", "logit_soft_cap", "sliding_window"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be above 0")
        if self.bigram_rows < 0:
            raise ConfigError(f"bigram_rows is {self.bigram_rows}: it must be at least 0")
        if self.ngram_order and not 2 <= self.ngram_order <= LONGEST_NGRAM:
            raise ConfigError(f"ngram_order is {self.ngram_order}: it can be 2 to {LONGEST_NGRAM}, or 0 for none")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}: it is a probability, at least 0 and below 1")
        if not head_dim_given and self.d_model % self.n_heads:
            raise ConfigError(
                f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}: change one, or set head_dim"
            )
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"n_heads {self.n_heads} is not divisible by n_kv_heads {self.n_kv_heads}: "
                "every key and value head must serve the same number of query heads"
            )
        if self.position == "rope" and self.head_dim % 2:
            raise ConfigError(f"head_dim {self.head_dim} is odd: RoPE turns pairs of dimensions, so it must be even")
        if self.rope_scaling is not None and self.position != "rope":
            raise ConfigError(f"rope_scaling goes with position 'rope', not {self.position!r}: drop one")
        if self.tie_embeddings and self.zero_init_head:
            raise ConfigError("zero_init_head with tie_embeddings would start every embedding at zero: drop one")
        self._check_experts()

    def _check_experts(self) -> None:
        for name in ("n_experts", "n_active_experts", "d_expert", "d_shared", "balancing_rate"):
            value = getattr(self, name)
            if not value >= 0:
                raise ConfigError(f"{name} is {value}: it must be at least 0")
            if value and not self.n_experts:
                raise ConfigError(f"{name} is {value} but n_experts is 0: set n_experts, or drop {name}")
        if not self.n_experts:
            return
        if not 1 <= self.n_active_experts <= self.n_experts:
            raise ConfigError(f"n_active_experts is {self.n_active_experts}: it can be 1 to n_experts {self.n_experts}")
        if self.d_expert < 1:
            raise ConfigError(f"d_expert is {self.d_expert}: it must be at least 1")
        if self.balancing_rate and self.router != "sigmoid":
            raise ConfigError(f"balancing_rate goes with router 'sigmoid', not {self.router!r}: drop one")
        if self.bias:
            raise ConfigError("experts have no biases: set bias to false (qkv_bias may be true)")

    # ---- names, files -------------------------------------------------------------------------------------------

    @classmethod
    def presets(cls) -> tuple[str, ...]:
        """The names that `preset` knows."""
        return tuple(PRESETS)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """The named shape, with the fields in `overrides` changed."""
        if name not in PRESETS:
            raise ConfigError(f"there is no preset {name!r}: {nearest(name, PRESETS)}")
        return cls.from_dict({**PRESETS[name], **overrides})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; fields with a default may be missing."""
        for name in values:
            if name not in _FIELD_TYPES:
                raise ConfigError(f"GPTConfig has no field {name!r}: {nearest(name, _FIELD_TYPES)}")
        required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        missing = [name for name in required if values.get(name) is None]
        if missing:
            raise ConfigError(f"GPTConfig needs a value for {', '.join(missing)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Every field as a primitive, derived ones included, so that a later change of a formula changes no model."""
        return dataclasses.asdict(self)

    @property
    def n_remembered(self) -> int:
        """Tokens before a new one whose ids are looked at, besides what attention sees of them."""
        return max(1 if self.bigram_rows else 0, self.ngram_order - 2)

    # ---- sizes --------------------------------------------------------------------------------------------------

    @property
    def n_matmul_parameters(self) -> int:
        """Parameters that multiply a token: the blocks' matrices, of experts the active, and the head, tied or not."""
        attention = 2 * self.d_model * self.head_dim * (self.n_heads + self.n_kv_heads)
        feedforward = self._feedforward_parameters(self.n_active_experts)
        return self.n_layers * (attention + feedforward) + self.vocab_size * self.d_model

    def _feedforward_parameters(self, n_experts: int) -> int:
        """Of a block's matrices, with so many of its experts."""
        matrices = 3 if self.feedforward == "swiglu" else 2
        if not self.n_experts:
            return matrices * self.d_model * self.d_ff
        return self.d_model * (self.n_experts + matrices * (n_experts * self.d_expert + self.d_shared))

    def n_active_parameters(self) -> int:
        """Number of trainable scalars without the experts that a token does not go through."""
        return self.n_parameters() - self.n_layers * self._idle_parameters()

    def _idle_parameters(self) -> int:
        return self._feedforward_parameters(self.n_experts) - self._feedforward_parameters(self.n_active_experts)

    def n_parameters(self) -> int:
        """Number of trainable scalars, all experts included; a tied head counts once."""
        norm = (2 if self.norm == "layernorm" and self.bias else 1) * self.d_model
        per_block = 2 * norm
        if self.qk_norm:
            per_block += 2 * self.head_dim
        if self.qkv_bias:
            per_block += self.head_dim * (self.n_heads + 2 * self.n_kv_heads)
        if self.bias:
            per_block += self.d_model
            per_block += self.d_ff * (2 if self.feedforward == "swiglu" else 1) + self.d_model
        total = self.n_matmul_parameters + self.n_layers * (self._idle_parameters() + per_block) + norm
        total += self.bigram_rows * self.d_model
        if self.ngram_order:
            total += self.d_model + self.ngram_order + 3  # the gate; counts are no parameters
        if not self.tie_embeddings:
            total += self.vocab_size * self.d_model
        if self.position == "learned":
            total += self.context_length * self.d_model
        return total

    def flops_per_token(self) -> int:
        """Floating-point operations of one training step (forward and backward), a token of a full context.

        6 for each parameter of a matrix product, and 12 · n_layers · n_heads · head_dim · context_length for
        attention (Chowdhery et al. 2022, PaLM, appendix B): the full score matrix counts, although the causal half is
        all that an implementation has to compute. Look-ups, norms, activations and the optimizer count as nothing.
        """
        attention = 12 * self.n_layers * self.n_heads * self.head_dim * self.context_length
        return 6 * self.n_matmul_parameters + attention


_FIELD_TYPES: dict[str, Any] = get_type_hints(GPTConfig)

if TYPE_CHECKING:
    GPTOverrides = dict[str, Any]
else:
    # Lets a command line check the keys and types of `gpt: {n_layers: 4}` with no second list of the fields.
    _optional = {field.name for field in dataclasses.fields(GPTConfig) if field.default is _DERIVED}
    _kinds = {name: kind | None if name in _optional else kind for name, kind in _FIELD_TYPES.items()}
    # A dictionary stays one, so that a checkpoint holds primitives alone; GPTConfig makes a RopeScaling of it.
    _kinds["rope_scaling"] = dict[str, int | float | str | None] | None
    GPTOverrides = TypedDict("GPTOverrides", _kinds, total=False)


_WANTED: dict[Any, str] = {bool: "true or false", RopeScaling: "a mapping with the keys of RopeScaling"}


def _check_type(name: str, kind: Any, value: Any) -> None:
    (kind,) = [part for part in get_args(kind) if part is not NoneType] if NoneType in get_args(kind) else [kind]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{name} is {value!r}: {nearest(value, get_args(kind))}")
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{name} is {value!r}: it must be a number")
    elif type(value) is not kind:
        raise ConfigError(f"{name} is {value!r}: it must be {_WANTED.get(kind, 'an integer')}")
