"""LoRA: two narrow matrices beside each map of a model learn, and the model's own weights stay (Hu et al. 2021).

An adapted map keeps its `weight` and `bias`, the very parameters, under their names. An adapter called NAME adds to
the state dict, for the map `blocks.0.attention.query`:

    blocks.0.attention.query.adapters.NAME.lora_a       [rank, in]
    blocks.0.attention.query.adapters.NAME.lora_b       [out, rank]
    blocks.0.attention.query.adapters.NAME.magnitude    [out], with DoRA

By themselves an adapter's weights are called the same without `adapters.NAME.`, so that a name is nothing but a name.
What is done with the adapters of a whole model stands in llm/model/adapters.py.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.config import GPTConfig
from llm.model.errors import ConfigError, nearest

_HALVES = {"attention": ("query", "key", "value", "output"), "feedforward": ("gate", "up", "down")}
TARGETS = tuple(name for names in _HALVES.values() for name in names)


@dataclass(frozen=True)
class LoRA:
    """What is learnt beside which maps: W x becomes W x + scale · B A x (Hu et al. 2021, section 4.1).

    Args:
        rank: rows of A and columns of B, of every map.
        alpha: the scale is alpha / rank.
        dropout: share of the input of A that is dropped in training.
        targets: the maps that are adapted, in every block: some of query, key, value, output, gate, up and down.
            Default: all that the model has; beside experts, those of attention.
        rslora: the scale is alpha / √rank instead, with which a high rank learns as well (Kalajdzievski 2023).
        dora: learn the length of each row of the adapted matrix by itself (Liu et al. 2024).

    Raises:
        ConfigError: for a value out of range.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise ConfigError(f"lora.rank is {self.rank!r}: it must be an integer, at least 1")
        for name in ("alpha", "dropout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"lora.{name} is {value!r}: it must be a number")
        if not self.alpha > 0:
            raise ConfigError(f"lora.alpha is {self.alpha}: it must be above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout is {self.dropout}: it is a probability, at least 0 and below 1")
        for name in ("rslora", "dora"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"lora.{name} is {getattr(self, name)!r}: it must be true or false")
        if self.targets is not None:
            object.__setattr__(self, "targets", _checked_targets(self.targets))

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; any field may be missing."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"lora has no field {name!r}: {nearest(name, known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Every field as a primitive."""
        return {**dataclasses.asdict(self), "targets": None if self.targets is None else list(self.targets)}

    def maps(self, config: GPTConfig) -> list[str]:
        """The names of the maps that are adapted in a GPT of `config`, block by block.

        Raises:
            ConfigError: for a target that such a model does not have.
        """
        there = [name for name in TARGETS if name != "gate" or config.feedforward == "swiglu"]
        if config.n_experts:
            there = [name for name in there if name in _HALVES["attention"]]
        for name in self.targets or ():
            if name not in there:
                why = "experts cannot be adapted" if config.n_experts else "the model has no such map"
                raise ConfigError(f"lora.targets names {name}, but {why}: choose among {', '.join(there)}")
        return [
            f"blocks.{layer}.{half}.{name}"
            for layer in range(config.n_layers)
            for half, names in _HALVES.items()
            for name in names
            if name in (self.targets or there)
        ]


def _checked_targets(targets: Iterable[str]) -> tuple[str, ...]:
    if isinstance(targets, str):
        raise ConfigError(f"lora.targets is {targets!r}: it must be a list of names")
    for name in targets:
        if name not in TARGETS:
            raise ConfigError(f"lora.targets names {name!r}: choose among {', '.join(TARGETS)}")
    chosen = tuple(name for name in TARGETS if name in targets)
    if not chosen:
        raise ConfigError("lora.targets is empty: name some, or leave it out for all")
    return chosen


class Adapter(nn.Module):
    """What is learnt beside one map.

    At least float32, also beside weights of fewer bits, to which the steps of a fine-tuning would often be too small to
    change anything; it computes in the dtype of its input.

    Args:
        weight: the map's [out, in], of which shape, dtype and device are looked at.
        lora: its settings.
    """

    def __init__(self, weight: Tensor, lora: LoRA) -> None:
        super().__init__()
        self.lora = lora
        n_out, n_in = weight.shape
        kind: dict[str, Any] = {"device": weight.device, "dtype": torch.promote_types(weight.dtype, torch.float32)}
        self.lora_a = nn.Parameter(torch.empty(lora.rank, n_in, **kind))
        self.lora_b = nn.Parameter(torch.empty(n_out, lora.rank, **kind))
        self.magnitude = nn.Parameter(torch.empty(n_out, **kind)) if lora.dora else None
        self._known: tuple[Any, Tensor] | None = None  # what `_lengthening` gave, and of which weights

    def forward(self, x: Tensor, mapped: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the adapted map makes of x [..., in], of which the map itself made `mapped` [..., out]."""
        dropped = F.dropout(x, self.lora.dropout, self.training) if self.lora.dropout else x
        hidden = F.linear(dropped, self.lora_a.to(x.dtype)).flatten(0, -2)
        # The sum within the product: one pass over the output instead of three.
        up = self.lora_b.to(hidden.dtype).t()
        adapted = torch.addmm(mapped.flatten(0, -2), hidden, up, alpha=self.lora.scale).view_as(mapped)
        if self.magnitude is None:
            return adapted
        more = self._lengthening(weight).to(adapted.dtype)
        return torch.addcmul(adapted, more, adapted if bias is None else adapted - bias.to(adapted.dtype))

    @torch.no_grad()
    def lengths_of(self, weight: Tensor) -> Tensor:
        """The magnitudes, [out], that leave the rows of the map as long as they are, while B is zero."""
        return _row_lengths(weight.to(self.lora_a.dtype))

    @torch.no_grad()
    def merged(self, weight: Tensor) -> Tensor:
        """The map's weight with the adapter in it, in the adapter's dtype."""
        whole = self._sum(weight)
        return whole if self.magnitude is None else whole * (self.magnitude / _row_lengths(whole))[:, None]

    def _sum(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return torch.addmm(weight.to(self.lora_a.dtype), self.lora_b, self.lora_a, alpha=self.lora.scale)

    def _lengthening(self, weight: Tensor) -> Tensor:
        """magnitude / |row of W + scale · B A| - 1, [out]: by what share DoRA makes each row longer.

        The gradient takes the length for a constant, which saves memory and costs nothing (Liu et al. 2024, section
        4.3). Where no gradient is wanted, it is kept for the next token: it costs more than the map does for one.
        """
        assert self.magnitude is not None
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():  # none of the signs is in a graph
            with torch.no_grad():
                lengths = _row_lengths(self._sum(weight))
            return self.magnitude / lengths - 1
        parts = (weight, self.lora_a, self.lora_b, self.magnitude)
        now = [(part.data_ptr(), None if part.is_inference() else part._version) for part in parts]
        if self._known is None or self._known[0] != now:
            self._known = now, self.magnitude / _row_lengths(self._sum(weight)) - 1
        return self._known[1]

    def train(self, mode: bool = True) -> Self:
        """As in nn.Module; a sharded model's weights may change between two modes with none of the signs above."""
        self._known = None
        return super().train(mode)


def _row_lengths(matrix: Tensor) -> Tensor:
    """[out] of [out, in]; above 0, because rows of zeros stay zeros whatever they are divided by."""
    return torch.linalg.vector_norm(matrix, dim=1).clamp_min(torch.finfo(matrix.dtype).tiny)


class LoRALinear(nn.Linear):
    """A linear map with adapters, of which one or none is in use.

    Args:
        plain: the map, whose parameters it shares.
    """

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        self.adapters = nn.ModuleDict()
        self.in_use: str | None = None
        self.train(plain.training)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in] to [..., out]."""
        mapped = super().forward(x)
        if self.in_use is None:
            return mapped
        adapted: Tensor = self.adapters[self.in_use](x, mapped, self.weight, self.bias)
        return adapted

    def plain(self) -> nn.Linear:
        """The map without adapters, with the same parameters."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight, plain.bias = self.weight, self.bias
        return plain.train(self.training)
