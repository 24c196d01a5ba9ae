"""What is told of a classifier: its figures beside simple methods, each class, and what is taken for what."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llm.modules.baselines import INSTALL, LINEAR, MAJORITY, linear, majority
from llm.modules.classification import ClassificationModule
from llm.modules.classification_metrics import confusion, per_class, score

FILE = "classification.json"
MOST_CLASSES = 12  # of which a confusion matrix is shown
LABELS = {"macro_f1": "macro F1", "f1": "F1", "auroc": "AUROC", "ece": "ECE", "ece_scaled": "ECE, scaled"}


def print_classification(module: ClassificationModule, data: Any, stage: str, folder: Path) -> None:
    """Print tables of what was scored last in `stage` (val, test), and write them as JSON into a folder."""
    logits, labels = module.scored[stage]
    split = {"val": "validation", "test": "test"}[stage]
    if data.rows_of_split(split) is None:
        split = "validation"
    temperature = float(module.temperature)
    figures = {"this model": score(logits, labels, temperature), **_baselines(data, split, labels)}
    classes = per_class(logits, labels)
    matrix = None if module.multi_label else confusion(logits, labels)
    console = Console(highlight=False, width=max(110, Console().width))
    console.print(_table(figures, f"\n{split}: {len(labels):,} texts"))
    if LINEAR not in figures:
        console.print(INSTALL, markup=False)
    console.print(_class_table(module.labels, classes))
    if matrix is not None and len(matrix) <= MOST_CLASSES:
        console.print(_confusion_table(module.labels, matrix))
    told = {
        "split": split,
        "texts": len(labels),
        "temperature": temperature,
        "methods": figures,
        "classes": dict(zip(module.labels, classes, strict=True)),
        "confusion": matrix,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_probabilities(
    predictions: Sequence[Mapping[str, Tensor]], module: ClassificationModule, data: Any, path: Path
) -> None:
    """Write one line a text: the text, its label if it has one, the likeliest class, and each class's probability."""
    split = data.predicted_split()
    rows, texts = data.rows_of_split(split), data.texts(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "predicted", *(f"p({label})" for label in module.labels)])
        for batch in predictions:
            for number, probabilities in zip(batch["numbers"].tolist(), batch["probabilities"].tolist(), strict=True):
                said = named(probabilities, module.labels, module.multi_label)
                label = _label(rows.labels[number], module)
                writer.writerow([texts[number], label, said, *(f"{value:.6f}" for value in probabilities)])


def named(probabilities: Sequence[float], labels: Sequence[str], multi_label: bool) -> str:
    """The likeliest class, or all that are likelier than not where a text can have several."""
    if multi_label:
        return ", ".join(label for label, value in zip(labels, probabilities, strict=True) if value > 0.5)
    return labels[max(range(len(labels)), key=lambda number: probabilities[number])]


def _label(value: Any, module: ClassificationModule) -> str:
    if module.multi_label and np.ndim(value):
        return ", ".join(label for label, there in zip(module.labels, value, strict=True) if there)
    return module.labels[value] if value >= 0 else ""


def _baselines(data: Any, split: str, labels: Tensor) -> dict[str, dict[str, float]]:
    """The figures of simple methods that were given the same texts."""
    train, n_classes = data.rows_of_split("train").labels, len(data.labels)
    found = {MAJORITY: score(majority(train, n_classes, len(labels)), labels)}
    held = data.rows_of_split("validation")
    validation: tuple[Sequence[str], np.ndarray] | None = (
        None if held is None else (data.texts("validation"), held.labels)
    )
    logits = linear((data.texts("train"), train), validation, data.texts(split), n_classes)
    return found if logits is None else {**found, LINEAR: score(logits, labels)}


def _table(figures: dict[str, dict[str, float]], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    names = list(figures["this model"])
    for name in names:
        table.add_column(LABELS.get(name, name), justify="right")
    for method, values in figures.items():
        # A baseline has no temperature.
        shown = ["" if method != "this model" and name == "ece_scaled" else f"{values[name]:.4f}" for name in names]
        table.add_row(method, *shown)
    return table


def _class_table(labels: Sequence[str], classes: list[dict[str, float]]) -> Table:
    table = Table(title="\nclasses", title_justify="left")
    table.add_column("class")
    for name in ("precision", "recall", "F1", "texts"):
        table.add_column(name, justify="right")
    for label, row in zip(labels, classes, strict=True):
        numbers = [f"{row[name]:.3f}" for name in ("precision", "recall", "f1")]
        table.add_row(label, *numbers, f"{row['support']:,}")
    return table


def _confusion_table(labels: Sequence[str], matrix: list[list[int]]) -> Table:
    table = Table(title="\ntexts of a class (row) that were taken for a class (column)", title_justify="left")
    table.add_column("")
    for number in range(len(labels)):
        table.add_column(str(number + 1), justify="right")
    for number, (label, row) in enumerate(zip(labels, matrix, strict=True)):
        shown = [f"[bold]{n}[/]" if column == number else str(n or "") for column, n in enumerate(row)]
        table.add_row(f"{number + 1} {label}", *shown)
    return table
