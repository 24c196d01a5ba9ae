"""A network beside counts: one distribution, in training without the token's own occurrence."""

import numpy as np
import pytest
import torch
from support.models import count_text, random_model

from llm.model import GPT, GPTConfig
from llm.model import loss as loss_module
from llm.model.linear_cross_entropy import linear_cross_entropy
from llm.model.loss import IGNORED

TOKENS = torch.randint(0, 12, (3, 16), generator=torch.Generator().manual_seed(1))
TARGETS = torch.cat([TOKENS[:, 1:], TOKENS.new_full((3, 1), IGNORED)], 1)


def build(**change: object) -> GPT:
    return random_model(context_length=16, ngram_order=4, **change)


def test_it_is_a_distribution_of_which_every_question_gives_a_part() -> None:
    model = build().eval()
    logs = model(TOKENS)
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(3, 16))
    each = model(TOKENS, TARGETS, each=True)
    chosen = logs.gather(-1, TARGETS.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(each, -chosen * (TARGETS != IGNORED))
    total, count = model(TOKENS, TARGETS)
    torch.testing.assert_close(total, each.sum())
    assert count == 45


def test_in_training_a_text_that_was_counted_is_as_likely_as_one_that_was_not() -> None:
    model = build()
    text = np.random.default_rng(3).integers(0, 40, 16)
    rows = torch.from_numpy(text)[None]
    targets = torch.roll(rows, -1, 1)  # counted as a ring
    count_text(model.ngrams.counts, text)
    trained, scored = (model.train(mode)(rows, targets, each=True) for mode in (True, False))
    assert (trained - scored).min() > 0  # what comes once was seen in scoring, and never in training
    count_text(model.ngrams.counts, np.arange(40))
    others = model.eval()(rows, targets, each=True)
    assert abs(trained.mean() - others.mean()) < 0.3 * (trained.mean() - scored.mean())


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_gradients_of_the_chunked_loss_are_those_of_the_plain_form(
    monkeypatch: pytest.MonkeyPatch, z_loss: float, cap: float | None
) -> None:
    model = build(logit_soft_cap=cap)
    model.z_loss = z_loss
    results = []
    for rows in (5, None):
        monkeypatch.setattr(loss_module, "rows_at_once", lambda *_, rows=rows: rows or 10_000)
        if rows is None:  # whole logits
            monkeypatch.setattr(loss_module, "linear_cross_entropy", None)
            model.double()
        nll, _ = model(TOKENS, TARGETS)
        results.append([nll.detach().double(), *(g.double() for g in torch.autograd.grad(nll, [*model.parameters()]))])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("cap", [None, 0.7])
def test_gradients_where_probability_is_added(z_loss: float, cap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, other = (
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((7, 4), (6, 4), (7,))
    )
    targets = torch.tensor([1, IGNORED, 3, 0, 5, IGNORED, 2])

    def ours(*inputs: torch.Tensor) -> torch.Tensor:
        return linear_cross_entropy(*inputs[:2], targets, IGNORED, 3, cap, z_loss, None, inputs[2])[0]

    assert torch.autograd.gradcheck(ours, (x, weight, other))


def test_the_gate_starts_level_and_is_no_matrix_of_muon() -> None:
    from llm.optim import parameter_groups

    model = GPT(GPTConfig(vocab_size=40, context_length=8, n_layers=1, d_model=16, n_heads=2, ngram_order=3))
    assert not model.ngrams.gate.weight.any()
    assert sum(p.numel() for p in model.parameters()) == model.config.n_parameters()
    (names,) = [group["names"] for group in parameter_groups(model) if group["role"] == "scalar"]
    assert {"ngrams.gate.weight", "ngrams.gate.bias"} < set(names)


def test_new_weights_forget_the_counts() -> None:
    model = build()
    assert len(model.ngrams.counts) > 0
    model.init_weights()
    assert len(model.ngrams.counts) == 0
    assert not model.ngrams.counts.counts_1.any()
