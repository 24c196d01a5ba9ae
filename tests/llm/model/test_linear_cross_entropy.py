"""The head and the loss a chunk at a time: with a cap, with z-loss, in bfloat16, under autocast."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llm.model import GPT, GPTConfig
from llm.model import loss as loss_module
from llm.model.linear_cross_entropy import linear_cross_entropy
from llm.model.loss import IGNORED, head_and_loss

TARGETS = torch.tensor([1, IGNORED, 3, 0, 5, IGNORED, 2])


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


def plain(x: Tensor, weight: Tensor, cap: float | None, z_loss: float) -> tuple[Tensor, Tensor]:
    logits = x @ weight.T
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    nll = F.cross_entropy(logits, TARGETS, ignore_index=IGNORED, reduction="sum")
    return nll + z_loss * logits.logsumexp(-1)[TARGETS != IGNORED].square().sum(), nll


@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_values_and_gradients_with_cap_and_z_loss(cap: float | None, z_loss: float) -> None:
    x, weight = draw(7, 4), draw(6, 4)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(x, weight, TARGETS, IGNORED, 3, cap, z_loss)[0]

    assert torch.autograd.gradcheck(ours, (x, weight))
    got, wanted = linear_cross_entropy(x, weight, TARGETS, IGNORED, 3, cap, z_loss), plain(x, weight, cap, z_loss)
    torch.testing.assert_close(got, wanted)
    assert not got[1].requires_grad


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("cap", [None, 0.7])
def test_z_loss_is_in_the_gradient_and_not_in_the_value(
    monkeypatch: pytest.MonkeyPatch, chunked: bool, cap: float | None
) -> None:
    dtype = torch.float32 if chunked else torch.float64  # float64 of few rows has the logits whole
    x, weight = draw(7, 4, dtype=dtype), draw(6, 4, dtype=dtype)
    got, count = head_and_loss(x[None], weight, TARGETS[None], cap, z_loss=0.3)
    loss, nll = plain(x, weight, cap, 0.3)
    torch.testing.assert_close(got, nll)
    assert count == 5
    for a, b in zip(torch.autograd.grad(got, (x, weight)), torch.autograd.grad(loss, (x, weight)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["autocast", "true"])
@pytest.mark.parametrize("settings", [{}, {"cap": 3.0}, {"z_loss": 0.01}])
def test_bfloat16_is_as_near_to_the_exact_gradient_as_the_plain_form(
    monkeypatch: pytest.MonkeyPatch, kind: str, settings: dict[str, float]
) -> None:
    targets = torch.randint(300, (1, 500), generator=torch.Generator().manual_seed(0))
    targets[0, :9] = IGNORED
    x, weight = draw(1, 500, 32, dtype=torch.float32), draw(300, 32, dtype=torch.float32)
    if kind == "true":
        x, weight = x.detach().bfloat16().requires_grad_(), weight.detach().bfloat16().requires_grad_()

    def graded(rows: int, dtype: torch.dtype) -> list[Tensor]:
        monkeypatch.setattr(loss_module, "rows_at_once", lambda *_: rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast" and dtype != torch.float64):
            inputs = (x.to(dtype), weight.to(dtype)) if dtype == torch.float64 else (x, weight)
            nll, _ = head_and_loss(*inputs, targets, **settings)
        return [nll.detach().double(), *(g.double() for g in torch.autograd.grad(nll, (x, weight)))]

    exact = graded(10_000, torch.float64)
    whole, chunked = (
        [float((got - want).norm() / want.norm()) for got, want in zip(graded(rows, x.dtype), exact, strict=True)]
        for rows in (10_000, 64)
    )
    assert chunked[0] < 1e-3
    assert all(mine < 1.2 * theirs + 1e-4 for mine, theirs in zip(chunked, whole, strict=True)), (chunked, whole)


def test_a_frozen_head_is_given_no_gradient() -> None:
    x, weight = draw(7, 4), draw(6, 4).detach()
    loss, _ = linear_cross_entropy(x, weight, TARGETS, IGNORED, 3)
    loss.backward()
    torch.testing.assert_close(x.grad, torch.autograd.grad(plain(x, weight, None, 0)[0], x)[0])


def test_the_model_passes_its_z_loss_on() -> None:
    model = GPT(GPTConfig.preset("tiny", n_layers=1, d_model=16, n_heads=2, vocab_size=32))
    tokens = torch.arange(20).view(2, 10)
    values, gradients = [], []
    for weight in (0.0, 0.5):
        model.z_loss = weight
        nll, _ = model(tokens, tokens)
        values.append(nll.item())
        gradients.append(torch.autograd.grad(nll, model.embedding.weight)[0])
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    assert not torch.allclose(*gradients)
