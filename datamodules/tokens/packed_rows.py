"""Rows of whole documents, as a packing says."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.tokens.batches import IGNORED
from datamodules.tokens.packing import Packing
from datamodules.tokens.store import TokenStore


class PackedRows(Dataset[dict[str, torch.Tensor]]):
    """The rows of a packing: `tokens` and `targets` int64 [T], `documents` int32 [T] where they are wanted.

    What no piece fills is `pad`, a document of its own, with targets of -100.
    """

    def __init__(self, store: TokenStore, packing: Packing, context_length: int, pad: int, documents: bool) -> None:
        self.store, self.packing, self.documents = store, packing, documents
        self.context_length, self.pad = context_length, pad

    def __len__(self) -> int:
        return len(self.packing.rows) - 1

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([row]).items()}

    def __getitems__(self, rows: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """The same for several rows, [B, T]."""
        shape = (len(rows), self.context_length)
        tokens, targets = np.full(shape, self.pad, np.int64), np.full(shape, IGNORED, np.int64)
        documents = np.full(shape, -1, np.int32)
        packing, stored = self.packing, self.store.tokens
        for i, row in enumerate(rows):
            at = 0
            for piece in range(packing.rows[row], packing.rows[row + 1]):
                start, size = int(packing.starts[piece]), int(packing.lengths[piece])
                tokens[i, at : at + size] = stored[start : start + size]
                targets[i, at : at + size] = stored[start + 1 : start + 1 + size]
                documents[i, at : at + size] = piece - packing.rows[row]
                at += size
        batch = {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}
        return {**batch, "documents": torch.from_numpy(documents)} if self.documents else batch
