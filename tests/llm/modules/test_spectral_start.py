"""A run that starts as bigrams: once, when it is new, with the counts of its data."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from support.fake_data import TINY, VOCAB, ListDataModule, make_batch

from llm.modules import PretrainModule


class CountingDataModule(ListDataModule):
    """Batches of one pair that always comes, and its count."""

    asked = 0

    def count_bigrams(self) -> tuple[np.ndarray, np.ndarray]:
        self.asked += 1
        return np.array([[3], [5]]), np.array([1000])


@pytest.fixture
def data() -> CountingDataModule:
    return CountingDataModule([make_batch(2, 8, 16, seed) for seed in range(3)], [make_batch(2, 8, 16, 9)])


def fit(
    data: CountingDataModule, folder: Path, spectral: bool, steps: int, resume: str | None = None
) -> PretrainModule:
    module = PretrainModule(
        gpt={**TINY, "zero_init_residual": True},
        vocab_size=VOCAB,
        context_length=8,
        spectral_init=spectral,
        lr=0.0,
        max_tokens=steps * 16,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
    return module


def chance_of_the_pair(module: PretrainModule) -> float:
    assert module.model is not None
    return float(module.model(torch.tensor([[3]]))[0, 0].softmax(-1)[5])


def test_a_new_run_starts_as_its_bigrams(data: CountingDataModule, tmp_path: Path) -> None:
    assert chance_of_the_pair(fit(data, tmp_path, spectral=True, steps=1)) > 0.5
    assert data.asked == 1
    assert chance_of_the_pair(fit(data, tmp_path, spectral=False, steps=1)) < 0.2
    assert data.asked == 1


def test_scoring_counts_nothing(data: CountingDataModule) -> None:
    module = PretrainModule(gpt=TINY, vocab_size=VOCAB, context_length=8, spectral_init=True, max_tokens=16)
    L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).validate(module, data, verbose=False)
    assert data.asked == 0


def test_a_resumed_run_keeps_its_weights(data: CountingDataModule, tmp_path: Path) -> None:
    first = fit(data, tmp_path, spectral=True, steps=1)
    assert first.model is not None
    with torch.no_grad():
        first.model.embedding.weight.fill_(0.25)
    path = str(tmp_path / "moved.ckpt")
    first.trainer.save_checkpoint(path)
    second = fit(data, tmp_path, spectral=True, steps=2, resume=path)
    assert second.model is not None
    assert (second.model.embedding.weight == 0.25).all()
