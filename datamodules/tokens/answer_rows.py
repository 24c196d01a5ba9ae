"""Prompts with answers as padded rows, for what compares answers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.tokens.batches import IGNORED
from datamodules.tokens.conversation_rows import ConversationStore

CHOSEN, REJECTED, MISMATCHED = 1, 0, -1  # what an answer is


class AnswerRows(Dataset[dict[str, torch.Tensor]]):
    """Item i is pair i, or a single answer: so many rows of a batch.

    A batch has, for all answers of its items, the chosen ones first: `tokens` and `targets`, int64 [S, T], padded on
    the right, where targets are the tokens of the answer; `kinds` int64 [S]: 1 chosen, 0 rejected, -1 an answer that
    belongs to another prompt (only with `mismatched`); and `numbers` int64 [S]: which answer of the store each is, -1
    for what only fills ranks up.

    Args:
        store: answers with their prompts.
        items: int64 [N, 2], the numbers of the chosen and the rejected answer of each item, -1 where it has none.
        mismatched: int64 [N], the number of a mismatched answer of each item; None leaves them out.
        pad: the id that fills rows.
    """

    def __init__(self, store: ConversationStore, items: np.ndarray, mismatched: np.ndarray | None, pad: int) -> None:
        self.store, self.items, self.mismatched, self.pad = store, items, mismatched, pad

    def __len__(self) -> int:
        return len(self.items)

    def lengths(self) -> np.ndarray:
        """int64 [N]: tokens of the longest answer of each item, with its prompt."""
        lengths = np.append(np.diff(self.store.offsets), 0)
        return lengths[self.items].max(1)

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """The batch of several items."""
        real = np.array([item for item in items if item < len(self)], dtype=np.int64)
        columns = [(self.items[real, 0], CHOSEN), (self.items[real, 1], REJECTED)]
        if self.mismatched is not None:
            columns.append((self.mismatched[real], MISMATCHED))
        numbers = np.concatenate([column[column >= 0] for column, _ in columns])
        kinds = np.concatenate([np.full((column >= 0).sum(), kind) for column, kind in columns])
        if not len(numbers):  # a row that counts nowhere: all ranks must have a batch
            numbers, kinds = np.array([-1]), np.array([REJECTED])
        rendered = [self.store[number] for number in numbers if number >= 0]
        longest = max((len(one.ids) for one in rendered), default=2) - 1
        tokens = np.full((len(numbers), longest), self.pad, np.int64)
        targets = np.full((len(numbers), longest), IGNORED, np.int64)
        for row, one in enumerate(rendered):
            size = len(one.ids) - 1
            tokens[row, :size] = one.ids[:-1]
            targets[row, :size] = np.where(one.is_target[1:], one.ids[1:], IGNORED)
        named = {"tokens": tokens, "targets": targets, "kinds": kinds, "numbers": numbers}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in named.items()}
