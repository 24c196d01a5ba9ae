"""What a run is told reaches its optimizer, its schedule, its length and its starting weights."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from support.fake_data import TINY, VOCAB, ListDataModule, make_batch, make_module, make_trainer

from llm.errors import UserError
from llm.model import GPTConfig
from llm.modules import PretrainModule
from llm.optim import warmup_cosine, warmup_linear, warmup_stable_decay

BATCHES = [make_batch(2, 8, 16, seed) for seed in range(12)]


def fit(module: PretrainModule, *callbacks: L.Callback, ckpt_path: Path | None = None, **settings: Any) -> L.Trainer:
    trainer = make_trainer(**{"max_epochs": -1, "callbacks": list(callbacks), **settings})
    trainer.fit(module, datamodule=ListDataModule(BATCHES, BATCHES[:1]), ckpt_path=ckpt_path)
    return trainer


class Watch(L.Callback):
    """Notes the learning rate of each step, and the steps after which the model is validated."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.validated: list[int] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.validated.append(trainer.global_step)


def test_each_role_gets_its_own_settings():
    settings = {"optimizer": "muon", "lr": 0.02, "embedding_lr": 0.1, "head_lr": 0.2, "scalar_lr": 0.3}
    module = make_module(max_tokens=16, warmup=0.0, weight_decay=0.5, betas=(0.7, 0.8), momentum=0.6, **settings)
    groups = {group["role"]: group for group in fit(module).optimizers[0].param_groups}
    assert {role: (group["method"], group["initial_lr"], group["weight_decay"]) for role, group in groups.items()} == {
        "matrix": ("muon", 0.02, 0.5),
        "embedding": ("adamw", 0.1, 0.0),
        "head": ("adamw", 0.2, 0.0),
        "scalar": ("adamw", 0.3, 0.0),
    }
    assert all((group["betas"], group["momentum"]) == ((0.7, 0.8), 0.6) for group in groups.values())


@pytest.mark.parametrize(
    ("schedule", "multiplier"),
    [
        ("cosine", lambda step: warmup_cosine(step, 8, warmup=0.25, min_ratio=0.2)),
        ("linear", lambda step: warmup_linear(step, 8, warmup=0.25, min_ratio=0.2)),
        ("wsd", lambda step: warmup_stable_decay(step, 8, warmup=0.25, decay=0.5, min_ratio=0.2)),
    ],
)
def test_the_rate_follows_the_schedule(schedule: str, multiplier: Any):
    watch = Watch()
    fit(make_module(max_tokens=8 * 16, lr=0.5, schedule=schedule, warmup=0.25, decay=0.5, min_lr=0.2), watch)
    assert watch.rates == pytest.approx([0.5 * multiplier(step) for step in range(8)])


def test_weights_of_another_shape_are_refused_with_the_settings_that_differ(tmp_path: Path):
    fit(make_module(max_tokens=2 * 16)).save_checkpoint(tmp_path / "2.ckpt")
    with pytest.raises(UserError, match=r"do not fit the model \(d_ff 32 -> 48\): use the model settings"):
        fit(make_module(max_tokens=4 * 16, gpt={**TINY, "d_ff": 48}), ckpt_path=tmp_path / "2.ckpt")


def test_a_resumed_run_steps_with_its_own_settings_and_not_with_those_of_the_checkpoint(tmp_path: Path):
    fit(make_module(max_tokens=2 * 16)).save_checkpoint(tmp_path / "2.ckpt")
    resumed = make_module(max_tokens=4 * 16, lr=0.5, weight_decay=0.25, betas=(0.7, 0.8))
    watch = Watch()
    (optimizer,) = fit(resumed, watch, ckpt_path=tmp_path / "2.ckpt").optimizers
    assert [group["betas"] for group in optimizer.param_groups] == [(0.7, 0.8)] * 4
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.0, 0.0, 0.0]
    assert watch.rates == pytest.approx([0.5 * warmup_cosine(step, 4, warmup=0.0, min_ratio=0.1) for step in (2, 3)])


def test_a_decay_branches_off_a_stable_checkpoint_and_ends_at_the_floor(tmp_path: Path):
    stable = {"lr": 0.5, "schedule": "wsd", "warmup": 0.1, "decay": 0.2, "min_lr": 0.1}
    fit(make_module(**stable, max_tokens=20 * 16), StopAfter(5)).save_checkpoint(tmp_path / "5.ckpt")
    branch = {**stable, "decay_from_checkpoint": True, "max_tokens": 9 * 16}
    watch = Watch()
    trainer = fit(make_module(**branch), watch, ckpt_path=tmp_path / "5.ckpt")
    assert watch.rates == pytest.approx([0.5 * (0.1 + 0.9 * (1 - step / 4)) for step in range(4)])  # begins at the peak
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)

    # The branch, interrupted after two steps and resumed, goes on with its own decay.
    fit(make_module(**branch), StopAfter(7), ckpt_path=tmp_path / "5.ckpt").save_checkpoint(tmp_path / "7.ckpt")
    rest = Watch()
    fit(make_module(**branch), rest, ckpt_path=tmp_path / "7.ckpt")
    assert rest.rates == pytest.approx(watch.rates[2:])


class StopAfter(L.Callback):
    """Ends a run after so many steps, whatever its budget."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps:
            trainer.should_stop = True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosine", "decay_from_checkpoint": True}, "goes with schedule wsd"),
        (
            {"schedule": "wsd", "decay_from_checkpoint": True, "max_tokens": 5 * 16},
            "has 5 steps already, and the budget is 5",
        ),
        ({"schedule": "wsd", "decay_from_checkpoint": True, "max_tokens": 64 * 16}, "is 0.30 of its peak"),
    ],
)
def test_a_decay_that_cannot_branch_off_is_refused(tmp_path: Path, settings: dict[str, Any], message: str):
    # Of the last case: taken in the middle of the warm-up.
    warmup = 0.1 if "0.30" not in message else 1.0
    stable = make_module(schedule="wsd", warmup=warmup, max_tokens=20 * 16)
    fit(stable, StopAfter(5)).save_checkpoint(tmp_path / "5.ckpt")
    with pytest.raises(UserError, match=message):
        fit(make_module(**settings), ckpt_path=tmp_path / "5.ckpt")


def test_a_decay_without_a_checkpoint_is_refused():
    with pytest.raises(UserError, match="needs the checkpoint to branch off"):
        fit(make_module(schedule="wsd", decay_from_checkpoint=True, max_tokens=32))


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25]), ("lr", [0.5, 1, 1, 0.5])],
)
def test_weight_decay_follows_its_schedule(schedule: str, factors: list[float]):
    class Decay(Watch):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            self.rates.append(trainer.optimizers[0].param_groups[0]["weight_decay"])

        def on_before_optimizer_step(self, *_: Any) -> None:
            pass

    watch = Decay()
    settings = {"schedule": "wsd", "warmup": 0.5, "decay": 0.5, "min_lr": 0.0, "weight_decay": 0.2}
    fit(make_module(**settings, weight_decay_schedule=schedule, max_tokens=4 * 16), watch)
    assert watch.rates == pytest.approx([0.2 * factor for factor in factors])


def test_mup_multiplies_the_rates_by_role_and_leaves_what_a_step_decays():
    module = make_module(max_tokens=16, mup_base_width=4, lr=0.02, head_lr=0.2, weight_decay=0.5)
    groups = {group["role"]: group for group in fit(module).optimizers[0].param_groups}
    rates = {role: group["initial_lr"] for role, group in groups.items()}
    assert rates == pytest.approx({"matrix": 0.005, "embedding": 0.02, "head": 0.05, "scalar": 0.02})
    assert groups["matrix"]["weight_decay"] == pytest.approx(2.0)


def test_mup_is_refused_where_a_matrix_is_both_embedding_and_head():
    with pytest.raises(UserError, match="mup_base_width wants"):
        make_module(mup_base_width=8, gpt={**TINY, "tie_embeddings": True})


@pytest.mark.parametrize(("max_tokens", "steps"), [(3 * 16, 3), (3 * 16 + 1, 4)])
def test_a_budget_is_rounded_up_to_whole_steps(max_tokens: int, steps: int):
    assert fit(make_module(max_tokens=max_tokens)).global_step == steps


@pytest.mark.parametrize("accumulate", [1, 2])
def test_validation_comes_every_so_many_optimizer_steps_and_at_the_end(accumulate: int):
    watch = Watch()
    fit(make_module(max_tokens=5 * 16, validate_every=2), watch, accumulate_grad_batches=accumulate)
    assert watch.validated == [2, 4, 5]


def test_scores_of_one_validation_do_not_count_in_the_next():
    module = make_module(max_tokens=4 * 16, validate_every=2, lr=0.1)
    last = fit(module).callback_metrics
    (alone,) = make_trainer().validate(module, datamodule=ListDataModule([], BATCHES[:1]), verbose=False)
    assert float(last["val_loss"]) == pytest.approx(alone["val_loss"])


def test_the_starting_weights_follow_from_the_seed_of_the_run_alone():
    def drawn(seed: int, numbers: int) -> torch.Tensor:
        L.seed_everything(seed, verbose=False)
        torch.rand(numbers)
        module = make_module()
        module.configure_model()
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

    assert torch.equal(drawn(1, numbers=0), drawn(1, numbers=5))
    assert not torch.equal(drawn(1, numbers=0), drawn(2, numbers=0))


def test_a_short_context_costs_the_operations_of_a_model_with_that_context():
    module = make_module(short_context=4, short_share=0.5, max_tokens=4 * 16)
    costs: list[float] = []

    class Costs(L.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            costs.append(module.flops_per_token)

    fit(module, Costs())
    short, whole = (
        GPTConfig.preset("tiny", **TINY, vocab_size=VOCAB, context_length=length).flops_per_token() for length in (4, 8)
    )
    assert costs == [short, short, whole, whole]
