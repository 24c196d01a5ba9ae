"""Starting weights: their formulas, what they depend on, and the loss that they give."""

import copy
import math

import pytest
import torch

from llm.model import GPT, GPTConfig

SMALL = {"vocab_size": 512, "context_length": 16, "n_layers": 3, "d_model": 128, "n_heads": 4}
VARIANTS = [
    {},
    {"tie_embeddings": True, "position": "learned", "norm": "layernorm", "bias": True, "feedforward": "gelu"},
    {"qk_norm": True, "n_kv_heads": 2, "zero_init_head": True, "zero_init_residual": True},
]


@pytest.mark.parametrize("name", GPTConfig.presets())
def test_the_first_loss_is_that_of_a_uniform_guess(name: str) -> None:
    # It depends on the width, the vocabulary, the head and the norms. GPT-2 keeps them all; of the wide ones, the
    # vocabulary is cut as well, which only makes the limit tighter.
    config = GPTConfig.preset(name)
    cut = {"n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "head_dim": 64, "d_ff": 256, "context_length": 64}
    vocab_size = min(config.vocab_size, 2048) if config.d_model >= 2048 else config.vocab_size
    config = GPTConfig.preset(name, **cut, vocab_size=vocab_size) if config.d_model > 512 else config
    torch.manual_seed(0)
    tokens, targets = torch.randint(config.vocab_size, (2, 4, 64)).unbind()
    nll, count = GPT(config)(tokens, targets)
    assert nll.item() / count.item() == pytest.approx(math.log(config.vocab_size), rel=0.02)


def test_zero_head_gives_exactly_the_uniform_guess() -> None:
    logits = GPT(GPTConfig(**SMALL, zero_init_head=True))(torch.zeros(1, 4, dtype=torch.int64))
    assert (logits == 0).all()


def test_zero_residual_makes_every_block_the_identity() -> None:
    model = GPT(GPTConfig(**SMALL, zero_init_residual=True))
    x = torch.randn(1, 4, 128)
    assert torch.equal(model.blocks[0](x, None), x)


def test_standard_deviations_follow_gpt2() -> None:
    model = GPT(GPTConfig(**SMALL, init="gpt2", position="learned", tie_embeddings=True, norm="layernorm", bias=True))
    block, residual = model.blocks[1], 0.02 / math.sqrt(2 * 3)
    for module, std in [
        (model.embedding, 0.02),
        (model.position_embedding, 0.02),
        (block.attention.query, 0.02),
        (block.feedforward.up, 0.02),
        (block.attention.output, residual),
        (block.feedforward.down, residual),
    ]:
        assert module.weight.std().item() == pytest.approx(std, rel=0.05)
        assert module.weight.mean().item() == pytest.approx(0, abs=std / 20)
    assert (block.attention.query.bias == 0).all()
    assert (block.attention_norm.weight == 1).all()


def test_standard_deviations_follow_the_fan_in() -> None:
    model = GPT(GPTConfig(**SMALL, position="learned"))
    block, depth = model.blocks[2], math.sqrt(2 * 3)
    for module, std in [
        (model.embedding, 1.0),
        (model.position_embedding, 1.0),
        (model.head, 1 / 128),
        (block.attention.key, 1 / math.sqrt(128)),
        (block.feedforward.gate, 1 / math.sqrt(128)),
        (block.attention.output, 1 / math.sqrt(128) / depth),
        (block.feedforward.down, 1 / math.sqrt(384) / depth),
    ]:
        assert module.weight.std().item() == pytest.approx(std, rel=0.05)


def test_a_wide_tied_embedding_starts_smaller() -> None:
    model = GPT(GPTConfig(**{**SMALL, "d_model": 3072}, tie_embeddings=True, init="gpt2", d_ff=8))
    assert model.embedding.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("change", VARIANTS)
def test_meta_then_init_equals_building_in_place(change: dict[str, object]) -> None:
    config = GPTConfig(**SMALL, **change)
    direct = GPT(config, seed=7)
    with torch.device("meta"):
        described = GPT(config)
    assert all(parameter.is_meta for parameter in described.parameters())
    described.to_empty(device="cpu")
    described.init_weights(seed=7)
    assert direct.state_dict().keys() == described.state_dict().keys()
    for name, weight in direct.state_dict().items():
        assert torch.equal(weight, described.state_dict()[name]), name
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(direct(tokens), described(tokens))


def test_weights_depend_on_the_seed_alone() -> None:
    config = GPTConfig(**SMALL)
    state = torch.get_rng_state()
    first = GPT(config, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # nothing else's random numbers move
    torch.manual_seed(99)
    second, other = GPT(config, seed=1), GPT(config, seed=2)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not torch.equal(first.blocks[0].attention.query.weight, first.blocks[1].attention.query.weight)


def test_a_70b_is_described_without_memory() -> None:
    with torch.device("meta"):
        model = GPT(GPTConfig.preset("70b"))
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_a_tied_head_cannot_come_apart() -> None:
    config = GPTConfig(**SMALL, tie_embeddings=True)
    model = GPT(config)
    tokens = torch.arange(8).view(1, 8)
    with torch.device("meta"):
        rebuilt = GPT(config)
    rebuilt.to_empty(device="cpu")
    rebuilt.load_state_dict(model.state_dict())
    for other in (copy.deepcopy(model), rebuilt, copy.deepcopy(model).to(torch.float64).to(torch.float32)):
        assert [p.shape for p in other.parameters()].count((512, 128)) == 1
        assert torch.equal(other(tokens), model(tokens))
        with torch.no_grad():
            other.embedding.weight[5] = 0  # seen by the embedding and by the head
        assert (other(tokens)[..., 5] == 0).all()
        assert not torch.equal(other(tokens)[0, 5], model(tokens)[0, 5])
