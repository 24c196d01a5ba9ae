"""Whole documents in rows: best-fit packing.

A row of running text cuts a document wherever the row ends, and its rest is learnt without its beginning. Here no
document that fits in a row is cut (Ding et al. 2024, "Fewer truncations improve language modeling"): of longer ones,
pieces as long as a row are rows of their own, and what remains is packed like a short document. Each piece goes where
it leaves the least room, the longest first (best-fit decreasing).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.corpus.compiled import compiled
from datamodules.errors import DataError

VERSION = 1


@dataclass(frozen=True)
class Packing:
    """Which pieces of a token store lie in which row.

    Attributes:
        starts: int64 [pieces], the token before the first target of each piece, in the order of rows.
        lengths: int32 [pieces], tokens (and targets) of each.
        rows: int64 [rows + 1], where the pieces of each row begin in the other two.
    """

    starts: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray

    def save(self, folder: Path, split: str) -> None:
        """Write three .npy files."""
        for name in ("starts", "lengths", "rows"):
            np.save(folder / f"{split}-{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path, split: str) -> "Packing":
        """Map what `save` wrote into memory. Raises DataError where it is missing or damaged."""
        try:
            return cls(*(np.load(folder / f"{split}-{n}.npy", mmap_mode="r") for n in ("starts", "lengths", "rows")))
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot read the packing in {folder} ({error}); delete the folder and run again"
            ) from error


def pack(offsets: np.ndarray, context_length: int) -> Packing:
    """Pack the documents of a store, given by their `offsets` [documents + 1], into rows of `context_length` tokens.

    Every token but the first of the store is a target in exactly one piece. The end token before a document is its
    first input, the one at its end its last target.
    """
    offsets = np.asarray(offsets, dtype=np.int64)
    lengths = np.diff(offsets)
    whole, rest = np.divmod(lengths, context_length)
    # The pieces that fill a row, then what is left of each document.
    owner = np.repeat(np.arange(len(lengths)), whole)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(whole) - whole, whole)
    left = np.flatnonzero(rest)
    starts = (
        np.concatenate([offsets[owner] + number * context_length, offsets[left] + whole[left] * context_length]) - 1
    )
    sizes = np.concatenate([np.full(len(owner), context_length), rest[left]]).astype(np.int32)
    by_size = np.argsort(-sizes, kind="stable")
    row = np.empty(len(sizes), np.int64)
    row[by_size] = best_fit(sizes[by_size], context_length)
    order = np.argsort(row, kind="stable")
    n_rows = int(row.max()) + 1 if len(row) else 0
    return Packing(starts[order], sizes[order], np.searchsorted(row[order], np.arange(n_rows + 1)))


@compiled
def best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """The row, int64 [N], of each of `sizes` int32 [N], which descend: the one with the least room that it fits in."""
    rows = np.empty(len(sizes), np.int64)
    top = np.full(capacity + 1, -1, np.int64)  # by the room that is left, the row last put there
    below = np.empty(len(sizes), np.int64)  # and the one before it
    made = 0
    for piece in range(len(sizes)):
        size = sizes[piece]
        room = np.int64(size)
        while room < capacity and top[room] < 0:
            room += 1
        if room < capacity:
            row = top[room]
            top[room] = below[row]
        else:
            room = np.int64(capacity)
            row = np.int64(made)
            made += 1
        rows[piece] = row
        below[row] = top[room - size]
        top[room - size] = row
    return rows
