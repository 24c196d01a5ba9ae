"""RoPE for contexts longer than those that a model was trained on: how each of its frequencies is lowered."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from llm.model.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """What is done to RoPE's frequencies; the names and the results are those of transformers.

    `linear` divides every frequency by `factor` (Chen et al. 2023, position interpolation). `dynamic` raises theta with
    the length of the sequence, once that exceeds `original_context_length` ("NTK-aware", bloc97 and emozilla 2023):
    keys in a cache keep the angles that they were turned by. `yarn` divides the low frequencies alone, and scales
    cosine and sine (Peng et al. 2024, sections 3.2-3.4). `llama3` divides the low ones too, with another transition
    (Grattafiori et al. 2024; the code of Llama 3.1).

    Args:
        type: one of these.
        factor: by how much the context grows.
        original_context_length: tokens of the context that the model was trained on (all but `linear`).
        beta_fast, beta_slow: of yarn: turns within the original context above which a frequency is kept, and below
            which it is divided.
        attention_factor: of yarn: scale of cosine and sine; by default 0.1 ln(factor) + 1.
        mscale, mscale_all_dim: of yarn: given both, that scale is the quotient of two such terms (as in DeepSeek-V2).
        truncate: of yarn: round the ends of the transition to whole dimensions.
        low_freq_factor, high_freq_factor: of llama3: turns within the original context, like yarn's two.

    Raises:
        ConfigError: for a value out of range.
    """

    type: Literal["linear", "dynamic", "yarn", "llama3"]
    factor: float
    original_context_length: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        kinds = get_args(RopeScaling.__annotations__["type"])
        if self.type not in kinds:
            raise ConfigError(f"rope_scaling.type is {self.type!r}: {nearest(self.type, kinds)}")
        for name, value in dataclasses.asdict(self).items():
            if name in ("type", "truncate") or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigError(f"rope_scaling.{name} is {value!r}: it must be a number above 0")
        if self.type != "linear" and self.original_context_length is None:
            raise ConfigError(f"rope_scaling of type {self.type} needs original_context_length")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From a mapping of its fields. Raises ConfigError for a key that there is not, or one that is missing."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"rope_scaling has no field {name!r}: {nearest(name, known)}")
        for name in ("type", "factor"):
            if values.get(name) is None:
                raise ConfigError(f"rope_scaling needs a value for {name}")
        return cls(**values)

    @property
    def scale(self) -> float:
        """What cosine and sine are multiplied by."""
        if self.type != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._yarn_scale(self.mscale) / self._yarn_scale(self.mscale_all_dim)
        return self._yarn_scale(1.0)

    def _yarn_scale(self, mscale: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * mscale * math.log(self.factor) + 1.0

    def frequencies(self, plain: Tensor, theta: float, length: Tensor) -> Tensor:
        """The frequencies to use instead of `plain` float32 [head_dim / 2], which are theta^(-2i / head_dim).

        `length` int64 [..., 1] is that of each whole sequence so far, in tokens.

        Returns:
            float32 [head_dim / 2], or [..., head_dim / 2] where lengths decide.
        """
        if self.type == "linear":
            return plain / self.factor
        assert self.original_context_length is not None
        original = self.original_context_length
        if self.type == "dynamic":
            head_dim = 2 * len(plain)
            stretch = self.factor * length.clamp(min=original) / original - (self.factor - 1)
            return plain * stretch ** (-torch.arange(0, head_dim, 2, device=plain.device) / (head_dim - 2))
        kept = self._kept_by_yarn(plain, theta) if self.type == "yarn" else self._kept_by_llama3(plain)
        return plain / self.factor * (1 - kept) + plain * kept

    def _kept_by_yarn(self, plain: Tensor, theta: float) -> Tensor:
        """How much of each frequency stays as it is, 0 to 1: a straight line over the dimensions between two ends."""
        assert self.original_context_length is not None
        half = len(plain)

        def dimension(turns: float) -> float:
            """The dimension that makes so many turns within the original context."""
            assert self.original_context_length is not None
            return half * math.log(self.original_context_length / (turns * 2 * math.pi)) / math.log(theta)

        first, last = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * half - 1)
        width = last - first or 0.001
        return 1 - ((torch.arange(half, dtype=torch.float32, device=plain.device) - first) / width).clamp(0, 1)

    def _kept_by_llama3(self, plain: Tensor) -> Tensor:
        """The same, as a straight line over the number of turns within the original context."""
        assert self.original_context_length is not None
        turns = self.original_context_length * plain / (2 * math.pi)
        return ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
