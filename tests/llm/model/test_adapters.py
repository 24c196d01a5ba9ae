"""Several adapters of one model, merged ones, and how they go with the rest of it."""

import copy
from pathlib import Path

import pytest
import torch
from support.adapters import FAMILIES, KINDS, TOKENS, assert_close, learnt, logits
from support.models import random_model
from torch import nn

from llm.generation import generate
from llm.model import GPT, ConfigError, KVCache, fuse_projections
from llm.model.adapters import (
    adapter_names,
    adapter_shapes,
    adapter_weights,
    add_adapter,
    base_only,
    freeze_base,
    merge_adapter,
    remove_adapter,
    use_adapter,
)
from llm.model.lora import LoRA, LoRALinear

# ---- several of them, and none --------------------------------------------------------------------------------------


def test_adapters_switch() -> None:
    model = random_model().eval()
    base = logits(model)
    learnt(model, "one", LoRA(rank=2), seed=1)
    one = logits(model)
    learnt(model, "two", LoRA(rank=4, targets=("query", "down"), dora=True), seed=2)
    two = logits(model)
    assert not torch.allclose(base, one, atol=0.1)
    assert not torch.allclose(base, two, atol=0.1)
    assert adapter_names(model) == ["one", "two"]
    for name, expected in (("one", one), (None, base), ("two", two), ("one", one)):
        use_adapter(model, name)
        assert torch.equal(logits(model), expected)
    with base_only(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), one)
    with pytest.raises(RuntimeError), base_only(model):
        raise RuntimeError
    assert torch.equal(logits(model), one)
    alone = learnt(random_model().eval(), "two", LoRA(rank=4, targets=("query", "down"), dora=True), seed=2)
    assert torch.equal(logits(alone), two)
    remove_adapter(model, "one")
    assert torch.equal(logits(model), base)
    use_adapter(model, "two")
    freeze_base(model)
    assert {n.split(".")[3] for n, p in model.named_parameters() if p.requires_grad} == {"query", "down"}
    remove_adapter(model, "two")
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    assert list(model.state_dict()) == list(random_model().state_dict())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_is_unmerged(family: str, kind: str) -> None:
    model = learnt(random_model(**FAMILIES[family]).eval(), "default", KINDS[kind])
    base, adapted = random_model(**FAMILIES[family]).eval(), logits(model)
    held = model.blocks[0].attention.query.weight
    before = held.detach().clone()
    merge_adapter(model, "default")
    assert_close(logits(model), adapted)
    assert not torch.allclose(adapted, logits(base), atol=0.1)
    assert torch.equal(held, before)
    assert type(model.blocks[0].attention.query) is nn.Linear
    assert GPT.from_state(model.config, model.state_dict()).state_dict().keys() == base.state_dict().keys()


def test_weights_come_and_go(tmp_path: Path) -> None:
    lora = LoRA(rank=2, targets=("value", "gate"), dora=True)
    model = learnt(random_model().eval(), "mine", lora)
    content = {"lora": lora.to_dict(), "weights": adapter_weights(model, "mine"), "whole": model.state_dict()}
    torch.save(content, tmp_path / "adapter")
    loaded = torch.load(tmp_path / "adapter", weights_only=True)
    assert LoRA.from_dict(loaded["lora"]) == lora
    other = random_model().eval()
    add_adapter(other, "yours", LoRA.from_dict(loaded["lora"]), loaded["weights"])
    assert torch.equal(logits(other), logits(model))
    assert adapter_shapes(model.config, lora) == {n: tuple(t.shape) for n, t in adapter_weights(model, "mine").items()}
    again = random_model().eval()
    add_adapter(again, "mine", lora)
    again.load_state_dict(loaded["whole"])
    assert torch.equal(logits(again), logits(model))
    with torch.no_grad():
        loaded["weights"]["blocks.0.attention.value.lora_b"].zero_()
    assert torch.equal(logits(other), logits(model))  # copies


# ---- beside the rest of the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_token_by_token(kind: str) -> None:
    model = random_model(n_kv_heads=2, qk_norm=True, gain=1.5).eval()
    fuse_projections(model)
    learnt(model, "default", KINDS[kind])
    whole = logits(model)
    cache = KVCache(model.config, 3)
    with torch.no_grad():
        pieces = torch.cat([model(piece, cache=cache) for piece in TOKENS.split([9, 1, 1, 4, 9], 1)], 1)
    assert_close(pieces, whole)
    merged = copy.deepcopy(model)
    merge_adapter(merged, "default")
    fuse_projections(merged)
    greedy = [list(generate(m, [1, 2, 3], 12, temperature=0)) for m in (model, merged)]
    assert greedy[0] == greedy[1]
    use_adapter(model, None)
    assert list(generate(model, [1, 2, 3], 12, temperature=0)) != greedy[0]


@pytest.mark.parametrize("kind", KINDS)
def test_other_number_formats(kind: str) -> None:
    exact = logits(learnt(random_model().eval(), "default", KINDS[kind]))
    half = random_model().bfloat16().eval()
    before = logits(half)
    add_adapter(half, "default", KINDS[kind])
    assert torch.equal(logits(half), before)
    assert {weight.dtype for weight in adapter_weights(half, "default").values()} == {torch.float32}
    remove_adapter(half, "default")
    learnt(half, "default", KINDS[kind])
    assert logits(half).dtype == torch.bfloat16
    assert_close(logits(half).float(), exact, 0.05)
    assert_close(logits(copy.deepcopy(half).bfloat16()).float(), exact, 0.05)
    merge_adapter(half, "default")
    assert half.blocks[0].attention.query.weight.dtype == torch.bfloat16
    assert_close(logits(half).float(), exact, 0.05)

    model = random_model()
    with torch.autocast("cpu", torch.bfloat16):
        before = logits(model)
        add_adapter(model, "default", KINDS[kind])
        assert torch.equal(logits(model), before)
        learnt(model, "other", KINDS[kind])
        assert_close(logits(model).float(), exact, 0.05)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_compiled_as_one_graph(kind: str) -> None:
    torch._dynamo.reset()
    model = learnt(random_model(n_layers=1), "default", KINDS[kind])
    freeze_base(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    gradients = []
    for one in (model, compiled):
        model.zero_grad()
        nll, _ = one(TOKENS[:, :-1], TOKENS[:, 1:])
        nll.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for ours, plain in zip(*gradients, strict=True):
        assert_close(ours, plain, 1e-4)
    model.eval()
    assert_close(logits(compiled), logits(model))
    torch._dynamo.reset()


def test_dora_forgets_the_lengths_of_weights_that_changed() -> None:
    model = learnt(random_model().eval(), "default", KINDS["dora"])
    other = learnt(random_model(gain=1.3).eval(), "default", KINDS["dora"], seed=3)
    logits(model)
    model.load_state_dict(other.state_dict())
    assert torch.equal(logits(model), logits(other))
    with torch.inference_mode():
        assert torch.equal(model(TOKENS), logits(other))
    for mode in (True, False):  # weights that change with no sign of it, as those of FSDP
        for weight in adapter_weights(model, "default").values():
            weight.data.mul_(1.1)
        model.train(mode)
        trained = model(TOKENS).detach()
        assert_close(logits(model), trained)


def test_what_is_refused_leaves_the_model_alone() -> None:
    model = random_model()
    names = list(model.state_dict())
    for name in ("a.b", "", "items", "training"):
        with pytest.raises(ConfigError, match="an adapter cannot be called"):
            add_adapter(model, name, LoRA())
    weights = {name: torch.zeros(shape) for name, shape in adapter_shapes(model.config, LoRA()).items()}
    first = "blocks.0.attention.query.lora_a"
    with pytest.raises(ConfigError, match=r"blocks.0.attention.query.lora_a has the shape \[8, 32\], .* it is \[4, 32"):
        add_adapter(model, "default", LoRA(rank=4), weights)
    with pytest.raises(ConfigError, match=f"the adapter lacks {first}"):
        add_adapter(model, "default", LoRA(), {n: t for n, t in weights.items() if n != first})
    with pytest.raises(ConfigError, match=r"the adapter holds blocks.0.attention.key.lora_a"):
        add_adapter(model, "default", LoRA(targets=("query",)), weights)
    assert list(model.state_dict()) == names
    with pytest.raises(ConfigError, match="there is no adapter 'default': the model has none"):
        use_adapter(model, "default")
    add_adapter(model, "default", LoRA())
    with pytest.raises(ConfigError, match="there is an adapter 'default' already"):
        add_adapter(model, "default", LoRA())
    for action in (use_adapter, adapter_weights, remove_adapter, merge_adapter):
        with pytest.raises(ConfigError, match="there is no adapter 'defualt': did you mean 'default'"):
            action(model, "defualt")
    add_adapter(model, "other", LoRA())
    with pytest.raises(ConfigError, match="'default' cannot be merged beside other"):
        merge_adapter(model, "default")
