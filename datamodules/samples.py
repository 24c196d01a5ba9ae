"""Single samples out of batches, for the eyes of a person."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from datamodules.tokens.batches import IGNORED


class Sample(NamedTuple):
    """What the model reads, int64 [N], and which of it it learns to write, bool [N]; the title says what it is."""

    title: str
    ids: np.ndarray
    is_target: np.ndarray


def samples_of_rows(batch: Mapping[str, torch.Tensor], name: str = "conversation") -> Iterator[Sample]:
    """The documents in rows of `tokens`, `targets` and, where several lie in one, `documents`: all [B, T]."""
    for row in range(len(batch["tokens"])):
        tokens, targets = batch["tokens"][row].numpy(), batch["targets"][row].numpy()
        documents = batch["documents"][row].numpy() if "documents" in batch else np.zeros(len(tokens), np.int32)
        for number in dict.fromkeys(documents[documents >= 0].tolist()):
            here = np.flatnonzero(documents == number)
            learnt = targets[here]
            # What follows the last input is a target alone; elsewhere the next input stands for the target.
            ids = np.append(tokens[here], learnt[-1:][learnt[-1:] != IGNORED])
            is_target = np.append([False], learnt != IGNORED)[: len(ids)]
            yield Sample(f"row {row}, {name} {number}" if "documents" in batch else f"row {row}", ids, is_target)
