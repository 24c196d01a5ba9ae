"""Rows of a token store as batches, and which rows each rank reads next."""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.errors import DataError
from datamodules.tokens.order import SampleOrder
from datamodules.tokens.store import TokenStore

IGNORED = -100  # the target that counts nowhere (the default of torch's cross-entropy)
SAMPLES_AHEAD = 4096  # rows are looked up in blocks: the permutation costs the same for one as for hundreds


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Row r of a store: T tokens from r T on, and as targets the same shifted by one. Here and nowhere else.

    Every token but the first is a target in exactly one row. The last row is filled with `pad` and targets of -100;
    a row number past the end gives a row of nothing else, which lets ranks have equally many batches without repeats.

    With `end`, the id that stands between documents, rows also have `documents`, int32 [T]: the number of the document
    that each token belongs to. The end token before a document is its first input, as in a prompt.
    """

    def __init__(self, store: TokenStore, context_length: int, pad: int, end: int | None = None) -> None:
        self.store = store
        self.context_length = context_length
        self.pad, self.end = pad, end
        self.n_rows = -(-(store.n_tokens - 1) // context_length)  # rounded up
        self._map()

    def _map(self) -> None:
        T, tokens = self.context_length, self.store.tokens  # noqa: N806
        self.n_full = (self.store.n_tokens - 1) // T
        # A view of the file in which row r starts at token r T and is T + 1 long: rows overlap by one token.
        self.windows = np.lib.stride_tricks.as_strided(
            tokens, shape=(self.n_full, T + 1), strides=(T * tokens.itemsize, tokens.itemsize), writeable=False
        )

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([row]).items()}

    def __getitems__(self, rows: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """`tokens` and `targets`, int64 [B, T], and `documents`, int32 [B, T], where they are wanted."""
        batch = self._windows(np.asarray(rows, dtype=np.int64))
        if self.end is not None:
            tokens = batch["tokens"]
            first = tokens == self.end
            first[:, 1:] |= (tokens[:, 1:] == self.pad) & (tokens[:, :-1] != self.pad)
            batch["documents"] = first.cumsum(1, dtype=torch.int32)
        return batch

    def _windows(self, index: np.ndarray) -> dict[str, torch.Tensor]:
        full = index < self.n_full
        if full.all():
            window = self.windows[index]  # B T+1
            return {"tokens": _to_int64(window[:, :-1]), "targets": _to_int64(window[:, 1:])}
        tokens = np.full((len(index), self.context_length), self.pad, dtype=np.int64)
        targets = np.full((len(index), self.context_length), IGNORED, dtype=np.int64)
        tokens[full], targets[full] = self.windows[index[full]][:, :-1], self.windows[index[full]][:, 1:]
        last = self.store.tokens[self.n_full * self.context_length :]
        if len(last) > 1:
            at = index == self.n_full
            tokens[at, : len(last) - 1], targets[at, : len(last) - 1] = last[:-1], last[1:]
        return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "windows"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._map()


def make_loader(rows: Dataset[Any], num_workers: int, **options: Any) -> DataLoader[Any]:
    """A loader of rows that already come as whole batches."""
    return DataLoader(
        rows,
        collate_fn=as_batch,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=leave_signals_to_the_trainer,
        pin_memory=torch.cuda.is_available(),
        **options,
    )


def leave_signals_to_the_trainer(worker: int = 0) -> None:
    """Let a loader's worker live on when its whole job is asked to end, until its trainer has ended between two steps.

    A terminal's Ctrl-C and the signals of a scheduler reach all processes of a job.
    """
    signal.set_wakeup_fd(-1)  # what a fork shares with the trainer
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def micro_batch_rows(rows_per_step: int, world_size: int, most: int, context_length: int) -> int:
    """The largest number of rows up to `most` that divides each device's share of a step.

    Raises:
        DataError: where the devices cannot share a step evenly.
    """
    share, left = divmod(rows_per_step, world_size)
    if left:
        raise DataError(
            f"a step has {rows_per_step} rows, which {world_size} devices cannot share evenly; "
            f"make global_batch_tokens a multiple of {world_size * context_length}"
        )
    return max(size for size in range(1, min(most, share) + 1) if share % size == 0)


def as_batch(batch: Any) -> Any:
    """The `collate_fn` of rows that come as whole batches."""
    return batch


class StepBatches(Sampler[list[int]]):
    """The rows of each micro-batch of one rank, from the step onwards at which the run stands.

    Micro-step j of step k on rank r reads samples k G + j W m + r m + [0, m), with G rows a step, W ranks and m rows
    in a micro-batch. Iterating asks `step` where the run stands, and goes on to the end of the epoch; the length is
    that of a whole epoch, as Lightning expects of a loader that is resumed in the middle.
    """

    def __init__(
        self, order: SampleOrder, *, batch_size: int, rank: int, world_size: int, step: Callable[[], int]
    ) -> None:
        if order.rows_per_step % (world_size * batch_size):
            raise ValueError(
                f"{order.rows_per_step} rows a step cannot be shared by {world_size} ranks x {batch_size} rows"
            )
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.step = step
        self.micro_steps = order.rows_per_step // (world_size * batch_size)

    def __len__(self) -> int:
        return self.order.steps_per_epoch * self.micro_steps

    def __iter__(self) -> Iterator[list[int]]:
        first = self.step()  # asked here and not in the generator, whose body runs only at its first batch
        epoch = first // self.order.steps_per_epoch
        return self._rows(first, (epoch + 1) * self.order.steps_per_epoch)

    def _rows(self, first: int, end: int) -> Iterator[list[int]]:
        G, m = self.order.rows_per_step, self.batch_size  # noqa: N806
        own = np.arange(G).reshape(self.micro_steps, self.world_size, m)[:, self.rank]  # micro-steps x m
        block = max(1, SAMPLES_AHEAD // own.size)
        for start in range(first, end, block):
            steps = np.arange(start, min(start + block, end))
            rows = self.order(steps[:, None, None] * G + own)  # steps x micro-steps x m
            yield from rows.reshape(-1, m).tolist()


def _to_int64(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))
