"""How good a classifier is, and how far its probabilities can be trusted: from all logits, whatever the batches."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_calibration_error,
    binary_f1_score,
    multiclass_auroc,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multilabel_auroc,
)

BINS = 15  # of the calibration error (Guo et al. 2017)
COLDEST, HOTTEST, ROUNDS = -4.0, 4.0, 60  # natural logarithms of temperatures, and halvings of the search


class ClassificationScores(Metric):
    """Keeps every logit and label of a split, and gathers them over ranks: nothing depends on how it was cut."""

    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]
    numbers: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("logits", "labels", "numbers"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor, numbers: Tensor) -> None:
        """Add a batch of logits [B, C], labels int64 [B] or bool [B, C], and numbers int64 [B], -1 for no text."""
        real = numbers >= 0
        self.logits.append(logits[real].detach().float())
        self.labels.append(labels[real])
        self.numbers.append(numbers[real])

    def compute(self) -> tuple[Tensor, Tensor]:
        """All logits and labels, in the order of the texts."""
        numbers, logits, labels = (_joined(getattr(self, name)) for name in ("numbers", "logits", "labels"))
        order = numbers.argsort()
        return logits[order], labels[order]


def _joined(parts: Any) -> Tensor:
    return parts if isinstance(parts, Tensor) else torch.cat(parts)


def score(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> dict[str, float]:
    """Figures for logits [N, C] and labels int64 [N], or bool [N, C] where a text can have several.

    `loss` in nats; `accuracy` (several labels: all of them right); `macro_f1` over classes that occur in truth or in
    answers; `f1` of the second of two classes; `auroc` of one class against the rest, macro; `ece`, the expected
    calibration error of the likeliest class (several labels: of every decision), and `ece_scaled` of logits divided by
    the temperature.
    """
    if labels.ndim == 2:
        return _score_several(logits, labels, temperature)
    n_classes = logits.shape[1]
    answers = logits.argmax(1)
    table = per_class(logits, labels)
    occurring = [row["f1"] for row in table if row["support"] or row["answers"]]
    found = {
        "loss": F.cross_entropy(logits, labels).item(),
        "accuracy": (answers == labels).double().mean().item(),
        "macro_f1": sum(occurring) / len(occurring),
        "auroc": (
            binary_auroc(logits.softmax(1)[:, 1], labels).item()
            if n_classes == 2
            else multiclass_auroc(logits.softmax(1), labels, n_classes).item()
        ),
    }
    if n_classes == 2:
        found["f1"] = table[1]["f1"]
    for name, divisor in (("ece", 1.0), ("ece_scaled", temperature)):
        probabilities = (logits / divisor).softmax(1)
        found[name] = multiclass_calibration_error(probabilities, labels, n_classes, n_bins=BINS).item()
    return found


def _score_several(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, float]:
    answers, truth = logits > 0, labels.bool()
    n_classes = logits.shape[1]
    f1 = [binary_f1_score(answers[:, i].long(), truth[:, i].long()).item() for i in range(n_classes)]
    return {
        "loss": F.binary_cross_entropy_with_logits(logits, truth.float()).item(),
        "accuracy": (answers == truth).all(1).double().mean().item(),
        "macro_f1": sum(f1) / n_classes,
        "auroc": multilabel_auroc(logits.sigmoid(), truth.long(), n_classes).item(),
        "ece": binary_calibration_error(logits.sigmoid().flatten(), truth.long().flatten(), n_bins=BINS).item(),
        "ece_scaled": binary_calibration_error(
            (logits / temperature).sigmoid().flatten(), truth.long().flatten(), n_bins=BINS
        ).item(),
    }


def per_class(logits: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """By class: `precision`, `recall`, `f1`, `support` (texts of it) and `answers` (texts taken for it)."""
    if labels.ndim == 2:
        answers, truth = logits > 0, labels.bool()
    else:
        answers, truth = (F.one_hot(which, logits.shape[1]).bool() for which in (logits.argmax(1), labels))
    rows = []
    for right, support, answered in zip(
        (answers & truth).sum(0).tolist(), truth.sum(0).tolist(), answers.sum(0).tolist(), strict=True
    ):
        precision, recall = right / answered if answered else 0.0, right / support if support else 0.0
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        rows.append({"precision": precision, "recall": recall, "f1": f1, "support": support, "answers": answered})
    return rows


def confusion(logits: Tensor, labels: Tensor) -> list[list[int]]:
    """How many texts of each class (row) were taken for each class (column)."""
    n_classes = logits.shape[1]
    found: list[list[int]] = multiclass_confusion_matrix(logits.argmax(1), labels, n_classes).tolist()
    return found


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The number by which to divide logits so that labels are likeliest (Guo et al. 2017, section 4.2).

    The nll is convex in its inverse and has one minimum, which a search over its logarithm closes in on.
    """

    def nll(log_temperature: float) -> float:
        scaled = logits.double() / torch.tensor(log_temperature, dtype=torch.float64).exp()
        if labels.ndim == 2:
            return F.binary_cross_entropy_with_logits(scaled, labels.double()).item()
        return F.cross_entropy(scaled, labels).item()

    low, high = COLDEST, HOTTEST
    for _ in range(ROUNDS):
        third = (high - low) / 3
        if nll(low + third) < nll(high - third):
            high -= third
        else:
            low += third
    return float(torch.tensor((low + high) / 2).exp())
