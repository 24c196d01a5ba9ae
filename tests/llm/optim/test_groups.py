"""Every parameter in exactly one group, and in the right one."""

import pytest
import torch
from torch import nn

from llm.model import GPT, GPTConfig
from llm.optim import parameter_groups


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(4)
        self.attention = nn.ModuleDict({"query": nn.Linear(4, 4), "output": nn.Linear(4, 4, bias=False)})
        self.feedforward = nn.ModuleDict({"up": nn.Linear(4, 8), "down": nn.Linear(8, 4)})


class _Model(nn.Module):
    """The parameter names of a GPT, without its arithmetic."""

    def __init__(self, tie: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.position_embedding = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList([_Block(), _Block()])
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 6, bias=False)
        if tie:
            self.head.weight = self.embedding.weight


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("prefix", [False, True])
def test_every_parameter_is_in_exactly_one_group(tie, prefix):
    model = _Model(tie)
    holder = nn.ModuleDict({"model": model}) if prefix else model
    groups = parameter_groups(holder)
    grouped = [p for group in groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}
    by_role = {group["role"]: {id(p) for p in group["params"]} for group in groups}
    assert id(model.embedding.weight) in by_role["embedding"]
    assert id(model.position_embedding.weight) in by_role["embedding"]
    assert ("head" in by_role) is not tie
    assert by_role["matrix"] == {id(p) for p in model.blocks.parameters() if p.ndim == 2}
    assert all(p.ndim == 1 for group in groups if group["role"] == "scalar" for p in group["params"])


def test_every_parameter_of_a_model_with_experts_has_a_role():
    shape = {"vocab_size": 8, "context_length": 8, "n_layers": 1, "d_model": 8, "n_heads": 2}
    groups = parameter_groups(GPT(GPTConfig(**shape, n_experts=3, d_shared=8)))
    (names,) = [group["names"] for group in groups if group["role"] == "matrix"]
    wanted = ("router.weight", "experts.gate", "experts.up", "experts.down", "shared.gate.weight", "shared.down.weight")
    assert {f"blocks.0.feedforward.{name}" for name in wanted} < set(names)


def test_options_reach_their_role_alone_and_decay_is_off_unless_asked_for():
    groups = parameter_groups(_Model(tie=False), {"matrix": {"lr": 0.5, "weight_decay": 0.1}, "head": {"lr": 0.25}})
    settings = {group["role"]: (group.get("lr"), group["weight_decay"]) for group in groups}
    assert settings == {"matrix": (0.5, 0.1), "embedding": (None, 0.0), "head": (0.25, 0.0), "scalar": (None, 0.0)}


def test_names_follow_params():
    model = _Model(tie=False)
    parameters = dict(model.named_parameters())
    for group in parameter_groups(model):
        assert [id(parameters[name]) for name in group["names"]] == [id(p) for p in group["params"]]


def test_frozen_parameters_are_left_out():
    model = _Model(tie=False)
    model.embedding.weight.requires_grad_(False)
    grouped = {id(p) for group in parameter_groups(model) for p in group["params"]}
    assert id(model.embedding.weight) not in grouped


def test_what_fits_no_role_is_refused():
    with pytest.raises(ValueError, match="'matrices' is not a parameter role"):
        parameter_groups(_Model(tie=False), {"matrices": {}})  # type: ignore[dict-item]
    model = _Model(tie=False)
    model.kernel = nn.Parameter(torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="kernel has shape"):
        parameter_groups(model)
