"""LoRA beside the maps of a GPT: what it computes, what it learns, and which settings there are."""

import copy
import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from support.adapters import FAMILIES, KINDS, TOKENS, assert_close, learnt, logits
from support.models import SHAPE, random_model
from torch import Tensor

from llm.model import GPT, ConfigError, GPTConfig
from llm.model.adapters import (
    adapter_shapes,
    adapter_weights,
    add_adapter,
    freeze_base,
    init_adapter,
    use_adapter,
)
from llm.model.lora import TARGETS, LoRA, LoRALinear

# ---- what it computes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_adapter_changes_no_bit(family: str, kind: str) -> None:
    model = random_model(**FAMILIES[family]).eval()
    before, names, weights = logits(model), list(model.state_dict()), list(model.parameters())
    add_adapter(model, "default", KINDS[kind])
    assert torch.equal(logits(model), before)
    assert [name for name in model.state_dict() if ".adapters." not in name] == names
    assert all(any(one is other for other in model.parameters()) for one in weights)
    assert torch.equal(model(TOKENS).detach(), random_model(**FAMILIES[family]).eval()(TOKENS).detach())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
def test_the_formula(kind: str, bias: bool) -> None:
    model = learnt(random_model(bias=bias).eval(), "default", KINDS[kind])
    layer = model.get_submodule("blocks.1.feedforward.down")
    weights = adapter_weights(model, "default")
    a, b = (weights[f"blocks.1.feedforward.down.{name}"].double() for name in ("lora_a", "lora_b"))
    scale = {"lora": 6 / 4, "rslora": 3 / math.sqrt(4), "dora": 6 / 4}[kind]
    whole = layer.weight.double() + scale * b @ a
    if kind == "dora":
        length = (whole**2).sum(1).sqrt()
        whole = weights["blocks.1.feedforward.down.magnitude"].double()[:, None] * whole / length[:, None]
    x = torch.randn(2, 5, layer.in_features, generator=torch.Generator().manual_seed(0))
    expected = F.linear(x.double(), whole, layer.bias.double() if bias else None).float()
    with torch.no_grad():
        assert_close(layer(x), expected)
        assert not torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=0.1)
    assert_close(layer(x).detach(), expected)


def test_magnitudes_begin_as_the_lengths_of_the_rows() -> None:
    model = random_model()
    add_adapter(model, "default", KINDS["dora"])
    weights = adapter_weights(model, "default")
    norms = model.blocks[0].attention.query.weight.norm(dim=1)
    torch.testing.assert_close(weights["blocks.0.attention.query.magnitude"], norms.detach())


def test_rows_of_zeros_stay_finite_and_learn() -> None:
    model = GPT(GPTConfig(**SHAPE, zero_init_residual=True))
    add_adapter(model, "default", KINDS["dora"])
    freeze_base(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        nll, _ = model(TOKENS[:, :-1], TOKENS[:, 1:])
        nll.backward()
        optimizer.step()
    assert all(torch.isfinite(weight).all() for weight in adapter_weights(model, "default").values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_starting_weights_depend_on_the_seed_alone(kind: str) -> None:
    first = random_model()
    add_adapter(first, "default", KINDS[kind], seed=5)
    torch.rand(3)
    with torch.device("meta"):
        second = GPT(first.config)
    lora = LoRA(**{**KINDS[kind].to_dict(), "targets": ("query", "down")})
    add_adapter(second, "other", lora)
    second.to_empty(device="cpu")
    second.load_state_dict({n: t for n, t in first.state_dict().items() if ".adapters." not in n}, strict=False)
    init_adapter(second, "other", seed=5)
    for name, weight in adapter_weights(second, "other").items():
        assert torch.equal(weight, adapter_weights(first, "default")[name])
    a = adapter_weights(first, "default")["blocks.0.attention.query.lora_a"]
    assert 0.9 / math.sqrt(32) < a.abs().max() <= 1 / math.sqrt(32)
    init_adapter(first, "default", seed=6)
    assert not torch.equal(a.clone(), adapter_weights(second, "other")["blocks.0.attention.query.lora_a"])


def test_dropout_is_on_the_low_rank_path_in_training_alone() -> None:
    plain = learnt(random_model(), "default", LoRA(rank=4))
    dropped = learnt(random_model(), "default", LoRA(rank=4, dropout=0.5))
    assert torch.equal(logits(dropped.eval()), logits(plain.eval()))
    layer = dropped.train().blocks[0].attention.value
    x = torch.randn(1, 7, 32)
    with torch.no_grad():
        part = layer.adapters["default"]
        mean = torch.stack([layer(x) for _ in range(4000)]).mean(0)
        exact = F.linear(x, layer.weight) + 4 * x @ part.lora_a.T @ part.lora_b.T
        assert_close(mean, exact, 0.05)
        assert not torch.equal(layer(x), layer(x))
    add_adapter(dropped, "new", LoRA(dropout=0.5))  # B is zero: dropping changes nothing yet
    assert torch.equal(logits(dropped), logits(random_model()))


# ---- what it learns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_adapter_has_gradients(family: str, kind: str) -> None:
    model = learnt(random_model(**FAMILIES[family]), "default", KINDS[kind])
    freeze_base(model)
    nll, _ = model(TOKENS[:, :-1], TOKENS[:, 1:])
    nll.backward()
    for name, parameter in model.named_parameters():
        if ".adapters.default." in name:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize(("kind", "weight"), [(k, w) for k in ("lora", "rslora") for w in ("lora_a", "lora_b")])
def test_gradients_are_those_of_finite_differences(kind: str, weight: str) -> None:
    gradient, difference = gradient_and_difference(KINDS[kind], weight)
    assert gradient == pytest.approx(difference, rel=1e-6)


def test_doras_gradients_take_the_length_for_a_constant() -> None:
    gradient, difference = gradient_and_difference(KINDS["dora"], "magnitude")
    assert gradient == pytest.approx(difference, rel=1e-6)
    for weight in ("lora_a", "lora_b"):
        gradient, difference = gradient_and_difference(KINDS["dora"], weight)
        assert gradient != pytest.approx(difference, rel=1e-3)
        # With that constant held, a map is a plain one of rows that are longer.
        gradient, difference = gradient_and_difference(KINDS["dora"], weight, constant=True)
        assert gradient == pytest.approx(difference, rel=1e-6)


def gradient_and_difference(lora: LoRA, kind: str, constant: bool = False) -> tuple[float, float]:
    """The derivative of a sum of logits in a random direction of the weights of that kind, and a central difference."""
    model = learnt(random_model(**FAMILIES["gpt2"]).double(), "default", lora)  # RoPE computes in float32
    freeze_base(model)
    if constant:
        for layer in (module for module in model.modules() if isinstance(module, LoRALinear)):
            part = layer.adapters["default"]
            ratio = part._lengthening(layer.weight).detach()
            part._lengthening = lambda weight, ratio=ratio: ratio
    chosen = [p for n, p in model.named_parameters() if n.endswith(f"adapters.default.{kind}")]
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in chosen]

    weighting = torch.randn(3, 24, 40, generator=generator, dtype=torch.float64)

    def weighted() -> Tensor:
        return (model(TOKENS) * weighting).sum()

    weighted().backward()
    gradient = sum(float((p.grad * d).sum()) for p, d in zip(chosen, directions, strict=True))
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for p, d in zip(chosen, directions, strict=True):
                p.add_(d, alpha=step)
        values.append(float(weighted().detach()))
    return gradient, (values[0] - values[1]) / 2e-5


def test_a_few_steps_lower_the_loss_and_leave_the_base() -> None:
    model = random_model()
    before = copy.deepcopy(model.state_dict())
    add_adapter(model, "default", LoRA(rank=4))
    freeze_base(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(20):
        nll, count = model(TOKENS[:, :-1], TOKENS[:, 1:])
        (nll / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(nll.detach() / count))
    assert losses[-1] < losses[0] - 1
    use_adapter(model, None)
    assert torch.equal(logits(model), logits(random_model()))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("autocast", [False, True])
def test_activations_made_again_give_the_same_gradients(mode: Any, autocast: bool) -> None:
    def gradients(mode: Any) -> list[Tensor]:
        model = learnt(random_model(), "default", LoRA(rank=4, dropout=0.3, dora=True))
        freeze_base(model)
        model.checkpointing = mode
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            nll, _ = model(TOKENS[:, :-1], TOKENS[:, 1:])
        nll.backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    for again, kept in zip(gradients(mode), gradients("none"), strict=True):
        assert torch.equal(again, kept)


def test_how_many_weights_are_trained() -> None:
    config = GPTConfig.preset("120m")
    with torch.device("meta"):
        model = GPT(config)
    add_adapter(model, "default", LoRA(rank=16, targets=("query", "value")))
    freeze_base(model)
    # A: 16 × 768 each; B: 12 heads of 64 for queries, 4 for values.
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 15 * 16 * (768 + 768 + 768 + 256)
    lora = LoRA(rank=8, dora=True)
    width = config.d_ff
    sizes = [(768, 768), (256, 768), (256, 768), (768, 768), (width, 768), (width, 768), (768, width)]
    expected = 15 * sum(8 * (n_out + n_in) + n_out for n_out, n_in in sizes)
    assert sum(math.prod(shape) for shape in adapter_shapes(config, lora).values()) == expected


# ---- settings -------------------------------------------------------------------------------------------------------


def test_settings_are_primitives() -> None:
    lora = LoRA(rank=4, targets=["up", "query"])
    assert lora.to_dict() == json.loads(json.dumps(lora.to_dict()))
    assert LoRA.from_dict(json.loads(json.dumps(lora.to_dict()))) == lora
    assert lora.targets == ("query", "up")
    assert hash(lora) == hash(LoRA(rank=4, targets=("query", "up")))


def test_settings_on_a_command_line() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--lora", type=LoRA | None)
    parsed = parser.parse_args(["--lora", '{"rank": 4, "alpha": 8, "targets": ["query", "value"]}'])
    assert parser.instantiate_classes(parsed).lora == LoRA(rank=4, alpha=8, targets=("query", "value"))
    assert parser.instantiate_classes(parser.parse_args([])).lora is None
    assert parser.instantiate_classes(parser.parse_args(["--lora.rank=2"])).lora == LoRA(rank=2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rank": 0}, "lora.rank is 0: it must be an integer, at least 1"),
        ({"rank": 2.5}, "lora.rank is 2.5"),
        ({"alpha": 0}, "lora.alpha is 0: it must be above 0"),
        ({"alpha": math.nan}, "lora.alpha is nan: it must be a number"),
        ({"dropout": 1}, "lora.dropout is 1: it is a probability"),
        ({"dora": 1}, "lora.dora is 1: it must be true or false"),
        ({"targets": ()}, "lora.targets is empty"),
        ({"targets": "query"}, "lora.targets is 'query': it must be a list"),
        ({"targets": ("q_proj",)}, f"lora.targets names 'q_proj': choose among {', '.join(TARGETS)}"),
        ({"ranks": 4}, "lora has no field 'ranks': did you mean 'rank'?"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        LoRA.from_dict(settings)
    assert told in str(error.value)


def test_targets_that_the_model_does_not_have() -> None:
    with pytest.raises(
        ConfigError, match=r"names gate, but the model has no such map: choose among query, .*, up, down"
    ):
        add_adapter(random_model(**FAMILIES["gpt2"]), "default", LoRA(targets=("gate",)))
    with pytest.raises(ConfigError, match=r"names up, but experts cannot be adapted: choose among query, .*, output"):
        add_adapter(random_model(**FAMILIES["experts"]), "default", LoRA(targets=("query", "up")))
