"""PretrainDataModule with packed and with separated documents, alone and under our module."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from datamodules import PretrainDataModule
from llm.modules import PretrainModule

Small = Callable[..., PretrainDataModule]


def whole_epoch(data: PretrainDataModule) -> dict[str, torch.Tensor]:
    data.setup("fit")
    batches = list(data.train_dataloader())
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def test_one_epoch_has_every_packed_row_once(small: Small) -> None:
    data = small(packing="best_fit", document_mask=True, context_length=64, global_batch_tokens=64)
    told = data.prepare()
    epoch = whole_epoch(data)
    store = data.prepared.train
    assert len(epoch["tokens"]) == data.rows
    targets = epoch["targets"][epoch["targets"] >= 0]
    assert Counter(targets.tolist()) == Counter(store.tokens[1:].tolist())
    assert (epoch["targets"] == -100).float().mean() < 0.05
    assert not told["reused"]
    assert data.prepare()["reused"]


def test_the_fingerprint_stands_for_the_packing_and_its_length(small: Small) -> None:
    prints = set()
    for options in ({}, {"packing": "best_fit"}, {"packing": "best_fit", "context_length": 64}):
        data = small(**options)
        data.prepare()
        prints.add(data.fingerprint)
    assert len(prints) == 3


def test_without_packing_documents_are_told_apart_where_that_is_asked_for(small: Small) -> None:
    plain, masked = small(), small(document_mask=True)
    for data in (plain, masked):
        data.prepare()
    one, other = whole_epoch(plain), whole_epoch(masked)
    assert torch.equal(one["tokens"], other["tokens"])
    assert "documents" not in one
    assert masked.prepared.validation is not None
    (first, *_) = masked.val_dataloader()
    assert first["documents"].shape == first["tokens"].shape
    tokens, pad = other["tokens"], masked.tokenizer.pad
    begins = (tokens[:, 1:] == masked.tokenizer.end_of_text) | ((tokens[:, 1:] == pad) & (tokens[:, :-1] != pad))
    assert torch.equal(other["documents"].diff(dim=1) != 0, begins)


@pytest.mark.parametrize("short", [None, 8])
def test_the_module_hides_other_documents_in_training_and_scoring(small: Small, tmp_path: Path, short: int) -> None:
    data = small(packing="best_fit", document_mask=True)
    module = PretrainModule(
        gpt={"n_layers": 1, "d_model": 16, "n_heads": 2},
        vocab_size=300,
        context_length=32,
        short_context=short,
        max_tokens=3 * 256,
        validate_every=3,
    )
    module.configure_model()
    assert module.model is not None
    given: list[Any] = []
    plain = module.model.forward

    def watched(tokens: torch.Tensor, *rest: Any, **settings: Any) -> Any:
        given.append((tokens.shape, settings["documents"]))
        return plain(tokens, *rest, **settings)

    module.model.forward = watched  # type: ignore[assignment, method-assign]
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 3
    assert all(documents is not None and documents.shape == shape for shape, documents in given)
    assert {shape[1] for shape, _ in given} == ({32} if short is None else {8, 32})


def test_settings_stay_primitives(small: Small) -> None:
    json.dumps(dict(small(packing="best_fit", document_mask=True).hparams))
