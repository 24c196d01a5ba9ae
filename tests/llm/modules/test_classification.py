"""Classification: no padding is read, no figure depends on batches, and nothing is trained that should rest."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.fake_data import make_trainer
from support.fine_tuning import write_base
from torch import Tensor

from datamodules import ClassificationDataModule
from llm.checkpoint import load_model
from llm.errors import UserError
from llm.model.classifier import ClassificationHead, classify
from llm.modules import ClassificationModule
from llm.modules.baselines import linear, majority
from llm.modules.classification_metrics import best_temperature, confusion, per_class, score

WORDS = {"fruit": ["apple", "pear", "plum"], "metal": ["iron", "zinc", "gold"], "bird": ["owl", "crow", "wren"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classification")
    write_base(folder)
    draw = np.random.default_rng(0)
    rows = [
        {"text": " ".join(["so", *draw.choice(WORDS[label], 1 + number % 7), str(number)]), "label": label}
        for number in range(240)
        for label in [list(WORDS)[number % 3]]
    ]
    (folder / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    several = [{"text": row["text"], "label": [row["label"], "even" if i % 2 else "odd"]} for i, row in enumerate(rows)]
    (folder / "several.jsonl").write_text("\n".join(map(json.dumps, several)))
    return folder


def data_of(folder: Path, **change: Any) -> ClassificationDataModule:
    usual = {
        "tokenizer": str(folder / "tokenizer.json"),
        "sources": str(folder / "words.jsonl"),
        "validation_fraction": 0.2,
        "test_fraction": 0.1,
        "max_length": 64,
        "global_batch_size": 16,
        "batch_size": 16,
        "cache_dir": str(folder / "data"),
    }
    return ClassificationDataModule(**{**usual, **change})


class Recording(ClassificationModule):
    """Keeps the gradients of every step."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.gradients: list[dict[str, Tensor]] = []

    def configure_gradient_clipping(self, *arguments: Any, **settings: Any) -> None:
        self.gradients.append({name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None})


def tune(folder: Path, steps: int = 3, data: dict[str, Any] | None = None, **settings: Any) -> Recording:
    module = Recording(str(folder / "base.ckpt"), **{"lr": 3e-3, "weight_decay": 0.0, "warmup": 0.0, **settings})
    make_trainer(max_steps=steps, max_epochs=-1).fit(module, datamodule=data_of(folder, **(data or {})))
    return module


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_padding_changes_no_logit(folder: Path, pooling: Any):
    model, tokenizer = load_model(folder / "base.ckpt")
    head = ClassificationHead(model.config.d_model, 3, pooling)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    tokens, lengths = torch.randint(6, 200, (4, 9)), torch.tensor([9, 4, 1, 7])
    for row, length in enumerate(lengths):
        tokens[row, length:] = tokenizer.pad
    alone = torch.cat([classify(model, head, tokens[i : i + 1, :n], lengths[i : i + 1]) for i, n in enumerate(lengths)])
    for more in (0, 1, 20):
        wide = torch.nn.functional.pad(tokens, (0, more), value=7)
        assert torch.allclose(classify(model, head, wide, lengths), alone, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"class_weights": "balanced"}, {"class_weights": [0.0, 2.0, 0.5]}])
def test_a_step_does_not_depend_on_how_it_is_cut_into_batches(folder: Path, settings: dict[str, Any]):
    whole, pieces = (tune(folder, data={"batch_size": size}, **settings) for size in (16, 2))
    for one, other in zip(whole.gradients, pieces.gradients, strict=True):
        assert one.keys() == other.keys()
        for name, gradient in one.items():
            assert (gradient - other[name]).norm() <= 1e-4 * gradient.norm() + 1e-7, name
    assert whole.after == pytest.approx(pieces.after, rel=1e-3, abs=1e-4)


def test_it_learns_and_scores_do_not_depend_on_batches(folder: Path):
    module = tune(folder, steps=60)
    assert module.before["val_loss"] == pytest.approx(math.log(3), rel=1e-5)
    assert module.after["val_accuracy"] > 0.95
    figures = []
    for size in (1, 3, 48):
        (found,) = make_trainer().test(module, datamodule=data_of(folder, eval_batch_size=size), verbose=False)
        figures.append(found)
    assert figures[1] == pytest.approx(figures[0], rel=1e-5, abs=1e-6)
    assert figures[2] == pytest.approx(figures[0], rel=1e-5, abs=1e-6)


def test_several_labels_a_text(folder: Path):
    data = {"sources": str(folder / "several.jsonl"), "separator": "|"}
    module = tune(folder, steps=60, data=data)
    assert module.labels == ["bird", "even", "fruit", "metal", "odd"]
    assert module.before["val_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert module.after["val_macro_f1"] > module.before["val_macro_f1"]
    assert module.after["val_auroc"] > 0.8


@pytest.mark.parametrize(
    ("settings", "moved"),
    [
        ({"train_blocks": 0}, {"head", "model.norm"}),
        ({"train_blocks": 1}, {"head", "model.norm", "model.blocks.1"}),
        ({"lora": {"rank": 2}}, {"head", "adapter"}),
        ({}, {"head", "model.norm", "model.blocks.0", "model.blocks.1", "model.embedding"}),
    ],
)
def test_what_is_not_to_be_trained_rests(folder: Path, settings: dict[str, Any], moved: set[str]):
    module = tune(folder, steps=2, **settings)

    def part(name: str) -> str:
        if ".adapters." in name:
            return "adapter"
        return ".".join(name.split(".")[: 3 if "blocks" in name else 2 if name.startswith("model") else 1])

    assert {part(name) for name in module.gradients[-1]} == moved


def test_figures_are_those_of_the_textbook():
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (300,), generator=generator)
    logits = torch.randn(300, 4, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 4)
    answers, probabilities = logits.argmax(1).numpy(), logits.softmax(1).double()
    found = score(logits, labels)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, answers))
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(labels, answers, average="macro"))
    auroc = sklearn.roc_auc_score(labels, probabilities / probabilities.sum(1, keepdim=True), multi_class="ovr")
    assert found["auroc"] == pytest.approx(auroc, abs=1e-5)
    assert found["loss"] == pytest.approx(sklearn.log_loss(labels, probabilities), rel=1e-5)
    assert confusion(logits, labels) == sklearn.confusion_matrix(labels, answers).tolist()
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(labels, answers)
    for i, row in enumerate(per_class(logits, labels)):
        wanted = (precision[i], recall[i], f1[i], support[i])
        assert (row["precision"], row["recall"], row["f1"], row["support"]) == pytest.approx(wanted)
    two = score(logits[:, :2], labels % 2)
    assert two["f1"] == pytest.approx(sklearn.f1_score(labels % 2, logits[:, :2].argmax(1)))


def test_calibration_error_by_hand_and_a_temperature_that_mends_it():
    logits = torch.tensor([[2.0, 0.0]] * 10)
    labels = torch.tensor([0] * 7 + [1] * 3)
    confidence = 1 / (1 + math.exp(-2))
    assert score(logits, labels)["ece"] == pytest.approx(abs(confidence - 0.7), abs=1e-6)
    temperature = best_temperature(logits, labels)
    assert 1 / (1 + math.exp(-2 / temperature)) == pytest.approx(0.7, abs=1e-4)
    assert score(logits, labels, temperature)["ece_scaled"] == pytest.approx(0, abs=1e-4)


def test_baselines_on_the_same_texts():
    train = np.array([0, 0, 0, 1, 1])
    assert score(majority(train, 2, 4), torch.tensor([0, 0, 0, 1]))["accuracy"] == 0.75
    pytest.importorskip("sklearn")
    texts = ["red apple", "green apple", "an apple", "blue sky", "grey sky"]
    logits = linear((texts, train), (texts, train), ["apple here", "sky there"], 2)
    assert logits is not None
    assert logits.argmax(1).tolist() == [0, 1]


def test_baselines_of_several_labels():
    train = np.array([[1, 0, 1], [1, 0, 1], [0, 1, 1], [0, 1, 1]], bool)
    assert torch.allclose(majority(train, 3, 2).sigmoid(), torch.tensor([[0.5, 0.5, 1.0]] * 2))
    pytest.importorskip("sklearn")
    texts = ["red apple", "green apple", "blue sky", "grey sky"]
    logits = linear((texts, train), (texts, train), ["apple here", "sky there"], 3)
    assert logits is not None
    assert (logits > 0).tolist() == [[True, False, True], [False, True, True]]


def test_a_checkpoint_knows_its_classes_and_its_temperature(folder: Path, tmp_path: Path):
    from llm.classifier import load_classifier

    module = ClassificationModule(str(folder / "base.ckpt"), lr=3e-3, warmup=0.0)
    trainer = make_trainer(max_steps=40, max_epochs=-1)
    data = data_of(folder)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    classifier = load_classifier(tmp_path / "c.ckpt")
    assert classifier.labels == sorted(WORDS)
    assert classifier.temperature == float(module.temperature) != 1.0
    texts = data.texts("test")
    batches = trainer.predict(module, datamodule=data)
    assert batches is not None
    wanted = torch.cat([batch["probabilities"] for batch in batches])  # type: ignore[call-overload,index]
    found = torch.tensor([list(row.values()) for row in classifier.probabilities(texts)])
    assert torch.allclose(found, wanted, atol=1e-5)
    with pytest.raises(UserError, match="holds no classifier"):
        load_classifier(folder / "base.ckpt")


def test_settings_that_cannot_be_are_one_sentence(folder: Path):
    with pytest.raises(UserError, match=r"model.class_weights holds 2 numbers, and there are 3 classes"):
        tune(folder, class_weights=[1.0, 2.0])
    with pytest.raises(UserError, match=r"model.label_smoothing is 1.0"):
        ClassificationModule(str(folder / "base.ckpt"), label_smoothing=1.0)
