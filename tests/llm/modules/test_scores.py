"""Validation is Σ nll / Σ tokens and Σ nll / Σ bytes, however the rows are batched (B3, B28)."""

import math

import pytest
import torch
from support.fake_data import FakeTokenizer, ListDataModule, make_batch, make_module, make_trainer

ROWS = [make_batch(1, 8, targets, seed) for seed, targets in enumerate((8, 2, 5, 8, 1, 0, 7))]


def joined(sizes: tuple[int, ...]) -> list[dict[str, torch.Tensor]]:
    batches, start = [], 0
    for size in sizes:
        rows = ROWS[start : start + size]
        batches.append({key: torch.cat([row[key] for row in rows]) for key in ("tokens", "targets")})
        start += size
    return batches


@pytest.mark.parametrize("sizes", [(1,) * 7, (7,), (3, 4), (6, 1)])
def test_scores_do_not_depend_on_the_batches(sizes: tuple[int, ...]):
    torch.manual_seed(0)
    module = make_module()
    trainer = make_trainer()
    (scores,) = trainer.validate(module, datamodule=ListDataModule([], joined(sizes)), verbose=False)

    token_bytes = torch.from_numpy(FakeTokenizer().token_bytes())
    nll = text_nll = 0.0
    n_targets = n_bytes = 0
    with torch.no_grad():
        for row in ROWS:
            log_probabilities = module(row["tokens"]).log_softmax(-1)
            for position, target in enumerate(row["targets"][0].tolist()):
                if target == -100:
                    continue
                loss = -float(log_probabilities[0, position, target])
                nll, n_targets = nll + loss, n_targets + 1
                if token_bytes[target]:  # a special token stands for no text: it counts in neither sum
                    text_nll, n_bytes = text_nll + loss, n_bytes + int(token_bytes[target])
    assert scores["val_loss"] == pytest.approx(nll / n_targets, rel=1e-5)
    assert scores["val_bpb"] == pytest.approx(text_nll / math.log(2) / n_bytes, rel=1e-5)


def test_dropout_is_off_in_validation_and_on_again_after_it():
    modes = []
    module = make_module(gpt={"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 32, "dropout": 0.5}, validate_every=1)
    module.configure_model()
    module.eval()  # as a user who has just scored it leaves it: Lightning alone would train in eval mode (B22)

    class Watch(type(module)):  # type: ignore[misc]
        def training_step(self, batch, batch_idx):
            modes.append(("train", self.model.training))
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            modes.append(("validate", self.model.training))
            return super().validation_step(batch, batch_idx)

    module.__class__ = Watch
    batches = joined((3, 4))
    make_trainer().fit(module, datamodule=ListDataModule(batches, batches))
    assert ("validate", False) in modes
    assert ("train", True) in modes
    assert ("train", False) not in modes
    assert ("validate", True) not in modes
