"""How each family calls the weights, and the three ways in which one of its tensors differs from ours."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from llm.model import GPT, GPTConfig


@dataclass(frozen=True)
class Stored:
    """One tensor of a family: which of ours it holds, one above the other, and whether it is transposed ([in, out]).

    Or, where `expert` is a number, the matrix of that expert in our stack of all of them.
    """

    name: str
    ours: tuple[str, ...]
    transposed: bool
    expert: int | None = None

    def join(self, parts: list[Tensor]) -> Tensor:
        """Theirs from ours."""
        if self.expert is not None:
            return parts[0][self.expert].contiguous()
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (whole.T if self.transposed else whole).contiguous()

    def split(self, whole: Tensor, rows: list[int]) -> list[Tensor]:
        """Ours from theirs, `rows` of each."""
        whole = whole.T if self.transposed else whole
        return [part.contiguous() for part in whole.split(rows)]


@dataclass(frozen=True)
class WeightNames:
    """The names of a family's weights.

    Attributes:
        names: theirs -> ours, without the ending; `{layer}` stands for its number. Theirs may hold several of ours, or,
            where there is `{expert}`, one matrix of ours, whose name has no ending.
        prefix: of all names but the head's; a file of the model without its head leaves it out.
        head: theirs.
        transposed: the maps inside the blocks are [in, out] (Conv1D of GPT-2).
        derived: endings of names that hold no weight, in files of older versions.
    """

    names: Mapping[str, tuple[str, ...]]
    prefix: str
    head: str = "lm_head"
    transposed: bool = False
    derived: tuple[str, ...] = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias")

    def stored(self, config: GPTConfig) -> Iterator[Stored]:
        """Every tensor that a model of `config` has there."""
        with torch.device("meta"):
            shapes = {name: tensor.ndim for name, tensor in GPT(config).state_dict().items()}
        layers = range(config.n_layers)
        names = {self.head: ("head",), **{self.prefix + theirs: ours for theirs, ours in self.names.items()}}
        for theirs, ours in names.items():
            for layer, expert in product(layers, range(config.n_experts) if "{expert}" in theirs else ()):
                name = f"{theirs.format(layer=layer, expert=expert)}.weight"
                yield Stored(name, (ours[0].format(layer=layer),), False, expert)
            if "{expert}" in theirs:
                continue
            for layer in layers if "{layer}" in theirs else (0,):
                for kind in ("weight", "bias"):
                    mine = tuple(f"{name.format(layer=layer)}.{kind}" for name in ours)
                    if mine[0] in shapes:
                        matrix = shapes[mine[0]] == 2 and "{layer}" in theirs
                        yield Stored(f"{theirs.format(layer=layer)}.{kind}", mine, self.transposed and matrix)

    def full_name(self, name: str) -> str:
        """The name with the prefix that a file of the model without its head leaves out."""
        return name if name.startswith((self.prefix, f"{self.head}.")) else self.prefix + name


_ATTENTION = {
    "layers.{layer}.self_attn.q_proj": ("blocks.{layer}.attention.query",),
    "layers.{layer}.self_attn.k_proj": ("blocks.{layer}.attention.key",),
    "layers.{layer}.self_attn.v_proj": ("blocks.{layer}.attention.value",),
    "layers.{layer}.self_attn.o_proj": ("blocks.{layer}.attention.output",),
}
_AROUND = {
    "embed_tokens": ("embedding",),
    "layers.{layer}.input_layernorm": ("blocks.{layer}.attention_norm",),
    "layers.{layer}.post_attention_layernorm": ("blocks.{layer}.feedforward_norm",),
    "norm": ("norm",),
}
_GATED = {
    f"layers.{{layer}}.mlp.{name}_proj": (f"blocks.{{layer}}.feedforward.{name}",) for name in ("gate", "up", "down")
}
_QK_NORM = {
    "layers.{layer}.self_attn.q_norm": ("blocks.{layer}.attention.query_norm",),
    "layers.{layer}.self_attn.k_norm": ("blocks.{layer}.attention.key_norm",),
}

LLAMA = WeightNames({**_AROUND, **_ATTENTION, **_GATED}, "model.")
QWEN3 = WeightNames({**_AROUND, **_ATTENTION, **_QK_NORM, **_GATED}, "model.")
MIXTRAL = WeightNames(
    {
        **_AROUND,
        **_ATTENTION,
        "layers.{layer}.block_sparse_moe.gate": ("blocks.{layer}.feedforward.router",),
        "layers.{layer}.block_sparse_moe.experts.{expert}.w1": ("blocks.{layer}.feedforward.experts.gate",),
        "layers.{layer}.block_sparse_moe.experts.{expert}.w3": ("blocks.{layer}.feedforward.experts.up",),
        "layers.{layer}.block_sparse_moe.experts.{expert}.w2": ("blocks.{layer}.feedforward.experts.down",),
    },
    "model.",
)
QWEN3_MOE = WeightNames(
    {
        **_AROUND,
        **_ATTENTION,
        **_QK_NORM,
        "layers.{layer}.mlp.gate": ("blocks.{layer}.feedforward.router",),
        **{
            f"layers.{{layer}}.mlp.experts.{{expert}}.{name}_proj": (f"blocks.{{layer}}.feedforward.experts.{name}",)
            for name in ("gate", "up", "down")
        },
    },
    "model.",
)
STARCODER2 = WeightNames(
    {
        **_AROUND,
        **_ATTENTION,
        "layers.{layer}.mlp.c_fc": ("blocks.{layer}.feedforward.up",),
        "layers.{layer}.mlp.c_proj": ("blocks.{layer}.feedforward.down",),
    },
    "model.",
)
GPT2 = WeightNames(
    {
        "wte": ("embedding",),
        "wpe": ("position_embedding",),
        "h.{layer}.ln_1": ("blocks.{layer}.attention_norm",),
        "h.{layer}.attn.c_attn": tuple(f"blocks.{{layer}}.attention.{name}" for name in ("query", "key", "value")),
        "h.{layer}.attn.c_proj": ("blocks.{layer}.attention.output",),
        "h.{layer}.ln_2": ("blocks.{layer}.feedforward_norm",),
        "h.{layer}.mlp.c_fc": ("blocks.{layer}.feedforward.up",),
        "h.{layer}.mlp.c_proj": ("blocks.{layer}.feedforward.down",),
        "ln_f": ("norm",),
    },
    "transformer.",
    transposed=True,
)
