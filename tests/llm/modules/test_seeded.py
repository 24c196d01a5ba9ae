"""The recipe of the quickstart, in small, keeps its losses: no new setting moves what a run without it does."""

from typing import Any

import lightning as L
import pytest
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer

RECIPE: dict[str, Any] = {
    "gpt": {
        "n_layers": 2,
        "d_model": 32,
        "n_heads": 2,
        "qk_norm": True,
        "zero_init_head": True,
        "zero_init_residual": True,
    },
    "optimizer": "muon",
    "lr": 0.007,
    "embedding_lr": 0.1,
    "head_lr": 0.008,
    "scalar_lr": 0.003,
    "betas": (0.8, 0.95),
    "eps": 1e-10,
    "schedule": "wsd",
    "warmup": 0.02,
    "decay": 0.7,
    "min_lr": 0,
    "short_context": 4,
    "short_share": 0.75,
    "max_tokens": 160,
}
# Of commit 959a43e; they agree to the last bit on the machine where they were taken.
LOSSES = [3.4657362, 3.4461875, 3.4755893, 3.534138, 3.5106227, 3.417964, 3.5068109, 3.4903369, 3.5581799, 3.4411983]


def test_the_losses_are_those_that_they_were() -> None:
    seen: list[float] = []

    class Losses(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            seen.append(float(trainer.callback_metrics["train_loss"]))

    L.seed_everything(1, verbose=False)
    data = ListDataModule([make_batch(2, 8, 16, seed) for seed in range(12)])
    make_trainer(max_epochs=-1, callbacks=[Losses()]).fit(make_module(**RECIPE), datamodule=data)
    assert seen == pytest.approx(LOSSES, rel=1e-6)
