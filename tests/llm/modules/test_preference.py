"""Preference tuning: losses by hand, a reference that is no second model, and steps that do not depend on batches."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.fake_data import make_trainer
from support.fine_tuning import write_base
from torch import Tensor

from datamodules import DataError, PreferenceDataModule
from llm.checkpoint import load_model
from llm.errors import UserError
from llm.modules import PreferenceModule
from llm.modules.preference_losses import dpo, ipo, kto, simpo


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_losses_are_those_of_their_papers():
    c, r = torch.tensor([0.3, -0.2]), torch.tensor([-0.1, 0.4])
    for i, margin in enumerate((0.4, -0.6)):
        assert dpo(c, r)[i].item() == pytest.approx(-math.log(sigmoid(margin)), rel=1e-5)
        smooth = -0.9 * math.log(sigmoid(margin)) - 0.1 * math.log(sigmoid(-margin))
        assert dpo(c, r, 0.1)[i].item() == pytest.approx(smooth, rel=1e-5)
        assert ipo(c, r, 0.25)[i].item() == pytest.approx((margin - 2) ** 2, rel=1e-5)
        assert simpo(c, r, 2.0, 0.5)[i].item() == pytest.approx(-math.log(sigmoid(2 * margin - 0.5)), rel=1e-5)
    wanted = kto(c, torch.tensor([True, False]), torch.tensor(0.5), 0.2)
    assert wanted.tolist() == pytest.approx([1 - sigmoid(0.3 - 0.1), 1 - sigmoid(0.1 + 0.2)], rel=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preference")
    write_base(folder)
    pairs = [{"prompt": f"say {n}", "chosen": f"please: {n}.", "rejected": f"no {n}, no more"} for n in range(120)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    alone = [
        {"prompt": p["prompt"], "completion": p[side], "label": side == "chosen"}
        for p in pairs
        for side in ("chosen", "rejected")
    ]
    (folder / "alone.jsonl").write_text("\n".join(map(json.dumps, alone[::3])))
    return folder


def data_of(folder: Path, **change: Any) -> PreferenceDataModule:
    usual = {
        "tokenizer": str(folder / "tokenizer.json"),
        "sources": str(folder / "pairs.jsonl"),
        "context_length": 64,
        "global_batch_size": 8,
        "batch_size": 8,
        "validation_fraction": 0.2,
        "cache_dir": str(folder / "data"),
    }
    return PreferenceDataModule(**{**usual, **change})


class Recording(PreferenceModule):
    """Keeps the gradients of every step."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.gradients: list[dict[str, Tensor]] = []

    def configure_gradient_clipping(self, *arguments: Any, **settings: Any) -> None:
        self.gradients.append({name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None})


def tune(folder: Path, steps: int = 3, data: dict[str, Any] | None = None, **settings: Any) -> Recording:
    usual = {"lr": 1e-3, "weight_decay": 0.0, "warmup": 0.0, "beta": 0.5}
    module = Recording(str(folder / "base.ckpt"), **{**usual, **settings})
    make_trainer(max_steps=steps, max_epochs=-1).fit(module, datamodule=data_of(folder, **(data or {})))
    return module


@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
@pytest.mark.parametrize("loss", ["dpo", "ipo", "simpo", "kto"])
def test_a_step_does_not_depend_on_how_it_is_cut_into_batches(folder: Path, loss: str, sft_weight: float):
    whole, pieces = (tune(folder, loss=loss, sft_weight=sft_weight, data={"batch_size": size}) for size in (8, 1))
    for one, other in zip(whole.gradients, pieces.gradients, strict=True):
        for name, gradient in one.items():
            assert (gradient - other[name]).norm() <= 1e-4 * gradient.norm() + 1e-8, name
    assert whole.after == pytest.approx(pieces.after, rel=1e-3)


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_the_chosen_answers_are_learnt_beside_the_comparison(folder: Path, loss: str):
    alone, beside = (tune(folder, loss=loss, sft_weight=weight) for weight in (0.0, 2.0))
    scored = make_trainer().predict(PreferenceModule(str(folder / "base.ckpt")), datamodule=data_of(folder))
    assert scored is not None
    nats = [
        -float(log_p) / int(tokens)
        for batch in scored
        for log_p, tokens, kind in zip(batch["log_p"], batch["tokens"], batch["kinds"], strict=True)  # type: ignore[call-overload,index]
        if kind == 1
    ]
    added = beside.before["val_loss"] - alone.before["val_loss"]
    per_item = 2.0 * sum(nats) / len(nats)
    assert added == pytest.approx(per_item if loss == "dpo" else per_item / 2, rel=1e-4)
    assert beside.after["val_reward_chosen"] > alone.after["val_reward_chosen"]


def test_held_out_prompts_are_asked_for_their_chosen_answer(folder: Path):
    data = data_of(folder)
    data.prepare_data()
    data.setup()
    asked = [(data.tokenizer.decode(prompt), data.tokenizer.decode(answer)) for prompt, answer in data.questions(5)]
    assert len(asked) == 5
    for prompt, answer in asked:
        number = prompt.split("say ")[1].split("<|end|>")[0]
        assert answer == f"please: {number}.<|end|>"


def test_single_answers_and_pairs_by_kto(folder: Path):
    module = tune(folder, steps=20, loss="kto", data={"sources": str(folder / "alone.jsonl")})
    assert module.after["val_reward_chosen"] > module.after["val_reward_rejected"]
    assert "val_accuracy" not in module.after
    assert float(module.kl) >= 0
    with pytest.raises(UserError, match="compares pairs, and the data hold single answers: choose kto"):
        tune(folder, data={"sources": str(folder / "alone.jsonl")})


def test_the_reference_is_the_model_to_begin_with(folder: Path):
    module = tune(folder, steps=2)
    model, _ = load_model(folder / "base.ckpt")
    rows = data_of(folder)
    rows.prepare_data()
    rows.setup("fit")
    answers = rows.rows_of_split("train")
    assert answers is not None
    for item in (0, 7):
        batch = answers[item]
        expected = -model(batch["tokens"], batch["targets"], each=True).sum(1)
        assert torch.allclose(module.reference["train"][batch["numbers"]], expected, atol=1e-3)
    assert module.before["val_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert module.before["val_accuracy"] == 0.5


def test_it_learns_what_is_preferred(folder: Path):
    module = tune(folder, steps=60)
    assert module.after["val_accuracy"] > 0.9
    assert module.after["val_margin"] > 1
    assert module.after["val_kl"] == pytest.approx(module.after["val_kl"])


def test_adapters_alone_can_be_tuned(folder: Path):
    module = tune(folder, steps=40, lora={"rank": 4}, lr=1e-2)
    assert module.after["val_accuracy"] > 0.8
    base, _ = load_model(folder / "base.ckpt")
    assert module.model is not None
    kept = {name: weight for name, weight in module.model.state_dict().items() if ".adapters." not in name}
    assert all(torch.equal(weight, base.state_dict()[name]) for name, weight in kept.items())


def test_a_resumed_run_keeps_the_reference(folder: Path, tmp_path: Path):
    settings = {"lr": 1e-3, "weight_decay": 0.0, "warmup": 0.0, "schedule": "linear"}
    first = PreferenceModule(str(folder / "base.ckpt"), **settings)
    trainer = make_trainer(max_steps=2, max_epochs=-1, enable_checkpointing=False)
    trainer.fit(first, datamodule=data_of(folder))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    second = PreferenceModule(str(folder / "base.ckpt"), **settings)
    make_trainer(max_steps=4, max_epochs=-1).fit(second, datamodule=data_of(folder), ckpt_path=tmp_path / "two.ckpt")
    assert torch.equal(first.reference["train"], second.reference["train"])
    scored = PreferenceModule(str(folder / "base.ckpt"), **settings)
    (found,) = make_trainer().validate(
        scored, datamodule=data_of(folder), ckpt_path=tmp_path / "two.ckpt", verbose=False
    )
    assert found["val_loss"] == pytest.approx(first.after["val_loss"], rel=1e-5)
    (again,) = make_trainer().validate(
        PreferenceModule(str(folder / "base.ckpt"), **settings), datamodule=data_of(folder), verbose=False
    )
    assert again["val_loss"] == pytest.approx(math.log(2), rel=1e-5)  # of a model that was never tuned


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"beta": 0.0}, "model.beta is 0.0: it must be above 0"),
        ({"label_smoothing": 0.5}, "model.label_smoothing is 0.5"),
        ({"label_smoothing": 0.1, "loss": "ipo"}, "model.label_smoothing goes with loss dpo, not ipo"),
        ({"sft_weight": -1.0}, "model.sft_weight is -1.0: it can be 0 or more"),
        ({"gamma": 1.0}, "model.gamma goes with loss simpo, not dpo"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(folder: Path, settings: dict[str, Any], told: str):
    with pytest.raises(UserError, match=told):
        PreferenceModule(str(folder / "base.ckpt"), **settings)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (
            [{"prompt": "a", "chosen": "b", "rejected": "b"}],
            r"1 of 1 pairs have equal sides.*line 1; drop these records",
        ),
        ([{"prompt": "a", "chosen": "b"}], r"line 1: has the keys 'prompt', 'chosen'; expected were prompt"),
        ([{"prompt": "a", "chosen": " ", "rejected": "b"}], "line 1: chosen: message 2, the assistant's, is empty"),
        ([{"prompt": "a", "completion": "b", "label": "x"}], "line 1: 'label' is 'x'; it can be true or false"),
        ([{"prompt": "a " * 99, "chosen": "b", "rejected": "c"}], r"no pair is left for training \(1 too_long\)"),
    ],
)
def test_records_that_cannot_be_used_are_one_sentence(folder: Path, tmp_path: Path, records: list[Any], told: str):
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(DataError, match=told):
        data_of(folder, sources=str(tmp_path / "bad.jsonl"), validation_fraction=0.0).prepare_data()
