"""The gradient of a step is that of Σ nll / Σ targets over its whole global batch (B1, B2, B11)."""

from typing import Any

import pytest
import torch
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer
from torch import Tensor

from llm.errors import UserError
from llm.model import next_token_loss
from llm.modules import PretrainModule


class GradientsAtStep(PretrainModule):
    """Keeps the gradients with which each optimizer step is taken."""

    seen: list[list[Tensor]]

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        super().on_before_optimizer_step(optimizer)
        self.seen.append([p.grad.clone() for p in self.parameters() if p.grad is not None])


def gradients_of(batches: list[dict[str, Tensor]], accumulate: int) -> list[list[Tensor]]:
    torch.manual_seed(0)
    module = make_module(lr=0.0)  # every step starts from the same weights
    module.__class__ = GradientsAtStep
    module.seen = []  # type: ignore[attr-defined]
    trainer = make_trainer(accumulate_grad_batches=accumulate)
    trainer.fit(module, datamodule=ListDataModule(batches))
    return module.seen  # type: ignore[attr-defined]


def expected(batches: list[dict[str, Tensor]]) -> list[Tensor]:
    torch.manual_seed(0)
    module = make_module()
    module.configure_model()
    assert module.model is not None
    sums = [next_token_loss(module.model(b["tokens"]), b["targets"]) for b in batches]
    loss = sum(nll for nll, _ in sums) / sum(n for _, n in sums)
    loss.backward()
    return [p.grad for p in module.parameters() if p.grad is not None]


UNEVEN = [make_batch(2, 8, targets, seed) for seed, targets in enumerate((16, 3, 9, 1, 12, 16))]


@pytest.mark.parametrize(("accumulate", "windows"), [(3, [(0, 3), (3, 6)]), (4, [(0, 4), (4, 6)])])
def test_uneven_micro_batches_give_the_gradient_of_one_big_batch(accumulate: int, windows: list[tuple[int, int]]):
    seen = gradients_of(UNEVEN, accumulate)
    assert len(seen) == len(windows)  # the second case ends in a short window (B2)
    for got, (start, end) in zip(seen, windows, strict=True):
        for mine, wanted in zip(got, expected(UNEVEN[start:end]), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=2e-5, atol=1e-7)


def test_a_step_without_targets_is_finite_and_moves_nothing():
    empty = {"tokens": torch.zeros(2, 8, dtype=torch.int64), "targets": torch.full((2, 8), -100)}
    module = make_module()
    module.configure_model()
    before = [p.detach().clone() for p in module.parameters()]
    trainer = make_trainer()
    trainer.fit(module, datamodule=ListDataModule([empty]))
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))
    assert float(trainer.callback_metrics["train_loss"]) == 0.0


def test_the_logged_loss_is_that_of_the_whole_step():
    module = make_module(lr=0.0)
    trainer = make_trainer(accumulate_grad_batches=6)
    trainer.fit(module, datamodule=ListDataModule(UNEVEN))
    with torch.no_grad():
        sums = [next_token_loss(module(b["tokens"]), b["targets"]) for b in UNEVEN]
    wanted = sum(float(nll) for nll, _ in sums) / sum(int(n) for _, n in sums)
    assert float(trainer.callback_metrics["train_loss"]) == pytest.approx(wanted, rel=1e-5)


def test_z_loss_moves_the_gradient_and_no_score():
    def run(weight: float) -> tuple[dict[str, float], list[Tensor]]:
        torch.manual_seed(0)
        module = make_module(lr=0.0, z_loss=weight)
        module.__class__ = GradientsAtStep
        module.seen = []  # type: ignore[attr-defined]
        trainer = make_trainer()
        trainer.fit(module, datamodule=ListDataModule(UNEVEN[:1], UNEVEN[1:3]))
        return {name: float(trainer.callback_metrics[name]) for name in ("train_loss", "val_loss")}, module.seen[0]  # type: ignore[attr-defined]

    (scores, gradients), (with_z, moved) = run(0.0), run(0.5)
    assert with_z == pytest.approx(scores, rel=1e-6)
    assert not torch.allclose(torch.cat([g.flatten() for g in gradients]), torch.cat([g.flatten() for g in moved]))


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_activation_checkpointing_changes_no_gradient(mode: str):
    def run(mode: str) -> list[Tensor]:
        torch.manual_seed(0)
        module = make_module(lr=0.0, activation_checkpointing=mode)
        module.__class__ = GradientsAtStep
        module.seen = []  # type: ignore[attr-defined]
        make_trainer().fit(module, datamodule=ListDataModule(UNEVEN[:1]))
        assert module.model is not None
        assert module.model.checkpointing == mode
        return module.seen[0]  # type: ignore[attr-defined, no-any-return]

    assert all(torch.equal(a, b) for a, b in zip(run(mode), run("none"), strict=True))


def test_scoring_in_pieces_gives_the_same_scores(monkeypatch: pytest.MonkeyPatch):
    module = make_module().eval()
    module.configure_model()
    whole = module.score(UNEVEN[1])
    monkeypatch.setattr("llm.modules.scoring.LARGEST_SCORED", 1)
    with torch.no_grad():
        torch.testing.assert_close(module.score(UNEVEN[1]), whole.detach(), rtol=1e-6, atol=1e-6)
    assert whole.shape == UNEVEN[1]["targets"].shape


def test_a_short_context_cuts_rows_in_the_first_share_of_the_steps_only():
    shapes: list[tuple[int, ...]] = []
    targets = 0
    module = make_module(short_context=4, short_share=0.5, max_tokens=6 * 16)
    module.configure_model()
    assert module.model is not None
    plain = module.model.forward

    def watched(tokens: Tensor, given: Tensor, documents: None) -> tuple[Tensor, Tensor]:
        nonlocal targets
        shapes.append(tuple(tokens.shape))
        targets += int((given != -100).sum())
        return plain(tokens, given)

    module.model.forward = watched  # type: ignore[assignment, method-assign]
    make_trainer(max_epochs=-1).fit(module, datamodule=ListDataModule(UNEVEN))
    assert shapes == [(4, 4)] * 3 + [(2, 8)] * 3
    assert targets == sum(int((batch["targets"] != -100).sum()) for batch in UNEVEN)  # none is lost (B8)


@pytest.mark.parametrize("settings", [{"short_context": 3}, {"short_context": 0}, {"short_share": 1.5}])
def test_a_short_context_that_cannot_be_is_refused(settings: dict[str, Any]):
    with pytest.raises(UserError, match="short_"):
        make_module(**settings)
