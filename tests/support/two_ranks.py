"""Fits whose batches are unlike on two ranks, and what each rank saw; run as a script for two processes.

Not a test: tests/end_to_end/test_two_ranks.py starts it.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from support.fake_data import TINY, VOCAB, FakeTokenizer, make_batch, make_module, make_trainer
from torch.utils.data import Dataset

from datamodules.tokens.batches import make_loader
from llm.modules import PretrainModule

# Targets of the micro-batches; four are a step, which leaves two for the last one.
TARGETS = (16, 3, 9, 1, 12, 16, 2, 7, 16, 5)
ITEMS = 5  # of validation, which two ranks cannot share evenly


def training(rank: int, ranks: int) -> list[dict[str, torch.Tensor]]:
    """Each rank's micro-batches: every second one; of one rank all."""
    return [make_batch(2, 8, targets, seed) for seed, targets in enumerate(TARGETS)][rank::ranks]


def validation(rank: int, ranks: int) -> list[dict[str, torch.Tensor]]:
    """Each rank's items, filled up by one without targets, as PretrainDataModule does."""
    items = [make_batch(1, 8, 2 + seed, 100 + seed) for seed in range(ITEMS)]
    items += [make_batch(1, 8, 0, 99)] * (-len(items) % ranks)
    return items[rank::ranks]


class Unlike(L.LightningDataModule):
    """Gives each rank its own batches."""

    tokenizer, fingerprint, global_batch_tokens, steps_per_epoch = FakeTokenizer(), "unlike", 128, 3

    def train_dataloader(self) -> Iterable[Any]:
        return make_loader(training(*self._place()), 0, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Iterable[Any]:
        return make_loader(validation(*self._place()), 0, batch_size=None)  # type: ignore[arg-type]

    def _place(self) -> tuple[int, int]:
        assert self.trainer is not None
        return self.trainer.global_rank, self.trainer.world_size


class Watched(PretrainModule):
    """Keeps gradients, scores and modes."""

    def prepare(self) -> None:
        self.seen: dict[str, Any] = {"gradients": [], "train modes": set(), "scoring modes": set(), "drawn": []}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        super().on_before_optimizer_step(optimizer)
        self.seen["gradients"].append([p.grad.clone() for p in self.parameters() if p.grad is not None])

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.seen["train modes"] |= {module.training for module in self.modules()}
        state = torch.get_rng_state()
        self.seen["drawn"].append(torch.rand(4))  # what dropout would draw next
        torch.set_rng_state(state)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.seen["scoring modes"] |= {module.training for module in self.modules()}
        super().validation_step(batch, batch_idx)


class Streams(Dataset[torch.Tensor]):
    """What the workers of a loader draw."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(2)


def main(out: str, devices: int) -> None:
    """Train on as many ranks, and write what each saw."""
    torch.set_num_threads(1)
    L.seed_everything(3, workers=True, verbose=False)
    module = make_module(lr=0.0, gpt={**TINY, "dropout": 0.1 if "dropout" in out else 0.0})
    module.__class__ = Watched
    module.prepare()  # type: ignore[operator]
    settings = {"strategy": "ddp", "accumulate_grad_batches": 4 // devices, "use_distributed_sampler": False}
    trainer = make_trainer(devices=devices, max_epochs=2, **settings)
    module.eval()
    trainer.fit(module, datamodule=Unlike())
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    streams = torch.stack(
        [row for batch in make_loader(Streams(), 2, trainer.global_rank, batch_size=4) for row in batch]
    )
    seen = {**module.seen, "metrics": metrics, "streams": streams, "vocabulary": VOCAB}  # type: ignore[dict-item]
    torch.save(seen, f"{out}-{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    Path(f"{sys.argv[1]}.done").touch()
