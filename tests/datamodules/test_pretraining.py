import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from datamodules import DataError, PretrainDataModule
from datamodules.corpus import Curation, shards
from datamodules.text import tokenizer as tokenizer_module
from datamodules.text.training import train_bpe
from datamodules.tokens.batches import IGNORED
from datamodules.tokens.store_writer import StoreWriter

Small = Callable[..., PretrainDataModule]


class Nothing(LightningModule):
    """Learns one number, and keeps the batches of training and validation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[dict[str, torch.Tensor]] = []
        self.validated: list[dict[str, torch.Tensor]] = []

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        self.seen.append(batch)
        return self.weight * 1.0

    def validation_step(self, batch: dict[str, torch.Tensor], index: int) -> None:
        self.validated.append(batch)

    test_step = validation_step

    def predict_step(self, batch: dict[str, torch.Tensor], index: int) -> int:
        return len(batch["tokens"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path: Path, **options: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **(quiet | {"max_epochs": 1} | options))


def test_the_batch_contract(tmp_path: Path, small: Small) -> None:
    data, module = small(), Nothing()
    run = trainer(tmp_path)
    run.fit(module, datamodule=data)
    assert run.accumulate_grad_batches == data.micro_steps == 4
    assert run.global_step == data.steps_per_epoch
    batch = module.seen[0]
    assert set(batch) == {"tokens", "targets"}
    for values in batch.values():
        assert values.shape == (2, 32)
        assert values.dtype == torch.int64
    assert (batch["targets"][:, :-1] == batch["tokens"][:, 1:]).all()
    rows = torch.cat([batch["tokens"] for batch in module.seen])
    assert len(rows) == len(rows.unique(dim=0)) == data.steps_per_epoch * 8


def test_validation_has_each_target_once_and_text_bytes_add_up(tmp_path: Path, small: Small) -> None:
    data, module = small(eval_batch_size=3), Nothing()
    run = trainer(tmp_path)
    run.validate(module, datamodule=data, verbose=False)
    store = data.prepared.validation
    assert store is not None
    targets = torch.cat([batch["targets"].flatten() for batch in module.validated])
    assert targets[targets != IGNORED].tolist() == store.tokens[1:].tolist()
    lengths = data.tokenizer.token_bytes()
    assert lengths[targets[targets != IGNORED]].sum() == store.text_bytes
    module.validated.clear()
    run.test(module, datamodule=data, verbose=False)
    assert len(module.validated) == -(-len(data.rows_of_split("validation")) // 3)
    assert sum(run.predict(module, datamodule=data)) == len(data.rows_of_split("validation"))


def test_the_stream_gives_the_documents_back(small: Small, texts: Path) -> None:
    data = small(validation_fraction=0.0)
    data.prepare()
    store = data.prepared.train
    documents = [
        data.tokenizer.decode(store.tokens[start : end - 1].tolist())
        for start, end in zip(store.offsets[:-1].tolist(), store.offsets[1:].tolist(), strict=True)
    ]
    assert documents == [path.read_text() for path in sorted(texts.iterdir())]
    assert (store.tokens == data.tokenizer.end_of_text).sum() == len(documents) + 1
    assert data.val_dataloader() == []


def test_the_report_of_prepare(small: Small, tmp_path: Path) -> None:
    report = small().prepare()
    assert report["documents"]["read"]["documents"] == 60
    assert report["split"]["by"] == "documents"
    assert report["train"]["tokens"] > report["validation"]["tokens"] > 0
    assert report["train"]["text_bytes"] == report["documents"]["kept"]["train"]["bytes"]
    assert report["train"]["bytes_per_token"] > 1
    assert not report["reused"]
    again = small().prepare()
    assert again["reused"]
    assert again["seconds"] < 2
    assert again["fingerprint"] == report["fingerprint"] == small().fingerprint
    assert Path(report["folder"]).parent == tmp_path / "cache"


def test_the_vocabulary_size_is_known_before_anything_is_made(small: Small, tmp_path: Path) -> None:
    data = small(vocab_size=290)
    assert data.vocab_size == 290
    assert not (tmp_path / "cache").exists()
    backend = train_bpe(["some words and more words and some more"] * 2, 270)
    (tmp_path / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    given = small(tokenizer=str(tmp_path / "tokenizer.json"))
    assert given.vocab_size == 270
    given.prepare()
    assert given.tokenizer.to_str() == backend.to_str()
    assert not list((tmp_path / "cache").glob("tokenizer-*"))


def test_only_what_depends_on_a_change_is_made_anew(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    first = small().prepare()
    caplog.set_level("INFO", "datamodules")
    second = small(vocab_size=310).prepare()
    assert second["documents_folder"] == first["documents_folder"]
    assert second["folder"] != first["folder"]
    assert "documents: reused" in caplog.text
    assert "vocab_size 300 -> 310" in caplog.text
    third = small(context_length=64, global_batch_tokens=512, seed=9, batch_size=1).prepare()
    assert third["reused"]
    assert third["fingerprint"] == first["fingerprint"]


def test_a_damaged_store_is_made_anew(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(small().prepare()["folder"])
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:1000])
    with pytest.raises(DataError, match=r"no complete tokens-.*prepare_data"):
        small().setup("fit")
    caplog.set_level("INFO", "datamodules")
    small().prepare()
    assert "damaged" in caplog.text
    small().setup("fit")


def test_setup_without_prepare(small: Small) -> None:
    with pytest.raises(DataError, match=r"no complete tokens-.* call prepare_data"):
        small().setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_length": 100, "global_batch_tokens": 250}, "not a multiple of context_length 100; .* 200 or 300"),
        ({"context_length": 100, "global_batch_tokens": 50}, "not a multiple of context_length 100; .* 100 or 200"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"eval_batch_size": 0}, "eval_batch_size is 0"),
    ],
)
def test_numbers_that_cannot_be(small: Small, options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        small(**options)


def test_a_corpus_smaller_than_one_step(small: Small) -> None:
    data = small(global_batch_tokens=32 * 100_000)
    data.prepare()
    with pytest.raises(DataError, match=r"has \d+ tokens, \d+ rows of 32, fewer than the 100000 rows of one step"):
        data.setup("fit")


def test_a_vocabulary_that_the_corpus_does_not_support(small: Small, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vocab_size is 50000, but .* supports no more than"):
        small(vocab_size=50_000).prepare()
    assert not list((tmp_path / "cache").glob("*tok*"))


def test_a_micro_batch_that_does_not_divide_the_step_is_reduced(small: Small) -> None:
    data = small(batch_size=7)
    assert data.micro_steps == 2  # of 4 rows each
    assert small(batch_size=100).micro_steps == 1


def test_a_contradicting_accumulation(small: Small, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"accumulate_grad_batches is 3, but .* make it 4; leave it out"):
        trainer(tmp_path, accumulate_grad_batches=3).fit(Nothing(), datamodule=small())


def test_a_short_lightning_epoch_goes_on_where_it_stopped(small: Small, tmp_path: Path) -> None:
    whole, parts = Nothing(), Nothing()
    trainer(tmp_path, max_steps=6, max_epochs=-1).fit(whole, datamodule=small())
    trainer(tmp_path, max_epochs=3, limit_train_batches=8).fit(parts, datamodule=small())
    assert [batch["tokens"].tolist() for batch in parts.seen] == [batch["tokens"].tolist() for batch in whole.seen]


def as_rank(data: PretrainDataModule, rank: int, world_size: int, **options: Any) -> PretrainDataModule:
    """Give a data module a trainer of several ranks, as far as it looks at one."""
    connector = SimpleNamespace(use_distributed_sampler=options.pop("use_distributed_sampler", False))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        distributed_sampler_kwargs={"num_replicas": world_size, "rank": rank},
        world_size=world_size,
        accumulate_grad_batches=1,
        lightning_module=None,
        global_step=0,
        _accelerator_connector=connector,
        **options,
    )
    return data


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_ranks_validate_disjoint_rows_in_equally_many_batches(small: Small, world_size: int) -> None:
    small().prepare()
    ranks = [list(as_rank(small(eval_batch_size=3), rank, world_size).val_dataloader()) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    for batches in zip(*ranks, strict=True):
        assert len({len(batch["tokens"]) for batch in batches}) == 1
    store = small().prepared.validation
    assert store is not None
    targets = torch.cat([batch["targets"].flatten() for batches in ranks for batch in batches])
    assert sorted(targets[targets != IGNORED].tolist()) == sorted(store.tokens[1:].tolist())
    rows = -(-(store.n_tokens - 1) // 32)
    assert sum(len(batch["tokens"]) for batches in ranks for batch in batches) - rows < world_size


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_ranks_train_on_disjoint_rows_and_a_step_is_the_same(small: Small, world_size: int, batch_size: int) -> None:
    small().prepare()
    whole = small()
    steps = whole.steps_per_epoch
    reference = torch.cat([batch["tokens"] for batch in whole.train_dataloader()]).reshape(steps, 8, 32)
    parts = []
    for rank in range(world_size):
        data = as_rank(small(batch_size=batch_size), rank, world_size)
        data.setup("fit")
        tokens = torch.cat([batch["tokens"] for batch in data.train_dataloader()])
        parts.append(tokens.reshape(steps, 8 // world_size, 32))
    together = torch.cat(parts, dim=1)
    for step in range(steps):
        assert sorted(together[step].tolist()) == sorted(reference[step].tolist())


def test_a_sampler_of_lightnings_own_is_refused(small: Small) -> None:
    small().prepare()
    with pytest.raises(DataError, match=r"set trainer\.use_distributed_sampler to false"):
        as_rank(small(), 0, 2, use_distributed_sampler=True).setup("fit")


def test_a_step_that_the_devices_cannot_share(small: Small) -> None:
    small().prepare()
    with pytest.raises(DataError, match=r"8 rows, which 3 devices cannot share evenly; .* a multiple of 96"):
        as_rank(small(), 0, 3).setup("fit")


def test_a_job_of_several_processes_is_told_to_prepare_first(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    as_rank(small(), 0, 2).prepare_data()
    assert "preparing the data while 2 processes wait" in caplog.text
    caplog.clear()
    as_rank(small(), 0, 2).prepare_data()
    assert "processes wait" not in caplog.text


def test_another_order_after_a_resume_is_said(small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tmp_path, max_steps=2, max_epochs=-1)
    run.fit(Nothing(), datamodule=small())
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = trainer(tmp_path, max_steps=4, max_epochs=-1)
    again.fit(Nothing(), datamodule=small(seed=1), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert "resumed with another order (seed 0 -> 1)" in caplog.text
    assert again.global_step == 4


def test_the_hyperparameters_are_primitives(small: Small) -> None:
    def primitive(value: Any) -> bool:
        if isinstance(value, dict):
            return all(map(primitive, value.values()))
        return value is None or isinstance(value, str | int | float | list)

    chosen = small(curation=Curation(filters={"c4": {}}, pii=["email"]))
    assert chosen.hparams["curation"]["pii"] == ["email"]
    for data in (small(), chosen):
        assert all(primitive(value) for value in data.hparams.values())


PHASES = {
    "while reading": (shards.pq.ParquetWriter, "write_batch"),
    "while training the tokenizer": (Path, "write_text"),
    "while encoding": (tokenizer_module.Tokenizer, "encode_batch"),
    "while writing tokens": (StoreWriter, "append"),
    "while syncing": (os, "fsync"),
    "while renaming": (os, "rename"),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interruption_in_any_phase_leaves_nothing_half_made(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, error: BaseException
) -> None:
    where, name = PHASES[phase]
    original, calls = getattr(where, name), 0

    def failing(*values: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error
        return original(*values, **options)

    monkeypatch.setattr(where, name, failing)
    with pytest.raises(DataError if isinstance(error, OSError) else KeyboardInterrupt):
        small().prepare()
    monkeypatch.undo()
    for path in (tmp_path / "cache").rglob("*"):
        assert not path.name.endswith((".partial", ".lock"))
        assert path.is_file() or path.name == "work" or (path / "manifest.json").is_file()
    assert small().prepare()["train"]["documents"] > 0


def test_tokens_are_wide_enough_for_a_large_vocabulary(small: Small, shared_data: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = shared_data / "gpt2-tokenizer"
    backend = Tokenizer(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([f"extra{number}" for number in range(20_000)])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "more.txt").write_text("extra19999 and extra1 again\n" * 500)
    data = small(tokenizer=str(tmp_path / "tokenizer.json"), sources=[str(tmp_path / "more.txt")])
    data.prepare()
    assert data.vocab_size > 70_000
    assert data.prepared.train.tokens.dtype == np.uint32
    assert data.prepared.train.tokens.max() == 50257 + 19_999
