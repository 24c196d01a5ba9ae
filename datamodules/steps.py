"""What the data modules share: which rows a step reads, the batches of each rank, and where a run stands."""

import logging
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import DataError
from datamodules.place import Place
from datamodules.samples import Sample, samples_of_rows
from datamodules.text.tokenizer import Tokenizer
from datamodules.tokens.batches import StepBatches, make_loader, micro_batch_rows
from datamodules.tokens.sample_order import SampleOrder

log = logging.getLogger(__name__)


class StepDataModule(pl.LightningDataModule):
    """Rows as batches, of which each optimizer step of a run reads the same whatever the hardware.

    A step reads `rows_per_step` rows over all devices; `setup` sets `trainer.accumulate_grad_batches` to that end.
    A resumed run (`fit(ckpt_path=...)`) goes on exactly where the last whole step ended.

    Args:
        rows_per_step: rows in one optimizer step over all devices.
        row_tokens: tokens of a row, for what is said of a step; of padded rows the most.
        batch_size: most rows on one device at once; the largest number up to it that divides the step is taken.
        eval_batch_size: rows at once in validation, `batch_size` if not given.
        num_workers: processes that load batches.
        seed: of the order of the rows.
    """

    def __init__(
        self,
        rows_per_step: int,
        row_tokens: int,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.rows_per_step, self.row_tokens = rows_per_step, row_tokens
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.num_workers, self.seed = num_workers, seed
        self._place = Place()

    # What a subclass gives.

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """That the tokens were made by."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """16 hexadecimal digits that stand for inputs, settings, tokenizer and code that made the rows."""

    @abstractmethod
    def rows_of_split(self, split: str) -> Dataset[Any] | None:
        """The rows of `train`, `validation` or `test`; None where it has none."""

    def make_order(self, rows: int) -> SampleOrder:
        """The order in which a run reads `rows` rows."""
        return SampleOrder(self.seed, rows, self.rows_per_step)

    def check_rows(self, rows: int) -> None:
        """DataError where there are fewer rows than one step reads."""
        if rows < self.rows_per_step:
            raise DataError(f"there are {rows} rows for training, fewer than the {self.rows_per_step} of one step")

    # What others may ask.

    @property
    def global_batch_tokens(self) -> int:
        """Tokens of one optimizer step over all devices, padding included."""
        return self.rows_per_step * self.row_tokens

    @property
    def rows(self) -> int:
        """Rows in train."""
        return len(self.rows_of_split("train"))  # type: ignore[arg-type]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over train."""
        return self._order().steps_per_epoch

    @property
    def micro_steps(self) -> int:
        """Batches that each device reads for one optimizer step."""
        _, world_size = self._ranks()
        return self.rows_per_step // (world_size * self._micro_batch())

    def rows_of_step(self, step: int) -> np.ndarray:
        """The rows of train in optimizer step `step` of the run, from 0, over all devices: int64 [rows_per_step]."""
        order = self._order()
        return order((self._place.first_step(order) + step) * order.rows_per_step + np.arange(order.rows_per_step))

    def samples(self, n: int) -> Iterator[Sample]:
        """The first `n` samples that a run reads."""
        rows = self.rows_of_split("train")
        assert rows is not None
        found = (sample for row in self.rows_of_step(0) for sample in samples_of_rows(rows.__getitems__([row])))  # type: ignore[attr-defined]
        return islice(found, n)

    # What Lightning calls.

    def setup(self, stage: str | None = None) -> None:
        """Check what was prepared against the trainer."""
        if stage != "fit" and stage is not None:
            return
        self._order()
        trainer = self.trainer
        if trainer is None:
            return
        _, world_size = self._ranks()
        if world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise DataError(
                "with several processes the trainer must not shuffle on its own, because the data module already "
                "gives each its rows: set trainer.use_distributed_sampler to false"
            )
        micro_steps = self.micro_steps
        if trainer.accumulate_grad_batches not in (1, micro_steps):
            raise DataError(
                f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, but global_batch_tokens, "
                f"batch_size and {world_size} devices make it {micro_steps}; leave it out"
            )
        trainer.accumulate_grad_batches = micro_steps
        _info(
            f"step: {self.global_batch_tokens} tokens = {micro_steps} micro-batches x {world_size} "
            f"devices x {self._micro_batch()} rows x {self.row_tokens} tokens; {self.rows} rows, "
            f"{self.steps_per_epoch} steps an epoch"
        )
        # The loader need not be resumable, since its order is a function of the step; and it needs no workers.
        warnings.filterwarnings("ignore", ".*(your dataloader is not resumable|does not have many workers).*")

    def train_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        rank, _ = self._ranks()
        order = self._order()
        self._place.align(order, self.trainer, self.micro_steps)
        rows = self.rows_of_split("train")
        assert rows is not None
        return make_loader(rows, self.num_workers, rank, batch_sampler=self.step_batches(order))

    def step_batches(self, order: SampleOrder) -> StepBatches:
        """The rows of each micro-batch of this rank."""
        rank, world_size = self._ranks()
        return StepBatches(
            order,
            batch_size=self._micro_batch(),
            rank=rank,
            world_size=world_size,
            step=lambda: self._place.step(order, self.trainer, self.micro_steps),
        )

    def val_dataloader(self) -> DataLoader[dict[str, torch.Tensor]] | list[Any]:
        """Every row of validation once, in order."""
        return self.scoring_loader("validation")

    def test_dataloader(self) -> DataLoader[dict[str, torch.Tensor]] | list[Any]:
        """Every row of test once, in order; of validation where there is no test."""
        return self.scoring_loader("test") or self.scoring_loader("validation")

    predict_dataloader = test_dataloader

    def scoring_loader(self, split: str) -> DataLoader[dict[str, torch.Tensor]] | list[Any]:
        """Every row of a split once, in order; ranks have equally many, filled up by rows without targets."""
        rows = self.rows_of_split(split)
        if rows is None:
            return []
        rank, world_size = self._ranks()
        share = range(rank, -(-len(rows) // world_size) * world_size, world_size)  # type: ignore[arg-type]
        return make_loader(rows, self.num_workers, rank, batch_size=self.eval_batch_size, sampler=share)

    def state_dict(self) -> dict[str, Any]:
        """What the run has consumed, in samples and steps: the same on every rank."""
        if self.trainer is None or not self.is_open():
            return {}
        return self._place.state(self._order(), self.trainer, self.micro_steps, self.fingerprint)

    def is_open(self) -> bool:
        """Whether there are rows to speak of."""
        return True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over where a checkpoint stood; only a fit goes on from there, a validation of it does not."""
        if state_dict and (self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING):
            self._place.load(state_dict, self._order(), self.fingerprint)

    # How it is done.

    def _order(self) -> SampleOrder:
        rows = self.rows
        self.check_rows(rows)
        return self.make_order(rows)

    def _ranks(self) -> tuple[int, int]:
        """(rank, number of ranks) among those that read different data."""
        options = getattr(self.trainer, "distributed_sampler_kwargs", None) or {}
        return options.get("rank", 0), options.get("num_replicas", 1)

    def _micro_batch(self) -> int:
        _, world_size = self._ranks()
        return micro_batch_rows(self.rows_per_step, world_size, self.batch_size, self.row_tokens)


@rank_zero_only
def _info(message: str) -> None:
    log.info(message)
