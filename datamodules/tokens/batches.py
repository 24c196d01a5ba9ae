"""Rows of a token store as batches, and which rows each rank reads next."""

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xxhash
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.errors import DataError
from datamodules.tokens.sample_order import SampleOrder
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
        self.n_full = (store.n_tokens - 1) // context_length
        self.n_rows = -(-(store.n_tokens - 1) // context_length)  # rounded up

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
        # Row r starts at token r T and is T + 1 long: rows overlap by one token.
        window = self.store.windows(index[full] * self.context_length, self.context_length + 1)
        if full.all():
            return {"tokens": _to_int64(window[:, :-1]), "targets": _to_int64(window[:, 1:])}
        tokens = np.full((len(index), self.context_length), self.pad, dtype=np.int64)
        targets = np.full((len(index), self.context_length), IGNORED, dtype=np.int64)
        tokens[full], targets[full] = window[:, :-1], window[:, 1:]
        last = self.store.tokens[self.n_full * self.context_length :]
        if len(last) > 1:
            at = index == self.n_full
            tokens[at, : len(last) - 1], targets[at, : len(last) - 1] = last[:-1], last[1:]
        return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}


def make_loader(rows: Dataset[Any], num_workers: int, rank: int = 0, **options: Any) -> DataLoader[Any]:
    """A loader of rows that already come as whole batches."""
    return DataLoader(
        rows,
        collate_fn=as_batch,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=partial(start_worker, rank=rank),
        **options,
    )


def start_worker(worker: int, rank: int) -> None:
    """Let a loader's worker outlive the end of its job, and draw random numbers that no other worker draws.

    A terminal's Ctrl-C and a scheduler's signals reach all processes of a job; its trainer ends between two steps, for
    which it needs its workers. torch gives the workers of one loader streams of their own; those of other ranks, whose
    main processes have one seed, would have the same.
    """
    signal.set_wakeup_fd(-1)  # what a fork shares with the trainer
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    seed = xxhash.xxh3_64_intdigest(f"{torch.initial_seed()}/{rank}".encode())
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # what transforms of others may draw from


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

    def rows_of(self, step: int) -> np.ndarray:
        """The rows that this rank reads in a step, int64 [N]."""
        return self.order(step * self.order.rows_per_step + self._own()).ravel()

    def _own(self) -> np.ndarray:
        """This rank's samples of a step: micro-steps x rows of one."""
        shape = (self.micro_steps, self.world_size, self.batch_size)
        return np.arange(self.order.rows_per_step).reshape(shape)[:, self.rank]

    def _rows(self, first: int, end: int) -> Iterator[list[int]]:
        G, m = self.order.rows_per_step, self.batch_size  # noqa: N806
        own = self._own()
        block = max(1, SAMPLES_AHEAD // own.size)
        for start in range(first, end, block):
            steps = np.arange(start, min(start + block, end))
            rows = self.order(steps[:, None, None] * G + own)  # steps x micro-steps x m
            yield from rows.reshape(-1, m).tolist()


def _to_int64(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))
