"""Texts with labels as padded rows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.tokens.batches import IGNORED


class TextRows(Dataset[dict[str, torch.Tensor]]):
    """Row i is text i: `tokens` int64 [B, T], padded on the right to the longest of a batch, and `lengths` int64 [B].

    `labels` are int64 [B], -100 where there is none, or with several labels a text bool [B, C]; `numbers` int64 [B] is
    which text each is, -1 for a row past the end, which only fills ranks up.

    Args:
        ids: uint32 [N], of all texts one after the other.
        offsets: int64 [texts + 1], where each begins.
        labels: int64 [texts], or bool [texts, C].
        pad: the id that fills rows.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, labels: np.ndarray, pad: int) -> None:
        self.ids, self.offsets, self.labels, self.pad = ids, offsets, labels, pad

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self) -> np.ndarray:
        """int64 [texts]: tokens of each."""
        return np.diff(self.offsets)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([row]).items()}

    def __getitems__(self, rows: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """The same for several rows."""
        texts = [self.ids[self.offsets[r] : self.offsets[r + 1]] if r < len(self) else self.ids[:1] for r in rows]
        lengths = np.array([len(text) for text in texts], np.int64)
        tokens = np.full((len(rows), lengths.max()), self.pad, np.int64)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = text
        numbers = np.array([row if row < len(self) else -1 for row in rows], np.int64)
        labels = self.labels[numbers].copy()
        labels[numbers < 0] = False if labels.ndim == 2 else IGNORED
        named = {"tokens": tokens, "lengths": lengths, "labels": labels, "numbers": numbers}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in named.items()}
