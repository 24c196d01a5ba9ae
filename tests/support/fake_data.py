"""A small data module with batches of any shape, in place of a prepared corpus."""

from collections.abc import Iterable
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from llm.modules import PretrainModule

VOCAB = 32
TINY = {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 32}


class FakeTokenizer:
    """Token i stands for i % 4 bytes; the last token is special and stands for none."""

    def to_str(self) -> str:
        return "fake"

    def token_bytes(self) -> np.ndarray:
        sizes = np.arange(VOCAB, dtype=np.int64) % 4
        sizes[-1] = 0
        return sizes


class ListDataModule(L.LightningDataModule):
    """Serves given batches."""

    tokenizer = FakeTokenizer()
    fingerprint = "list"
    global_batch_tokens = 16

    def __init__(self, train: list[dict[str, torch.Tensor]], validation: list[dict[str, torch.Tensor]] | None = None):
        super().__init__()
        self.train, self.validation = train, validation or []

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train)

    def train_dataloader(self) -> Iterable[Any]:
        return DataLoader(self.train, batch_size=None)

    def val_dataloader(self) -> Iterable[Any]:
        return DataLoader(self.validation, batch_size=None)

    test_dataloader = val_dataloader


def make_batch(rows: int, length: int, targets: int, seed: int) -> dict[str, torch.Tensor]:
    """Random rows of which only the first `targets` positions (row by row) are targets."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCAB, (rows, length), generator=generator)
    wanted = torch.randint(0, VOCAB, (rows * length,), generator=generator)
    wanted[targets:] = -100
    return {"tokens": tokens, "targets": wanted.view(rows, length)}


def make_trainer(**settings: Any) -> L.Trainer:
    """A trainer that writes nothing."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "accelerator": "cpu",
        "max_epochs": 1,
    }
    return L.Trainer(**{**quiet, **settings})


def make_module(**settings: Any) -> PretrainModule:
    """A very small model, trained without decay so that gradients can be compared."""
    defaults = {"gpt": TINY, "vocab_size": VOCAB, "context_length": 8, "lr": 1e-2, "weight_decay": 0.0, "warmup": 0.0}
    return PretrainModule(**{**defaults, **settings})
