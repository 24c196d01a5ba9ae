"""Conversations as token ids on the disk, and as rows into which they are packed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.text.rendering import Rendered
from datamodules.tokens.batches import IGNORED
from datamodules.tokens.packing import Packing, best_fit

ARRAYS = ("ids", "is_target", "offsets")


@dataclass(frozen=True)
class ConversationStore:
    """Rendered conversations one after the other.

    Attributes:
        ids: uint32 [N], of all of them.
        is_target: bool [N].
        offsets: int64 [conversations + 1], where each begins.
    """

    ids: np.ndarray
    is_target: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, conversations: Iterable[Rendered]) -> "ConversationStore":
        """A store in memory."""
        every = list(conversations)
        lengths = [len(one.ids) for one in every]
        ids = np.concatenate([one.ids for one in every]) if every else np.zeros(0)
        is_target = np.concatenate([one.is_target for one in every]) if every else np.zeros(0)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return cls(ids.astype(np.uint32), is_target.astype(bool), offsets.astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> Rendered:
        part = slice(int(self.offsets[number]), int(self.offsets[number + 1]))
        return Rendered(self.ids[part].astype(np.int64), self.is_target[part])

    def questions(self, numbers: np.ndarray, n: int) -> list[tuple[list[int], list[int]]]:
        """Of `n` of these conversations, spread evenly: the ids up to the last answer, and those of that answer."""
        found = []
        for at in np.unique(np.linspace(0, len(numbers) - 1, min(n, len(numbers))).astype(int)):
            ids, is_target = self[numbers[at]]
            last = np.flatnonzero(~is_target)[-1] + 1  # the token after the last that is not to be learnt
            if last < len(ids):
                found.append((ids[:last].tolist(), ids[last:].tolist()))
        return found

    def save(self, folder: Path, split: str) -> None:
        """Write three .npy files."""
        for name in ARRAYS:
            np.save(folder / f"{split}-{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path, split: str) -> "ConversationStore":
        """Map what `save` wrote into memory. Raises DataError where it is missing or damaged."""
        try:
            return cls(*(np.load(folder / f"{split}-{name}.npy", mmap_mode="r") for name in ARRAYS))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {folder} ({error}); delete the folder and run again") from error

    def packing(self, row_tokens: int) -> Packing:
        """Which conversations lie in which row: best-fit decreasing, none cut.

        The last token of each is a target alone and no input, so a conversation of N tokens takes N - 1 places.
        """
        lengths = (np.diff(self.offsets) - 1).astype(np.int32)
        by_size = np.argsort(-lengths, kind="stable")
        row = np.empty(len(lengths), np.int64)
        row[by_size] = best_fit(lengths[by_size], row_tokens)
        order = np.argsort(row, kind="stable")
        n_rows = int(row.max()) + 1 if len(row) else 0
        return Packing(self.offsets[:-1][order], lengths[order], np.searchsorted(row[order], np.arange(n_rows + 1)))


class ConversationRows(Dataset[dict[str, torch.Tensor]]):
    """Rows of whole conversations that do not see each other.

    A row has `tokens` int64 [T]; `targets` int64 [T], the next token where it is to be learnt and -100 elsewhere;
    `prompt_targets` int64 [T], the next token where it is of the conversation and not among the targets; `documents`
    int32 [T], the conversation's number in its row, -1 where the row is filled with `pad`. Targets are shifted here and
    nowhere else. A row number past the end gives a row of nothing else, which lets ranks have equally many.
    """

    def __init__(self, store: ConversationStore, row_tokens: int, pad: int) -> None:
        self.store, self.row_tokens, self.pad = store, row_tokens, pad
        self.packing = store.packing(row_tokens)

    def __len__(self) -> int:
        return len(self.packing.rows) - 1

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([row]).items()}

    def __getitems__(self, rows: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """The same for several rows, [B, T]."""
        shape = (len(rows), self.row_tokens)
        tokens, targets = np.full(shape, self.pad, np.int64), np.full(shape, IGNORED, np.int64)
        prompts, documents = np.full(shape, IGNORED, np.int64), np.full(shape, -1, np.int32)
        packing, store = self.packing, self.store
        for i, row in enumerate(rows):
            if row >= len(self):
                continue
            at = 0
            for number, piece in enumerate(range(packing.rows[row], packing.rows[row + 1])):
                start, size = int(packing.starts[piece]), int(packing.lengths[piece])
                here, following = slice(at, at + size), slice(start + 1, start + 1 + size)
                learnt = store.is_target[following]
                tokens[i, here] = store.ids[start : start + size]
                targets[i, here] = np.where(learnt, store.ids[following].astype(np.int64), IGNORED)
                prompts[i, here] = np.where(learnt, IGNORED, store.ids[following].astype(np.int64))
                documents[i, here] = number
                at += size
        named = {"tokens": tokens, "targets": targets, "prompt_targets": prompts, "documents": documents}
        return {name: torch.from_numpy(values) for name, values in named.items()}
