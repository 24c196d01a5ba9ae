"""Mixtures of experts: against a loop over tokens, their balance, their numbers, their starting weights."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llm.model import GPT, ConfigError, GPTConfig, KVCache, grouped
from llm.model.grouped import Grouping, grouped_linear, grouped_linear_by_kernel
from llm.model.moe import MixtureOfExperts, balance_experts

SMALL = {"vocab_size": 61, "context_length": 32, "n_layers": 2, "d_model": 16, "n_heads": 2, "n_experts": 5}
VARIANTS = {
    "sigmoid": {"d_expert": 24},
    "shared": {"d_expert": 8, "d_shared": 20, "n_active_experts": 3, "normalize_routing": False},
    "softmax": {"d_expert": 24, "router": "softmax"},
    "raw softmax": {"d_expert": 24, "router": "softmax", "normalize_routing": False, "n_active_experts": 1},
    "relu2": {"d_expert": 24, "feedforward": "relu2", "n_active_experts": 5},
    "gelu": {"d_expert": 24, "feedforward": "gelu", "n_experts": 40},
}


def configure(variant: str = "sigmoid", **change: object) -> GPTConfig:
    return GPTConfig(**{**SMALL, **VARIANTS[variant], **change})


def build(variant: str = "sigmoid", **change: object) -> MixtureOfExperts:
    """A mixture whose scores are far apart, with a balance that matters."""
    mixture = GPT(configure(variant, **change)).blocks[1].feedforward
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        if mixture.router.balance is not None:
            mixture.router.balance.copy_(torch.randn(mixture.n_experts, generator=generator) * 0.3)
    return mixture


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def feed(config: GPTConfig, x: Tensor, up: Tensor, down: Tensor, gate: Tensor | None) -> Tensor:
    if config.feedforward == "swiglu":
        assert gate is not None
        return down @ (F.silu(gate @ x) * (up @ x))
    return down @ (F.relu(up @ x) ** 2 if config.feedforward == "relu2" else F.gelu(up @ x, approximate="tanh"))


def by_loop(config: GPTConfig, mixture: MixtureOfExperts, x: Tensor) -> Tensor:
    """One token after the other, one expert after the other, from the definitions."""
    experts, results = mixture.experts, []
    for token in x.flatten(0, 1):
        logits = mixture.router.weight @ token
        if config.router == "softmax":
            scores = logits.exp() / logits.exp().sum()
            ranking = scores
        else:
            scores = 1 / (1 + (-logits).exp())
            assert mixture.router.balance is not None
            ranking = scores + mixture.router.balance
        chosen = sorted(range(config.n_experts), key=lambda e: -ranking[e].item())[: config.n_active_experts]
        total = sum(scores[e] for e in chosen) if config.normalize_routing else 1.0
        result = torch.zeros_like(token)
        for e in chosen:
            gate = None if experts.gate is None else experts.gate[e]
            result = result + scores[e] / total * feed(config, token, experts.up[e], experts.down[e], gate)
        if config.d_shared:
            shared = mixture.shared
            assert shared is not None
            result = result + feed(config, token, shared.up.weight, shared.down.weight, shared.gate.weight)
        results.append(result)
    return torch.stack(results).view_as(x)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(2, 9), (1, 1)])
def test_equals_a_loop_over_tokens_forwards_and_backwards(variant: str, shape: tuple[int, int]) -> None:
    config, mixture = configure(variant), build(variant).double()
    x = draw(*shape, 16, dtype=torch.float64).requires_grad_()
    wanted, got = by_loop(config, mixture, x), mixture(x)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    variables = [x, *mixture.parameters()]
    direction = torch.randn_like(wanted)
    pairs = zip(
        torch.autograd.grad(got, variables, direction),
        torch.autograd.grad(wanted, variables, direction, materialize_grads=True),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_an_expert_without_a_token_has_a_gradient_of_zero() -> None:
    mixture = build()
    assert mixture.router.balance is not None
    mixture.router.balance.copy_(torch.tensor([9.0, -9.0, 9.0, -9.0, -9.0]))  # every token goes to experts 0 and 2
    y = mixture(draw(2, 9, 16))
    mixture(draw(1, 0, 16))  # no token at all
    assert mixture.load is not None
    assert mixture.load.tolist() == [18, 0, 18, 0, 0]
    y.sum().backward()
    for name, parameter in mixture.experts.named_parameters():
        assert parameter.grad is not None, name
        assert [bool(grad.any()) for grad in parameter.grad] == [True, False, True, False, False]


def test_the_kernel_of_cuda_is_called_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch has a plain form of it for CPUs, with the same interface."""
    mixture = build(d_model=32, n_heads=2, d_expert=16)
    x = draw(2, 9, 32).requires_grad_()
    variables = [x, *mixture.parameters()]
    wanted = torch.autograd.grad(mixture(x).square().sum(), variables)
    called = []

    def by_kernel(*arguments: Tensor) -> tuple[Tensor, ...]:
        called.append(arguments)
        return grouped_linear_by_kernel(*arguments)

    monkeypatch.setattr("llm.model.moe.grouped_linear", by_kernel)
    got = torch.autograd.grad(mixture(x).square().sum(), variables)
    assert len(called) == 2
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_each_operation_has_the_gradient_of_finite_differences() -> None:
    chosen = torch.tensor([[0, 3], [3, 1], [0, 1], [3, 0]])
    grouping = Grouping(chosen, 5)
    assert grouping.sizes.tolist() == [3, 2, 0, 3, 0]
    rows, slots = draw(4, 3, dtype=torch.float64), draw(8, 3, dtype=torch.float64)
    weights, matrices = draw(4, 2, dtype=torch.float64), draw(5, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(grouping.gather(grouping.spread(rows), weights), rows * weights.sum(1, keepdim=True))
    gradcheck: Callable[..., bool] = torch.autograd.gradcheck
    assert gradcheck(grouping.spread, rows.requires_grad_())
    assert gradcheck(grouping.gather, (slots.requires_grad_(), weights.requires_grad_()))
    assert gradcheck(
        lambda *tensors: grouped_linear(tensors[0], grouping.ends, *tensors[1:]),
        (slots, matrices.requires_grad_(), (matrices.detach() * 2).requires_grad_()),
    )


class TestPrecision:
    """The choice is made in float32, and its bias stays so."""

    def test_the_choice_does_not_depend_on_autocast(self) -> None:
        mixture, x = build(), draw(4, 32, 16)
        exact = mixture.router(x.flatten(0, 1))
        with torch.autocast("cpu", torch.bfloat16):
            low = mixture.router(x.flatten(0, 1))
            y = mixture(x)
        assert all(torch.equal(a, b) for a, b in zip(exact, low, strict=True))
        wanted = mixture(x)
        assert (y - wanted).norm() < 0.02 * wanted.norm()
        y.float().sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in mixture.parameters())

    def test_a_cast_model_chooses_in_float32(self) -> None:
        mixture, rows = build().bfloat16(), draw(128, 16).bfloat16()
        chosen, weights = mixture.router(rows)
        wanted, exact = copy.deepcopy(mixture).float().router(rows.float())  # the same numbers, computed in float32
        assert torch.equal(chosen, wanted)
        assert torch.equal(weights, exact)

    @pytest.mark.parametrize("way", ["cast", "meta", "default"])
    def test_the_balance_stays_in_float32(self, way: str) -> None:
        model = GPT(configure())
        if way == "cast":
            model.bfloat16()
        elif way == "meta":
            with torch.device("meta"):
                model = GPT(configure()).bfloat16()
            model.to_empty(device="cpu").init_weights()
        else:
            torch.set_default_dtype(torch.bfloat16)
            try:
                model = GPT(configure())
            finally:
                torch.set_default_dtype(torch.float32)
        mixture = model.blocks[0].feedforward
        for _ in range(400):  # 0.4 + 0.001 is 0.4 in bfloat16
            mixture.load = torch.tensor([4, 0, 0, 0, 0])
            balance_experts(mixture, lambda load: load)
        assert mixture.experts.up.dtype == torch.bfloat16
        assert mixture.router.balance.tolist() == pytest.approx([-0.4, 0.4, 0.4, 0.4, 0.4], rel=1e-4)

    def test_a_cast_keeps_what_the_balance_held(self) -> None:
        mixture = build()
        before = mixture.router.balance
        assert before is not None
        assert torch.equal(copy.deepcopy(mixture).bfloat16().router.balance, before)


class TestBalance:
    """Experts that got too much are chosen less from then on."""

    def test_one_step_is_the_published_one(self) -> None:
        model = GPT(configure(balancing_rate=0.25))
        loads = [torch.tensor([10, 0, 2, 3, 1]), torch.tensor([2, 2, 2, 2, 2])]
        for block, load in zip(model.blocks, loads, strict=True):
            block.feedforward.load = load
        largest = balance_experts(model, lambda load: 2 * load)
        assert largest is not None
        assert largest.item() == pytest.approx(10 / 16)
        first, second = (block.feedforward.router.balance.tolist() for block in model.blocks)
        assert first == [-0.25, 0.25, 0.25, 0.25, 0.25]
        assert second == [0, 0, 0, 0, 0]
        assert balance_experts(model, lambda load: load) is None  # counted once

    def test_a_skewed_router_is_evened_out(self) -> None:
        torch.manual_seed(0)
        model = GPT(configure(n_experts=8, balancing_rate=0.01, n_layers=1))
        mixture = model.blocks[0].feedforward
        with torch.no_grad():  # all tokens like the same two experts best
            mixture.router.weight.copy_(torch.randn(8, 16) * 0.1)
            mixture.router.weight[:2] += 0.1
        shares = []
        for _ in range(120):
            mixture(torch.randn(1, 512, 16) + 1)
            shares.append(balance_experts(model, lambda load: load))
        first, last = shares[0], torch.stack(shares[-20:]).mean()
        assert first > 0.45  # of the most that top-2 allows, 0.5
        assert last < 0.16  # an even share is 0.125

    @pytest.mark.parametrize("variant", ["softmax", "sigmoid"])
    def test_what_has_no_rate_is_measured_and_left_alone(self, variant: str) -> None:
        mixture = build(variant, balancing_rate=0.0)
        before = copy.deepcopy(mixture.state_dict())
        mixture(draw(1, 20, 16))
        share = balance_experts(mixture, lambda load: load)
        assert share is not None
        assert 0.2 <= share <= 0.5
        assert all(torch.equal(value, before[name]) for name, value in mixture.state_dict().items())

    def test_only_training_counts(self) -> None:
        mixture = build().eval()
        mixture(draw(2, 9, 16))
        assert mixture.load is None
        mixture.train()
        for _ in range(2):
            mixture(draw(2, 9, 16))
        assert mixture.load is not None
        assert mixture.load.sum() == 2 * 2 * 9 * 2
        assert "load" not in " ".join(mixture.state_dict())

    def test_activations_computed_twice_change_nothing(self) -> None:
        plain, twice = build(), build()
        plain(draw(2, 9, 16).requires_grad_()).sum().backward()
        checkpoint(twice, draw(2, 9, 16).requires_grad_(), use_reentrant=False).sum().backward()
        shares = [balance_experts(mixture, lambda load: load) for mixture in (plain, twice)]
        assert shares[0] == shares[1]
        assert torch.equal(plain.router.balance, twice.router.balance)
        assert torch.equal(plain.experts.up.grad, twice.experts.up.grad)


class TestInAModel:
    """A GPT whose feed-forwards are mixtures."""

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_with_the_cache_equals_without(self, variant: str) -> None:
        model = GPT(configure(variant)).eval()
        tokens = torch.randint(61, (2, 32), generator=torch.Generator().manual_seed(0))
        cache = KVCache(model.config, 2)
        with torch.inference_mode():
            pieces = [model(piece, cache=cache) for piece in tokens.split([20, 1, 1, 10], 1)]
            torch.testing.assert_close(torch.cat(pieces, 1), model(tokens), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_its_numbers_are_those_of_the_formulas(self, variant: str) -> None:
        config = configure(variant)
        with torch.device("meta"):
            model = GPT(config)
        total = sum(p.numel() for p in model.parameters())
        assert config.n_parameters() == total
        idle = (config.n_experts - config.n_active_experts) / config.n_experts
        experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
        active = total - round(idle * experts)
        assert config.n_active_parameters() == active
        unmultiplied = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 1 or n == "embedding.weight")
        assert config.n_matmul_parameters == active - unmultiplied
        assert config.flops_per_token() == 6 * config.n_matmul_parameters + 12 * 2 * 16 * 32

    @pytest.mark.parametrize(
        ("shape", "total", "active"),
        [
            (  # Mixtral 8x7B
                {"vocab_size": 32000, "n_layers": 32, "d_model": 4096, "n_heads": 32, "n_kv_heads": 8, "d_ff": 14336}
                | {"n_experts": 8},
                46_702_792_704,
                12.9e9,
            ),
            (  # Qwen3-30B-A3B
                {"vocab_size": 151936, "n_layers": 48, "d_model": 2048, "n_heads": 32, "n_kv_heads": 4, "head_dim": 128}
                | {"qk_norm": True, "n_experts": 128, "n_active_experts": 8, "d_expert": 768},
                30_532_122_624,
                3.3e9,
            ),
        ],
    )
    def test_published_models_have_their_published_numbers(self, shape: dict, total: int, active: float) -> None:
        config = GPTConfig(**shape, context_length=4096, router="softmax")
        with torch.device("meta"):
            assert sum(p.numel() for p in GPT(config).parameters()) == config.n_parameters() == total
        assert config.n_active_parameters() == pytest.approx(active, rel=0.02)

    def test_without_experts_all_parameters_are_active(self) -> None:
        dense = GPTConfig.preset("tiny")
        assert dense.n_active_parameters() == dense.n_parameters()

    def test_every_expert_starts_as_a_feed_forward_of_its_width(self) -> None:
        config = configure(d_model=128, d_expert=64, d_shared=256, n_experts=4)
        mixture = GPT(config).blocks[0].feedforward
        depth = 2**-0.5 / 2**0.5
        for matrices, std in [
            (mixture.experts.gate, 128**-0.5),
            (mixture.experts.up, 128**-0.5),
            (mixture.experts.down, 64**-0.5 * depth),
            (mixture.shared.down.weight[None], 256**-0.5 * depth),
            (mixture.router.weight[None], 128**-0.5),
        ]:
            for matrix in matrices:
                assert matrix.std().item() == pytest.approx(std, rel=0.08)
        assert not torch.equal(mixture.experts.up[0], mixture.experts.up[1])
        quiet = GPT(configure(zero_init_residual=True, d_shared=8))
        x = draw(1, 4, 16)
        assert torch.equal(quiet.blocks[0](x, None), x)

    def test_meta_then_init_equals_building_in_place(self) -> None:
        config = configure("shared")
        direct = GPT(config, seed=7)
        with torch.device("meta"):
            described = GPT(config)
        assert all(tensor.is_meta for tensor in [*described.parameters(), *described.buffers()])
        described.to_empty(device="cpu")
        for buffer in described.buffers():
            buffer.fill_(3.0)  # what memory may hold
        described.init_weights(seed=7)
        for name, weight in direct.state_dict().items():
            assert torch.equal(weight, described.state_dict()[name]), name

    def test_it_learns_to_count(self) -> None:
        shape = {"vocab_size": 10, "context_length": 16, "n_layers": 1, "d_model": 32, "n_heads": 2, "d_ff": 32}
        model = GPT(GPTConfig(**shape, n_experts=4, d_shared=16))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        rows = (torch.arange(10)[:, None] + torch.arange(17)) % 10
        for _ in range(60):
            nll, count = model(rows[:, :-1], rows[:, 1:])
            optimizer.zero_grad()
            (nll / count).backward()
            optimizer.step()
            balance_experts(model, lambda load: load)
        assert (nll / count).item() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_experts": -1}, r"n_experts is -1: it must be at least 0"),
        ({"n_experts": 0, "d_expert": 8}, r"d_expert is 8 but n_experts is 0: set n_experts, or drop d_expert"),
        ({"n_experts": 0, "d_shared": 8}, r"d_shared is 8 but n_experts is 0"),
        ({"n_active_experts": 6}, r"n_active_experts is 6: it can be 1 to n_experts 5"),
        ({"n_active_experts": 0}, r"n_active_experts is 0: it can be 1 to n_experts 5"),
        ({"d_expert": 0}, r"d_expert is 0: it must be at least 1"),
        ({"router": "softmax", "balancing_rate": 0.1}, r"balancing_rate goes with router 'sigmoid', not 'softmax'"),
        ({"router": "softmx"}, r"did you mean 'softmax'\?"),
        ({"balancing_rate": float("nan")}, r"balancing_rate is nan: it must be at least 0"),
        ({"bias": True}, r"experts have no biases"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GPTConfig.from_dict({**SMALL, **change})


def test_what_is_left_out_follows_from_the_rest() -> None:
    config = GPTConfig(**SMALL)
    assert (config.n_active_experts, config.d_expert, config.balancing_rate) == (2, config.d_ff, 0.001)
    assert GPTConfig(**SMALL, router="softmax").balancing_rate == 0
    assert GPTConfig.from_dict(config.to_dict()) == config
    dense = GPTConfig.preset("tiny")
    assert (dense.n_active_experts, dense.d_expert, dense.balancing_rate) == (0, 0, 0)


def test_only_rows_of_whole_16_bytes_go_to_the_kernel_of_cuda() -> None:
    assert grouped._is_aligned(torch.empty(3, 16, 8))
    assert not grouped._is_aligned(torch.empty(3, 16, 12))
    assert not grouped._is_aligned(torch.empty(3, 12, 16))
