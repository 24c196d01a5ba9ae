"""Learning to answer: the gradient is that of the conversations one by one, and nothing but answers is in it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.fake_data import make_trainer
from support.fine_tuning import make_tokenizer, write_base, write_sums
from torch import Tensor

from datamodules import InstructionDataModule
from llm.checkpoint import load_model
from llm.errors import UserError
from llm.model import GPT
from llm.modules import InstructionModule

TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("instruction")
    write_base(folder)
    write_sums(folder / "sums.jsonl")
    return folder


def data_of(folder: Path, **change: Any) -> InstructionDataModule:
    usual = {
        "tokenizer": str(folder / "tokenizer.json"),
        "sources": str(folder / "sums.jsonl"),
        "context_length": 64,
        "global_batch_tokens": 512,
        "batch_size": 8,
        "cache_dir": str(folder / "data"),
    }
    return InstructionDataModule(**{**usual, **change})


def module_of(folder: Path, **change: Any) -> InstructionModule:
    usual = {"lr": 3e-3, "weight_decay": 0.0, "warmup": 0.0}
    return InstructionModule(str(folder / "base.ckpt"), **{**usual, **change})


class Recording(InstructionModule):
    """Keeps the gradients of the first step."""

    gradients: dict[str, Tensor]

    def configure_gradient_clipping(self, *arguments: Any, **settings: Any) -> None:
        if self.trainer.global_step == 0:
            self.gradients = {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}


def step(folder: Path, batch_size: int, **settings: Any) -> Recording:
    module = Recording(str(folder / "base.ckpt"), lr=0.0, **settings)
    make_trainer(max_steps=1, max_epochs=-1).fit(module, datamodule=data_of(folder, batch_size=batch_size))
    return module


def one_by_one(folder: Path, weight: float = 0.0) -> dict[str, Tensor]:
    """The gradient of the same step's conversations, each a row of its own without padding: Σ nll / Σ targets."""
    data = data_of(folder)
    data.prepare_data()
    data.setup("fit")
    rows = data.rows_of_split("train")
    assert rows is not None
    model, _ = load_model(folder / "base.ckpt")
    model = GPT.from_state(model.config, {name: t.clone() for name, t in model.state_dict().items()}).train()
    total, count = torch.zeros(()), 0.0
    for row in data.rows_of_step(0):
        for piece in range(rows.packing.rows[row], rows.packing.rows[row + 1]):
            start, size = int(rows.packing.starts[piece]), int(rows.packing.lengths[piece])
            ids = torch.from_numpy(rows.store.ids[start : start + size + 1].astype("int64"))[None]
            learnt = torch.from_numpy(rows.store.is_target[start + 1 : start + 1 + size].copy())[None]
            weights = torch.where(learnt, 1.0, weight)
            nll = model(ids[:, :-1], ids[:, 1:], each=True)
            total, count = total + (nll * weights).sum(), count + float(weights.sum())
    (total / count).backward()
    return {f"model.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_a_packed_step_has_the_gradient_of_its_conversations_one_by_one(folder: Path, batch_size: int, weight: float):
    packed = step(folder, batch_size, prompt_loss_weight=weight).gradients
    for name, wanted in one_by_one(folder, weight).items():
        assert (packed[name] - wanted).norm() <= 1e-5 * wanted.norm() + 1e-9, name


def test_what_the_user_says_has_no_influence_but_as_what_is_answered(folder: Path):
    """The loss of a batch does not change with the prompt's targets, which are none."""
    data = data_of(folder)
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert (batch["targets"] >= 0).sum() < (batch["prompt_targets"] >= 0).sum()
    model, _ = load_model(folder / "base.ckpt")
    nll, count = model(batch["tokens"], batch["targets"], documents=batch["documents"])
    each = model(batch["tokens"], batch["targets"], documents=batch["documents"], each=True)
    assert int(count) == int((batch["targets"] >= 0).sum())
    assert nll.item() == pytest.approx(each[batch["targets"] >= 0].sum().item(), rel=1e-5)


def test_it_learns_to_answer_and_to_end(folder: Path, tmp_path: Path):
    records = [{"instruction": f"say {word}", "output": f"{word}!"} for word in ("yes", "no", "more", "sum") * 20]
    (tmp_path / "say.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    data = data_of(
        folder, sources=str(tmp_path / "say.jsonl"), validation_sources=str(tmp_path / "say.jsonl"),
        cache_dir=str(tmp_path), global_batch_tokens=128,
    )  # fmt: skip
    with pytest.raises(Exception, match="no conversation is left for training"):
        data.prepare_data()  # as all of them are held out
    data = data_of(folder, sources=str(tmp_path / "say.jsonl"), validation_fraction=0.0, cache_dir=str(tmp_path))
    module = module_of(folder)
    make_trainer(max_epochs=60).fit(module, datamodule=data)
    prompts = [ids for word in ("yes", "more") if (ids := _prompt(f"say {word}"))]
    answers = module.answer(prompts, 20)
    assert [(TOKENIZER.decode(ids), ended) for ids, ended in answers] == [("yes!", True), ("more!", True)]


def _prompt(text: str) -> list[int]:
    from datamodules.text.conversation import Message
    from datamodules.text.rendering import render_prompt

    return render_prompt(TOKENIZER, [Message("user", text)])


def test_noise_is_added_in_training_alone(folder: Path):
    quiet, noisy = step(folder, 8).gradients, step(folder, 8, neftune_alpha=5.0).gradients
    assert not torch.equal(quiet["model.norm.weight"], noisy["model.norm.weight"])
    module = module_of(folder, neftune_alpha=5.0)
    module.configure_model()
    module.configure_model()
    assert module.model is not None
    assert len(module.model.embedding._forward_hooks) == 1
    module.eval()
    base, _ = load_model(folder / "base.ckpt")
    tokens = torch.arange(10)[None]
    assert torch.equal(module.model(tokens), base(tokens))


@pytest.mark.parametrize(("blocks", "moved"), [(None, {"embedding", "blocks.0", "blocks.1", "norm", "head"}),
                                               (1, {"blocks.1", "norm", "head"}), (0, {"norm", "head"})])  # fmt: skip
def test_what_is_not_to_be_trained_stays_as_it_is(folder: Path, blocks: int | None, moved: set[str]):
    module = module_of(folder, train_blocks=blocks)
    make_trainer(max_steps=2, max_epochs=-1).fit(module, datamodule=data_of(folder))
    before, _ = load_model(folder / "base.ckpt")
    assert module.model is not None
    changed = {
        ".".join(name.split(".")[: 2 if name.startswith("blocks") else 1])
        for (name, old), new in zip(before.state_dict().items(), module.model.state_dict().values(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed == moved


def test_scores_before_are_those_of_the_base(folder: Path):
    data = data_of(folder)
    module = module_of(folder)
    make_trainer(max_epochs=2).fit(module, datamodule=data)
    model, _ = load_model(folder / "base.ckpt")
    batches = list(data.val_dataloader())
    nll, count = (
        sum(float(model(b["tokens"], b["targets"], documents=b["documents"])[i]) for b in batches) for i in (0, 1)
    )
    assert module.before["val_loss"] == pytest.approx(nll / count, rel=1e-5)
    assert module.after["val_loss"] < module.before["val_loss"]


def test_a_step_of_prompts_alone_is_finite(folder: Path):
    """B11: a batch without any target has no gradient and is no NaN."""
    module = module_of(folder)
    module.configure_model()
    empty = {name: torch.zeros(1, 8, dtype=torch.int64) for name in ("tokens", "documents")}
    nothing = torch.full((1, 8), -100)
    loss = module.training_step({**empty, "targets": nothing, "prompt_targets": nothing}, 0)
    assert float(loss) == 0.0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"train_blocks": 3}, "model.train_blocks is 3; the checkpoint has 2 blocks, so it can be 0 to 2"),
        ({"neftune_alpha": -1.0}, "model.neftune_alpha is -1.0: it can be 0 or more"),
        ({"prompt_loss_weight": -0.1}, "model.prompt_loss_weight is -0.1"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(folder: Path, settings: dict[str, Any], told: str):
    with pytest.raises(UserError, match=told):
        module_of(folder, **settings)


def test_another_tokenizer_or_a_longer_context_is_refused(folder: Path, tmp_path: Path):
    from datamodules.text.tokenizer import Tokenizer
    from datamodules.text.training import train_bpe

    other = Tokenizer(train_bpe(["other words entirely, again and again " * 50], 280))
    (tmp_path / "other.json").write_text(other.to_str())
    with pytest.raises(
        UserError, match=r"data.tokenizer is not the tokenizer of .*base.ckpt: leave data.tokenizer out"
    ):
        make_trainer().fit(module_of(folder), datamodule=data_of(folder, tokenizer=str(tmp_path / "other.json")))
    with pytest.raises(UserError, match=r"data.context_length is 128, and the checkpoint's model sees 64 tokens"):
        make_trainer().fit(module_of(folder), datamodule=data_of(folder, context_length=128))
