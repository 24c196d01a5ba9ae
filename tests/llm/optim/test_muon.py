"""Muon and AdamW in one optimizer: against references, and across a resume."""

import copy

import pytest
import torch
from torch import nn

from llm.optim import MuonAdamW, orthogonalize


def _train(parameters, optimizer, steps, seed=0):
    """Give every parameter the same sequence of random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


def _parameters(*shapes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize("shape", [(64, 64), (48, 160), (160, 48), (3, 32, 64)])
def test_newton_schulz_brings_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before = torch.linalg.svdvals(matrices)
    reached = before > 2e-3 * before.amax(-1, keepdim=True)  # below a thousandth of the bound on the largest they lag
    assert reached.float().mean() > 0.95
    for steps, tolerance in [(4, 0.55), (5, 0.115), (6, 0.003)]:
        after = torch.linalg.svdvals(orthogonalize(matrices, steps))
        assert (after - 1)[reached].abs().max() < tolerance


def test_newton_schulz_keeps_the_singular_vectors():
    u, _, v = torch.linalg.svd(torch.randn(24, 40, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    matrix = u @ torch.diag(torch.logspace(-1, 1, 24)) @ v
    torch.testing.assert_close(orthogonalize(matrix, steps=6), u @ v, atol=5e-3, rtol=0)


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1e10])
def test_newton_schulz_does_not_depend_on_scale(scale):
    matrix = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalize(matrix * scale), orthogonalize(matrix), atol=1e-4, rtol=0)


def test_newton_schulz_leaves_zeros_and_its_argument_alone():
    assert torch.equal(orthogonalize(torch.zeros(2, 8, 16)), torch.zeros(2, 8, 16))
    matrix = torch.randn(8, 16)
    before = matrix.clone()
    orthogonalize(matrix)
    assert torch.equal(matrix, before)
    with pytest.raises(ValueError, match="1 to 6"):
        orthogonalize(matrix, steps=7)


def test_muon_equals_a_plain_reference():
    shapes = [(16, 16), (16, 16), (40, 16), (16, 40), (24, 16)]
    parameters, expected = _parameters(*shapes), _parameters(*shapes)
    optimizer = MuonAdamW(
        [{"params": parameters, "method": "muon", "lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "ns_steps": 6}]
    )
    buffers = [torch.zeros(shape) for shape in shapes]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        for i, p in enumerate(parameters):
            buffers[i] = 0.9 * buffers[i] + 0.1 * p.grad
            u, _, v = torch.linalg.svd(0.9 * buffers[i] + 0.1 * p.grad, full_matrices=False)
            step = 0.2 * max(p.shape) ** 0.5 * u @ v
            expected[i].data = expected[i].data * (1 - 0.02 * 0.1) - 0.02 * step
        optimizer.step()
    for got, want in zip(parameters, expected, strict=True):
        torch.testing.assert_close(got, want, atol=2e-3, rtol=0)  # the error of six Newton–Schulz steps, five times


def test_stacked_matrices_are_stepped_each_by_itself():
    for shape in [(3, 16, 40), (3, 40, 16), (1, 16, 16)]:
        stack, alone = _parameters(shape)[0], [nn.Parameter(matrix.clone()) for matrix in _parameters(shape)[0]]
        (other,), (same,) = (
            _parameters((40, 16), seed=3),
            _parameters((40, 16), seed=3),
        )
        settings = {"method": "muon", "lr": 0.02, "weight_decay": 0.1}
        stacked = MuonAdamW([{"params": [other, stack], **settings}])
        apart = MuonAdamW([{"params": [*alone, same], **settings}])
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            stack.grad = torch.randn(shape, generator=generator)
            stack.grad[0] *= 100  # an expert with large gradients does not make the steps of others small
            other.grad = same.grad = torch.randn(other.shape, generator=generator)
            for matrix, grad in zip(alone, stack.grad, strict=True):
                matrix.grad = grad.clone()
            stacked.step()
            apart.step()
        torch.testing.assert_close(stack, torch.stack(list(alone)), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other, same, rtol=1e-5, atol=1e-6)


def test_an_expert_that_never_had_a_token_stays_where_it_is():
    (stack,) = _parameters((2, 8, 16))
    before = stack.detach().clone()
    optimizer = MuonAdamW([{"params": [stack], "method": "muon", "lr": 0.02}])
    stack.grad = torch.randn(2, 8, 16)
    stack.grad[1] = 0
    optimizer.step()
    assert [torch.equal(a, b) for a, b in zip(stack, before, strict=True)] == [False, True]


def test_a_muon_step_has_the_root_mean_square_of_an_adamw_step():
    for shape in [(64, 64), (64, 256), (256, 64)]:
        (p,) = _parameters(shape)
        before = p.detach().clone()
        _train([p], MuonAdamW([{"params": [p], "method": "muon", "lr": 0.5}]), steps=1)
        assert ((p.detach() - before).square().mean().sqrt() / 0.5).item() == pytest.approx(0.2, rel=0.05)


def test_adamw_part_equals_torch():
    shapes = [(16, 8), (8,), (4, 4)]
    parameters, expected = _parameters(*shapes), _parameters(*shapes)
    settings = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-10, "weight_decay": 0.1}
    _train(parameters, MuonAdamW([{"params": parameters, "method": "adamw", **settings}]), steps=20)
    _train(expected, torch.optim.AdamW(expected, **settings), steps=20)
    for got, want in zip(parameters, expected, strict=True):
        torch.testing.assert_close(got, want)


def _optimizer(parameters):
    return MuonAdamW(
        [
            {"params": parameters[:2], "method": "muon", "lr": 0.02, "weight_decay": 0.01},
            {"params": parameters[2:], "method": "adamw", "lr": 0.003},
        ]
    )


def test_resume_is_bit_identical(tmp_path):
    shapes = [(16, 24), (24, 16), (10, 16), (16,)]
    straight = _parameters(*shapes)
    optimizer = _optimizer(straight)
    _train(straight, optimizer, steps=3)
    torch.save({"optimizer": optimizer.state_dict(), "parameters": straight}, tmp_path / "checkpoint.pt")
    _train(straight, optimizer, steps=3, seed=7)

    resumed = _parameters(*shapes, seed=99)
    optimizer = _optimizer(resumed)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for p, saved in zip(resumed, checkpoint["parameters"], strict=True):
        p.data.copy_(saved)
    optimizer.load_state_dict(checkpoint["optimizer"])
    _train(resumed, optimizer, steps=3, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_loaded_step_counts_are_as_the_fused_kernel_wants_them():
    """torch moves them to the parameter's device, and to float32, only for groups that say `fused`."""
    parameters = _parameters((8, 8), (8, 8), (8, 8), (8,))
    optimizer = _optimizer(parameters)
    _train(parameters, optimizer, steps=2)
    saved = optimizer.state_dict()
    saved["state"][2]["step"] = saved["state"][2]["step"].to(torch.float64)
    optimizer.load_state_dict(saved)
    assert optimizer.state[parameters[2]]["step"].dtype == torch.float32
    _train(parameters, optimizer, steps=1)


def test_parameters_without_gradient_are_left_alone():
    parameters = _parameters((8, 8), (8, 8), (8, 8), (8,))
    optimizer = _optimizer(parameters)
    _train(parameters, optimizer, steps=1)
    before = [p.detach().clone() for p in parameters]
    state = copy.deepcopy([optimizer.state[p] for p in parameters])
    for p in parameters:
        p.grad = torch.ones_like(p)
    parameters[0].grad = parameters[3].grad = None
    optimizer.step()
    assert [torch.equal(a, b) for a, b in zip(parameters, before, strict=True)] == [True, False, False, True]
    for i in (0, 3):
        now = optimizer.state[parameters[i]]
        assert all(torch.equal(now[key], state[i][key]) for key in now)
    for p in parameters:
        p.grad = None
    optimizer.step()  # no gradient at all


def test_step_runs_its_closure():
    parameters = _parameters((8, 8), (8, 8), (8, 8), (8,))

    def closure():
        loss = sum(p.square().sum() for p in parameters)
        loss.backward()
        return loss.item()

    optimizer = _optimizer(parameters)
    first = optimizer.step(closure)
    optimizer.zero_grad()
    assert optimizer.step(closure) < first


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"method": "sgd"}, "method is 'sgd'"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"momentum": 1.0}, "momentum has 1.0"),
        ({"betas": (0.9, 1.5)}, "betas has 1.5"),
        ({"ns_steps": 9}, "ns_steps is 9"),
        ({"method": "muon"}, "belongs in an adamw group"),
    ],
)
def test_bad_settings_are_refused(group, message):
    with pytest.raises(ValueError, match=message):
        MuonAdamW([{"params": _parameters((8,)), **group}])
