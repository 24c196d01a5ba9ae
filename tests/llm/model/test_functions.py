"""Each hand-written backward pass against finite differences and against its plain form."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model import functions
from llm.model.functions import causal_attention, project, rms_norm, rotate_half, swiglu
from llm.model.linear_cross_entropy import linear_cross_entropy
from llm.model.loss import IGNORED, head_and_loss, next_token_loss


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


def angles(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    angle = torch.linspace(0, 9, 12, dtype=dtype).view(4, 1, 3)
    return angle.cos().repeat(1, 1, 2), torch.cat((-angle.sin(), angle.sin()), -1)


def plain_rotation(x: Tensor) -> Tensor:
    cos, sin = angles(x.dtype)
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((second, first), -1) * sin


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_token_is_turned_as_several_are(dtype: torch.dtype) -> None:
    x, (cos, sin) = draw(2, 4, 3, 6, dtype=dtype).detach(), angles(dtype)
    with torch.no_grad():
        singly = torch.cat([rotate_half(x[:, i : i + 1], cos[i : i + 1], sin[i : i + 1]) for i in range(4)], 1)
    torch.testing.assert_close(singly, plain_rotation(x), rtol=1e-6, atol=1e-6)


def joined(x: Tensor, *weights: Tensor) -> Tensor:
    """`project`, with its results side by side; the weights as those of linear layers."""
    layers = []
    for weight in weights:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        del layer.weight
        layer.weight = weight
        layers.append(layer)
    return torch.cat(project(x, *layers), -1)


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.einsum("bthd,bshd->bhts", query, key) / query.shape[-1] ** 0.5
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(ahead, float("-inf")).softmax(-1), value)


TARGETS = torch.tensor([1, IGNORED, 3, 0, 5, IGNORED, 2])
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "rms_norm": (lambda x, w: rms_norm(x, w, 1e-5), lambda x, w: F.rms_norm(x, (6,), w, 1e-5), [(3, 4, 6), (6,)]),
    "rotate_half": (lambda x: rotate_half(x, *angles(x.dtype)), plain_rotation, [(2, 4, 3, 6)]),
    "swiglu": (swiglu, lambda gate, up: F.silu(gate) * up, [(3, 5), (3, 5)]),
    "project": (joined, lambda x, *ws: torch.cat([x @ w.T for w in ws], -1), [(2, 3, 4), (5, 4), (2, 4), (3, 4)]),
    "attention": (causal_attention, plain_attention, [(2, 5, 3, 4)] * 3),
    "attention by hand": (functions._CausalAttention.apply, plain_attention, [(2, 5, 3, 4)] * 3),
    "attention of two tokens": (functions._CausalAttention.apply, plain_attention, [(1, 2, 1, 4)] * 3),
    "linear_cross_entropy": (
        lambda x, w: linear_cross_entropy(x, w, TARGETS, IGNORED, chunk=3)[0],
        lambda x, w: F.cross_entropy(x @ w.T, TARGETS, ignore_index=IGNORED, reduction="sum"),
        [(7, 4), (6, 4)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_match_finite_differences(name: str) -> None:
    function, _, shapes = CASES[name]
    assert torch.autograd.gradcheck(function, [draw(*shape) for shape in shapes])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_match_the_plain_form(name: str, dtype: torch.dtype) -> None:
    function, plain, shapes = CASES[name]
    inputs = [draw(*shape, dtype=dtype) for shape in shapes]
    ours, theirs = function(*inputs), plain(*inputs)
    torch.testing.assert_close(ours, theirs)
    grad = draw(*ours.shape, dtype=dtype).detach()
    for a, b in zip(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_that_are_not_contiguous_are_understood() -> None:
    x, weight = draw(4, 3, 6), draw(6)
    grad = torch.randn(3, 4, 6, dtype=torch.float64).transpose(0, 1)
    ours = torch.autograd.grad(rms_norm(x, weight, 1e-5), (x, weight), grad)
    theirs = torch.autograd.grad(F.rms_norm(x, (6,), weight, 1e-5), (x, weight), grad)
    torch.testing.assert_close(ours, theirs)


def test_projecting_leaves_frozen_layers_without_a_gradient_and_calls_any_other_kind() -> None:
    x, frozen, learning = draw(3, 4, dtype=torch.float32), nn.Linear(4, 5, bias=False), nn.Linear(4, 2, bias=False)
    frozen.requires_grad_(False)
    torch.cat(project(x, frozen, learning), -1).sum().backward()
    assert frozen.weight.grad is None
    torch.testing.assert_close(learning.weight.grad, x.detach().sum(0).expand(2, 4))
    torch.testing.assert_close(x.grad, (frozen.weight.sum(0) + learning.weight.sum(0)).expand(3, 4))
    doubled = nn.Sequential(learning, nn.Linear(2, 2))  # such as an adapter that stands in for a layer
    torch.testing.assert_close(project(x, frozen, doubled)[1], doubled(x))


@pytest.mark.parametrize("heads", [6, 2])
@pytest.mark.parametrize("short", [True, False])
def test_attention_is_the_same_by_hand_and_by_sdpa(monkeypatch: pytest.MonkeyPatch, heads: int, short: bool) -> None:
    """Queries of more heads than keys, and rows of other lengths, go to SDPA."""
    monkeypatch.setattr(functions, "SHORT_ROW", range(40, 41) if short else range(41, 50))
    query, key, value = draw(2, 40, 6, 8), draw(2, 40, heads, 8), draw(2, 40, heads, 8)
    mixed = causal_attention(query, key, value)
    repeated = [tensor.repeat_interleave(6 // heads, 2) for tensor in (key, value)]
    expected = plain_attention(query, *repeated)
    torch.testing.assert_close(mixed, expected)
    assert ("CausalAttention" in mixed.grad_fn.name()) == (short and heads == 6)
    weights = draw(*mixed.shape).detach()
    found = torch.autograd.grad((mixed * weights).sum(), (query, key, value))
    torch.testing.assert_close(found, torch.autograd.grad((expected * weights).sum(), (query, key, value)))


def test_dropped_probabilities_and_rows_without_a_gradient_go_to_sdpa() -> None:
    query, key, value = (draw(1, 200, 2, 4) for _ in range(3))
    assert "CausalAttention" in causal_attention(query, key, value).grad_fn.name()
    assert "CausalAttention" not in causal_attention(query, key, value, 0.5).grad_fn.name()
    with torch.no_grad():
        torch.testing.assert_close(causal_attention(query, key, value), plain_attention(query, key, value))


def test_backward_can_run_twice() -> None:
    x, weight = draw(7, 4), draw(6, 4)
    loss, _ = linear_cross_entropy(x, weight, TARGETS, IGNORED, 3)
    first = torch.autograd.grad(loss, (x, weight), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, (x, weight)), first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(dtype: torch.dtype) -> None:
    x = draw(2, 4, 3, 6).detach()
    assert rotate_half(x.to(dtype), *angles(torch.float32)).dtype == dtype
    torch.testing.assert_close(
        rotate_half(x.to(dtype), *angles(torch.float32)).double(), plain_rotation(x), rtol=0.02, atol=0.02
    )
    normed = rms_norm(x.to(dtype), torch.ones(6, dtype=dtype), 0.5)
    assert normed.dtype == dtype
    torch.testing.assert_close(normed.double(), F.rms_norm(x, (6,), None, 0.5), rtol=0.02, atol=0.02)


class TestLoss:
    """The loss is a sum and a count, shifts nothing, and is the same with the head fused in and without."""

    def test_nothing_is_shifted(self) -> None:
        logits = torch.full((1, 3, 4), -50.0).scatter(-1, torch.tensor([[[2], [0], [3]]]), 50.0)
        nll, count = next_token_loss(logits, torch.tensor([[2, 0, 3]]))
        assert (nll.item(), count.item()) == (0.0, 3)

    @pytest.mark.parametrize("rows", [1, 600])  # less than a chunk, and more than one
    def test_fused_equals_plain(self, rows: int) -> None:
        x, weight = draw(rows, 2, 8, dtype=torch.float32), draw(20, 8, dtype=torch.float32)
        targets = torch.randint(20, (rows, 2), generator=torch.Generator().manual_seed(0))
        targets[0, 1] = IGNORED
        fused, plain = head_and_loss(x, weight, targets), next_token_loss(x @ weight.T, targets)
        torch.testing.assert_close(fused[0], plain[0], rtol=1e-6, atol=1e-5)
        assert fused[1] == plain[1] == rows * 2 - 1
        for a, b in zip(
            torch.autograd.grad(fused[0], (x, weight)), torch.autograd.grad(plain[0], (x, weight)), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)

    def test_no_target_is_zero_and_finite(self) -> None:
        x, weight = draw(2, 3, 8, dtype=torch.float32), draw(20, 8, dtype=torch.float32)
        targets = torch.full((2, 3), IGNORED)
        for nll, count in (head_and_loss(x, weight, targets), next_token_loss(x @ weight.T, targets)):
            assert (nll.item(), count.item()) == (0.0, 0)
            assert (torch.autograd.grad(nll, x)[0] == 0).all()

    def test_unlikely_targets_are_finite(self) -> None:
        weight = torch.tensor([[500.0], [-500.0]])
        nll, _ = head_and_loss(torch.ones(1, 1, 1), weight, torch.tensor([[1]]))
        assert nll.item() == pytest.approx(1000.0)

    @pytest.mark.parametrize("gap", [20.0, 68.0, 75.0, 90.0, 110.0])  # e^-68 is 1e-30; from e^-87 on digits go
    def test_unlikely_targets_are_as_exact_as_any(self, gap: float) -> None:
        weight, targets = torch.tensor([[gap], [0.0], [0.3]]), torch.tensor([[1, 0, IGNORED, 2]])
        x = torch.ones(1, 4, 1)
        nll, _ = head_and_loss(x, weight, targets)
        exact = next_token_loss(x.double() @ weight.double().T, targets)[0]
        assert nll.item() == pytest.approx(exact.item(), rel=1e-6)

    def test_autocast_takes_the_plain_path(self) -> None:
        x, weight = draw(2, 3, 8, dtype=torch.float32), draw(20, 8, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            nll, _ = head_and_loss(x, weight, torch.zeros(2, 3, dtype=torch.int64))
        nll.backward()
        assert x.grad is not None
        assert nll.dtype == torch.float32

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_the_sum_is_not_rounded_to_a_narrow_dtype(self, dtype: torch.dtype) -> None:
        x, weight = draw(700, 1, 8, dtype=torch.float32).to(dtype), draw(20, 8, dtype=torch.float32).to(dtype)
        targets = torch.arange(700).view(700, 1) % 20
        exact = F.cross_entropy((x @ weight.T).double().flatten(0, 1), targets.flatten(), reduction="sum")
        assert head_and_loss(x, weight, targets)[0].item() == pytest.approx(exact.item(), rel=1e-6)

    def test_scoring_without_gradients(self) -> None:
        x, weight = draw(2, 3, 8, dtype=torch.float32), draw(20, 8, dtype=torch.float32)
        targets = torch.arange(6).view(2, 3)
        with torch.inference_mode():
            nll, _ = head_and_loss(x, weight, targets)
        torch.testing.assert_close(nll, next_token_loss(x @ weight.T, targets)[0].detach())
