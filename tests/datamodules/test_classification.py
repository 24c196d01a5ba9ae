"""Texts with labels: the split is stratified and leaks nothing, and batches hold little padding."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fine_tuning import make_tokenizer, write_base

from datamodules import ClassificationDataModule, DataError
from datamodules.records.labelled import Labelled, stratified
from datamodules.records.splitting import key_of
from datamodules.tokens.bucketed_order import BucketedOrder

TOKENIZER = make_tokenizer()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path)
    return tmp_path


def write(folder: Path, rows: list[dict[str, Any]], name: str = "texts.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def build(folder: Path, rows: list[dict[str, Any]], **change: Any) -> ClassificationDataModule:
    usual = {
        "tokenizer": str(folder / "tokenizer.json"),
        "sources": write(folder, rows),
        "max_length": 32,
        "global_batch_size": 8,
        "batch_size": 8,
        "cache_dir": str(folder / "data"),
    }
    data = ClassificationDataModule(**{**usual, **change})
    data.prepare_data()
    data.setup("fit")
    return data


def texts(n: int) -> list[dict[str, Any]]:
    return [{"text": f"number {i} " * (1 + i % 5), "label": "abbb"[i % 4]} for i in range(n)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=1, max_size=120), st.integers(0, 3))
def test_no_group_is_on_two_sides_and_nothing_is_lost(drawn: list[tuple[int, str]], seed: int):
    given_ones = [Labelled(f"text {i}", (label,), group, str) for i, (group, label) in enumerate(drawn)]
    cut = stratified(given_ones, {"validation": 0.2, "test": 0.2}, seed)
    assert Counter(one.text for part in cut.values() for one in part) == Counter(one.text for one in given_ones)
    groups = [{one.group for one in part} for part in cut.values()]
    assert not groups[0] & groups[1]
    assert not groups[1] & groups[2]
    assert not groups[0] & groups[2]


def test_each_class_has_its_share_in_each_split(folder: Path):
    data = build(folder, texts(400), validation_fraction=0.2, test_fraction=0.1)
    for split, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        rows = data.rows_of_split(split)
        assert rows is not None
        assert np.bincount(rows.labels).tolist() == [round(100 * share), round(300 * share)]


def test_equal_texts_stay_together_or_are_dropped(folder: Path, caplog: pytest.LogCaptureFixture):
    rows = [{"text": text, "label": "ab"[i % 2]} for i in range(60) for text in (f"Say {i}", f"  say   {i} ")]
    rows.append({"text": "say 0", "label": "b"})
    with caplog.at_level(logging.WARNING):
        data = build(folder, rows, validation_fraction=0.3)
    keys = [{key_of(text) for text in data.texts(split)} for split in ("train", "validation")]
    assert not keys[0] & keys[1]
    assert "1 texts stand there several times, with different labels" in caplog.text
    dropped = build(folder, rows, validation_fraction=0.3, drop_duplicates=True)
    assert len(dropped.texts("train")) + len(dropped.texts("validation")) == 60


def test_texts_that_are_held_out_as_well_are_named(folder: Path, caplog: pytest.LogCaptureFixture):
    test = write(folder, [{"text": "NUMBER 3 number 3 number 3 number 3", "label": "b"}], "test.jsonl")
    with caplog.at_level(logging.WARNING):
        data = build(folder, texts(40), test_sources=test)
    assert "left out of training, as they stand in validation or test as well: 1 texts" in caplog.text
    assert "texts.jsonl line 4" in caplog.text
    assert len(data.texts("test")) == 1


def test_batches_are_padded_on_the_right_and_labelled(folder: Path):
    data = build(folder, texts(80))
    for batch in data.train_dataloader():
        for row in range(len(batch["tokens"])):
            length, number = int(batch["lengths"][row]), int(batch["numbers"][row])
            tokens = batch["tokens"][row]
            assert (tokens[length:] == TOKENIZER.pad).all()
            text = TOKENIZER.decode(tokens[:length].tolist())
            assert ("<|endoftext|>" + data.texts("train")[number]).startswith(text)
            assert data.labels[batch["labels"][row]] in "ab"


def test_a_text_that_is_too_long_keeps_its_start_or_its_end(folder: Path):
    rows = [{"text": f"first {i} " + "word " * 60 + f"last {i}", "label": "ab"[i % 2]} for i in range(40)]
    start, end = (build(folder, rows, keep=keep) for keep in ("start", "end"))
    for data, word in ((start, "first"), (end, "last")):
        batch = next(iter(data.train_dataloader()))
        assert (batch["lengths"] == 32).all()
        assert all(word in TOKENIZER.decode(tokens.tolist()) for tokens in batch["tokens"])
    assert start.artefact.manifest["splits"]["train"]["cut"] == len(start.texts("train"))


@settings(deadline=None)
@given(st.integers(8, 300), st.integers(1, 8), st.integers(0, 5))
def test_an_epoch_reads_each_text_once_and_like_lengths_together(rows: int, per_step: int, seed: int):
    lengths = np.random.default_rng(seed).integers(1, 100, rows)
    order = BucketedOrder(seed, lengths, per_step)
    seen = order(np.arange(order.samples_per_epoch))
    assert len(set(seen.tolist())) == len(seen)
    assert (order(np.arange(order.samples_per_epoch)[::-1])[::-1] == seen).all()
    steps = lengths[seen].reshape(-1, per_step)
    assert (np.diff(steps, axis=1) <= 0).all()
    plain = lengths[seen[np.random.default_rng(0).permutation(len(seen))]].reshape(-1, per_step)
    assert steps.max(1).sum() <= plain.max(1).sum() + 1e-9


def test_a_step_reads_the_same_texts_whatever_the_batch(folder: Path):
    def steps(batch_size: int) -> list[set[int]]:
        data = build(folder, texts(100), batch_size=batch_size)
        numbers = [n for batch in data.train_dataloader() for n in batch["numbers"].tolist()]
        return [set(numbers[first : first + 8]) for first in range(0, len(numbers), 8)]

    assert steps(1) == steps(4) == steps(8)


@pytest.mark.parametrize(
    ("rows", "change", "told"),
    [
        ([{"text": "a"}], {}, r"line 1 has no column 'label', it has 'text'; set label_field to one of them"),
        ([{"body": "a", "label": "b"}], {}, r"line 1 has no column 'text', it has 'body', 'label'; set text_field"),
        ([{"text": "a", "label": "b"}] * 20, {}, "have only 'b' as label in 'label': classification needs two classes"),
        ([{"text": " ", "label": "b"}] * 3, {}, r"the sources of train hold no text \(3 are empty\)"),
        ([{"text": "a", "label": None}], {}, r"line 1 has no label in 'label' but None"),
        (texts(4), {}, r"fewer than the 8 of one step"),
        (texts(40), {"validation_fraction": 0.6, "test_fraction": 0.4}, "together below 1"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(folder: Path, rows: list[Any], change: dict[str, Any], told: str):
    with pytest.raises(DataError, match=told):
        build(folder, rows, **change)


def test_a_label_that_only_validation_has_is_refused(folder: Path):
    other = write(folder, [{"text": "new", "label": "z"}], "other.jsonl")
    with pytest.raises(DataError, match=r"other.jsonl line 1 has the label 'z', which no text for training has"):
        build(folder, texts(40), validation_sources=other)
