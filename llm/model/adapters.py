"""The adapters of a model: several by name, of which one or none is in use (llm/model/lora.py says what one is).

While none is in use the model gives its own logits, bit by bit; that is also how a preference is compared with the
model that training began with, without a second copy of it.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llm.model.config import GPTConfig
from llm.model.errors import ConfigError, nearest
from llm.model.gpt import GPT
from llm.model.init import stream
from llm.model.lora import Adapter, LoRA, LoRALinear
from llm.model.parts import fill_part


def adapter_shapes(config: GPTConfig, lora: LoRA) -> dict[str, tuple[int, ...]]:
    """The name and the shape of every weight of an adapter, for a GPT of `config`.

    Raises:
        ConfigError: for a target that such a model does not have.
    """
    with torch.device("meta"):
        model = GPT(config)
        parts = {name: Adapter(_map(model, name).weight, lora) for name in lora.maps(config)}
    return {f"{name}.{kind}": tuple(p.shape) for name, part in parts.items() for kind, p in part.named_parameters()}


def add_adapter(model: GPT, name: str, lora: LoRA, weights: Mapping[str, Tensor] | None = None, seed: int = 0) -> None:
    """Put an adapter beside the maps of `model`, and in use.

    A new one changes no logit, bit by bit, before its first step. On the meta device it has no weights yet, and
    `init_adapter` makes them.

    Args:
        model: not yet cut over processes. Its parameters stay the objects that they are, as do their names.
        name: of the adapter; it becomes a part of the names of its weights in the state dict.
        lora: its settings.
        weights: what `adapter_weights` gave, of which copies are made; None starts anew.
        seed: of the starting weights, which depend on nothing else.

    Raises:
        ConfigError: for a name that is taken or cannot be one, for a target that the model does not have, and for
            weights of another shape. The model is then as it was.
    """
    if not re.fullmatch(r"[\w-]+", name) or hasattr(nn.ModuleDict(), name):
        raise ConfigError(f"an adapter cannot be called {name!r}: use letters, digits, - and _")
    if name in adapter_names(model):
        raise ConfigError(f"there is an adapter {name!r} already: choose another name, or remove that one")
    names = lora.maps(model.config)
    if any(isinstance(_map(model, place).weight, DTensor) for place in names):
        raise ConfigError("the model is cut over processes already: adapters are added before")
    if weights is not None:
        _check_weights(model.config, lora, weights)
    for place in names:
        layer = _map(model, place)
        if not isinstance(layer, LoRALinear):
            layer = LoRALinear(layer)
            _replace(model, place, layer)
        layer.adapters[name] = Adapter(layer.weight, lora).train(layer.training)
    if weights is not None:
        _fill(model, name, weights)
    elif not next(model.parameters()).is_meta:
        init_adapter(model, name, seed)
    use_adapter(model, name)


def _check_weights(config: GPTConfig, lora: LoRA, weights: Mapping[str, Tensor]) -> None:
    shapes = adapter_shapes(config, lora)
    for name in (*shapes, *weights):
        if name not in weights:
            raise ConfigError(f"the adapter lacks {name}: it was made with other settings, or for another model")
        if name not in shapes:
            raise ConfigError(f"the adapter holds {name}, which is not a weight of this one: {nearest(name, shapes)}")
        if tuple(weights[name].shape) != shapes[name]:
            raise ConfigError(
                f"the adapter's {name} has the shape {list(weights[name].shape)}, and for this model it is "
                f"{list(shapes[name])}: it was made for another model"
            )


@torch.no_grad()
def init_adapter(model: GPT, name: str, seed: int = 0) -> None:
    """Draw the starting weights of an adapter anew, with which it changes nothing.

    A is uniform within ±1/√in, which is what the paper's code begins with, B is zero, and the magnitudes are the
    lengths of the rows. Each A has a stream of its own, named by the seed and the map, always on the CPU: so the
    weights depend neither on the hardware nor on the other targets.
    """
    for place, layer in _layers(model, name):
        part = _part(layer, name)
        empty = torch.empty(part.lora_a.shape, dtype=torch.float32)
        bound = 1 / math.sqrt(layer.in_features)
        drawn = empty.uniform_(-bound, bound, generator=stream(f"{place}.lora_a", seed))
        fill_part(part.lora_a, drawn.to(part.lora_a.device, part.lora_a.dtype))
        part.lora_b.zero_()
        if part.magnitude is not None:
            weight: Tensor = layer.weight
            fill_part(part.magnitude, part.lengths_of(weight.full_tensor() if isinstance(weight, DTensor) else weight))


@torch.no_grad()
def _fill(model: GPT, name: str, weights: Mapping[str, Tensor]) -> None:
    for place, layer in _layers(model, name):
        for kind, parameter in _part(layer, name).named_parameters():
            parameter.copy_(weights[f"{place}.{kind}"])


def adapter_names(model: nn.Module) -> list[str]:
    """The names of the adapters of `model`, in the order in which they were added."""
    return list(dict.fromkeys(name for layer in _adapted(model) for name in layer.adapters))


def use_adapter(model: nn.Module, name: str | None) -> None:
    """Use an adapter, or, with None, the model as it was without any; ConfigError where there is none of that name."""
    if name is not None:
        _demand(model, name)
    for layer in _adapted(model):
        layer.in_use = name if name is not None and name in layer.adapters else None


@contextmanager
def base_only(model: nn.Module) -> Iterator[None]:
    """Use no adapter for a while, and then those that were in use.

    For passes without gradients: with activation checkpointing a backward pass would make the activations again with
    what is in use then.
    """
    before = [(layer, layer.in_use) for layer in _adapted(model)]
    use_adapter(model, None)
    try:
        yield
    finally:
        for layer, name in before:
            layer.in_use = name


def adapter_weights(model: nn.Module, name: str) -> dict[str, Tensor]:
    """The weights of an adapter by its own names, not copied; with its settings they are all of it.

    Raises:
        ConfigError: where there is none of that name.
    """
    _demand(model, name)
    return {
        f"{place}.{kind}": parameter.detach()
        for place, layer in _layers(model, name)
        for kind, parameter in _part(layer, name).named_parameters()
    }


def freeze_base(model: nn.Module) -> None:
    """Let the adapter in use be all of `model` that has gradients."""
    model.requires_grad_(False)
    for layer in _adapted(model):
        if layer.in_use is not None:
            layer.adapters[layer.in_use].requires_grad_(True)


def remove_adapter(model: nn.Module, name: str) -> None:
    """Take an adapter away; a map with none left is a plain one again. ConfigError where there is none of that name."""
    _demand(model, name)
    for place, layer in _layers(model, name):
        del layer.adapters[name]
        if layer.in_use == name:
            layer.in_use = None
        if not layer.adapters:
            _replace(model, place, layer.plain())


@torch.no_grad()
def merge_adapter(model: nn.Module, name: str) -> None:
    """Add an adapter to the weights, whose maps are then plain ones: as fast as the model was without.

    The sum is computed in float32 at least, in new parameters of the weights' own dtype; the old ones stay unchanged
    with whoever else holds them.

    Raises:
        ConfigError: where there is none of that name, or another one, which would not fit the new weights.
    """
    _demand(model, name)
    others = [other for other in adapter_names(model) if other != name]
    if others:
        raise ConfigError(f"{name!r} cannot be merged beside {', '.join(others)}, made for the weights as they are")
    for _, layer in _layers(model, name):
        weight = layer.weight
        merged = _part(layer, name).merged(weight).to(weight.dtype)
        layer.weight = nn.Parameter(merged, requires_grad=weight.requires_grad)
    remove_adapter(model, name)


def _demand(model: nn.Module, name: str) -> None:
    there = adapter_names(model)
    if name not in there:
        raise ConfigError(f"there is no adapter {name!r}: {nearest(name, there) if there else 'the model has none'}")


def _adapted(model: nn.Module) -> Iterator[LoRALinear]:
    return (module for module in model.modules() if isinstance(module, LoRALinear))


def _layers(model: nn.Module, name: str) -> list[tuple[str, LoRALinear]]:
    """The maps that have an adapter of that name, by theirs; a list, because maps may be replaced on the way."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, LoRALinear) and name in m.adapters]


def _part(layer: LoRALinear, name: str) -> Adapter:
    part = layer.adapters[name]
    assert isinstance(part, Adapter)
    return part


def _map(model: nn.Module, place: str) -> nn.Linear:
    layer = model.get_submodule(place)
    assert isinstance(layer, nn.Linear)
    return layer


def _replace(model: nn.Module, place: str, layer: nn.Linear) -> None:
    parent, _, child = place.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
