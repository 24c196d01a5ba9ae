"""A trained classifier, as it is used."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from datamodules.classification import encode_texts
from datamodules.text.tokenizer import Tokenizer
from llm.checkpoint import load_model, read_checkpoint
from llm.errors import UserError
from llm.model import GPT
from llm.model.classifier import ClassificationHead, classify


@dataclass
class Classifier:
    """A model with its head, and what the head's classes are called."""

    model: GPT
    head: ClassificationHead
    tokenizer: Tokenizer
    labels: list[str]
    multi_label: bool
    max_length: int
    keep: str
    temperature: float

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Of each text by class, in the order of the labels."""
        encoded, _ = encode_texts(self.tokenizer, texts, self.max_length, self.keep)
        lengths = np.array([len(ids) for ids in encoded])
        tokens = np.full((len(encoded), lengths.max()), self.tokenizer.pad, np.int64)
        for row, ids in enumerate(encoded):
            tokens[row, : len(ids)] = ids
        logits = classify(self.model, self.head, torch.from_numpy(tokens), torch.from_numpy(lengths)).float()
        scaled = logits / self.temperature
        values = scaled.sigmoid() if self.multi_label else scaled.softmax(1)
        return [dict(zip(self.labels, row, strict=True)) for row in values.tolist()]

    def named(self, probabilities: dict[str, float]) -> str:
        """The likeliest class, or all that are likelier than not where a text can have several."""
        if self.multi_label:
            return ", ".join(label for label, value in probabilities.items() if value > 0.5)
        return max(probabilities, key=probabilities.__getitem__)


def load_classifier(path: Path) -> Classifier:
    """The classifier of a checkpoint; UserError where it holds none."""
    checkpoint = read_checkpoint(path, without=("optimizer_states",))
    told = checkpoint["labyrinth"].get("classifier")
    if told is None:
        raise UserError(f"{path} holds no classifier: give the checkpoint of a run that was trained to classify")
    model, tokenizer = load_model(path)
    state = checkpoint["state_dict"]
    head = ClassificationHead(model.config.d_model, len(told["labels"]), told["pooling"])
    head.load_state_dict({name: state[f"head.{name}"].float() for name in ("weight", "bias")})
    return Classifier(
        model,
        head,
        tokenizer,
        told["labels"],
        told["multi_label"],
        told["max_length"],
        told["keep"],
        float(state["temperature"]),
    )
