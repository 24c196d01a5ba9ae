"""Conversations packed into rows: nothing is lost, nothing but answers is learnt, and each sees itself alone."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fine_tuning import make_tokenizer, write_base, write_sums

from datamodules import DataError, InstructionDataModule
from datamodules.records.conversations import conversation_of
from datamodules.text.rendering import Rendered, render
from datamodules.tokens.conversation_rows import ConversationRows, ConversationStore

TOKENIZER = make_tokenizer()
END = TOKENIZER.special["<|end|>"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path)
    write_sums(tmp_path / "sums.jsonl")
    return tmp_path


def build(folder: Path, **change: Any) -> InstructionDataModule:
    usual = {
        "tokenizer": str(folder / "tokenizer.json"),
        "sources": str(folder / "sums.jsonl"),
        "context_length": 64,
        "global_batch_tokens": 256,
        "cache_dir": str(folder / "data"),
    }
    data = InstructionDataModule(**{**usual, **change})
    data.prepare_data()
    data.setup("fit")
    return data


def write(folder: Path, *records: Any, name: str = "records.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def pair(question: str, answer: str) -> dict[str, str]:
    return {"instruction": question, "output": answer}


conversations = st.lists(
    st.integers(2, 40).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(0, 299), min_size=n, max_size=n),
            st.lists(st.booleans(), min_size=n - 1, max_size=n - 1),
        )
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(conversations)
def test_rows_hold_each_conversation_once_and_whole(drawn: list[tuple[list[int], list[bool]]]):
    given_ones = [Rendered(np.array(ids), np.array([False, *targets])) for ids, targets in drawn]
    rows = ConversationRows(ConversationStore.of(given_ones), 40, TOKENIZER.pad)
    batch = rows.__getitems__(range(len(rows) + 1))
    found = []
    for row in range(len(rows)):
        documents = batch["documents"][row]
        for number in documents[documents >= 0].unique():
            here = documents == number
            tokens, targets, prompts = (
                batch[name][row][here].tolist() for name in ("tokens", "targets", "prompt_targets")
            )
            following = [t if t >= 0 else p for t, p in zip(targets, prompts, strict=True)]
            assert tokens[1:] == following[:-1]  # shifted by one, here and nowhere else
            assert not any(t >= 0 and p >= 0 for t, p in zip(targets, prompts, strict=True))
            found.append((tokens[0], *following, *(t >= 0 for t in targets)))
    wanted = [(*map(int, ids), *targets) for ids, targets in drawn]
    assert Counter(found) == Counter(wanted)
    assert (batch["targets"][-1] == -100).all()  # a row past the end fills ranks up
    used = sum(len(ids) - 1 for ids, _ in drawn)
    assert int((batch["documents"] >= 0).sum()) == used


def test_answers_with_their_end_token_are_what_is_learnt(folder: Path):
    data = build(folder)
    learnt = []
    for batch in data.train_dataloader():
        for row in range(len(batch["tokens"])):
            for number in batch["documents"][row].unique():
                targets = batch["targets"][row][batch["documents"][row] == number]
                if number >= 0:
                    learnt.append(TOKENIZER.decode(targets[targets >= 0].tolist()))
    assert all(answer.startswith("it is ") and answer.endswith(".<|end|>") for answer in learnt)
    assert len(learnt) > 100


def test_what_is_for_training_and_what_is_held_out_is_a_function_of_the_question(folder: Path):
    questions = [f"question {number % 50}?" for number in range(200)]
    sources = write(folder, *(pair(q, f"answer {number}.") for number, q in enumerate(questions)))
    data = build(folder, sources=sources, validation_fraction=0.3)
    seen = {
        split: {TOKENIZER.decode(rows.store[n].ids.tolist()).split("?")[0] for n in range(len(rows.store))}
        for split in ("train", "validation")
        if (rows := data.rows_of_split(split))
    }
    assert not seen["train"] & seen["validation"]
    assert len(seen["train"] | seen["validation"]) == 50
    assert 5 <= len(seen["validation"]) <= 25


def test_records_for_training_that_are_held_out_as_well_are_named_and_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    train = write(folder, pair("a?", "b"), pair("  C?", "d"), pair("e?", "f"), *[pair(f"{n}?", "g") for n in range(40)])
    held = write(folder, pair("c?", "D"), name="held.jsonl")
    with caplog.at_level(logging.WARNING):
        data = build(folder, sources=train, validation_sources=held, global_batch_tokens=64)
    assert "left out of training, as it stands in validation or test as well: 1 record: " in caplog.text
    assert "records.jsonl line 2" in caplog.text
    assert data.artefact.manifest["splits"]["train"]["conversations"] == 42


@pytest.mark.parametrize(("too_long", "kept"), [("drop", 8), ("cut", 9)])
def test_what_is_longer_than_a_row_is_dropped_or_cut_and_counted(folder: Path, too_long: str, kept: int):
    records = [pair(f"{n}?", "short.") for n in range(8)]
    records += [pair("long answer?", "word " * 100), pair("long question " * 50, "never seen")]
    data = build(
        folder, sources=write(folder, *records), too_long=too_long, validation_fraction=0, global_batch_tokens=64
    )
    counts = data.artefact.manifest["splits"]["train"]
    assert counts["conversations"] == kept
    assert counts["too_long"] == 10 - kept
    assert counts.get("cut", 0) == kept - 8
    longest = max(len(data.rows_of_split("train").store[n].ids) for n in range(kept))  # type: ignore[union-attr]
    assert longest <= 65


def test_rows_are_made_anew_when_records_or_settings_change(folder: Path):
    first = build(folder).fingerprint
    assert build(folder).fingerprint == first
    assert build(folder, train_on="all").fingerprint != first
    write_sums(folder / "sums.jsonl", seed=1)
    assert build(folder).fingerprint != first


def test_a_step_reads_the_same_conversations_whatever_the_batch(folder: Path):
    def steps(batch_size: int) -> list[list[str]]:
        data = build(folder, batch_size=batch_size)
        every = [row for batch in data.train_dataloader() for row in batch["tokens"].tolist()]
        return [sorted(map(str, every[start : start + 4])) for start in range(0, len(every), 4)]

    assert steps(1) == steps(4)


def test_questions_end_where_the_answer_begins(folder: Path):
    for prompt, answer in build(folder).questions(5):
        assert TOKENIZER.decode(prompt).endswith("?<|end|><|assistant|>")
        assert TOKENIZER.decode(answer).startswith("it is ")
        assert answer[-1] == END


def test_samples_are_what_the_model_reads(folder: Path):
    data = build(folder)
    first = data.rows_of_step(0)[0]
    (sample,) = data.samples(1)
    assert sample.ids.tolist() == data.rows_of_split("train").store[_number(data, first)].ids.tolist()  # type: ignore[union-attr]
    assert TOKENIZER.decode(sample.ids[sample.is_target].tolist()).endswith("<|end|>")


def _number(data: InstructionDataModule, row: int) -> int:
    rows = data.rows_of_split("train")
    assert rows is not None
    start = rows.packing.starts[rows.packing.rows[row]]
    return int(np.flatnonzero(rows.store.offsets == start)[0])


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([{"text": "a"}], r"records.jsonl line 1: has the keys 'text'; expected were messages; conversations; prompt"),
        ([pair("a", "b"), pair("a", " ")], r"records.jsonl line 2: message 2, the assistant's, is empty"),
        (
            [{"messages": [{"role": "assistant", "content": "a"}]}],
            "line 1: the conversation starts with the assistant; the user comes first",
        ),
        (
            [{"messages": [{"role": "user", "content": "a"}] * 2}],
            "line 1: messages 1 and 2 are both the user's; user and assistant take turns",
        ),
        ([{"messages": [{"role": "user", "content": "a"}]}], "line 1: the conversation ends without an answer"),
        ([pair("long " * 99, "b")], r"no conversation is left for training \(1 too_long\): raise context_length"),
    ],
)
def test_records_that_cannot_be_used_are_one_sentence(folder: Path, records: list[Any], told: str):
    with pytest.raises(DataError, match=told):
        build(folder, sources=write(folder, *records), validation_fraction=0)


def test_settings_that_cannot_be_are_one_sentence(folder: Path):
    with pytest.raises(DataError, match="global_batch_tokens is 100, not a multiple of context_length 64"):
        build(folder, global_batch_tokens=100)
    with pytest.raises(DataError, match="validation_fraction is 1"):
        build(folder, validation_fraction=1)
    with pytest.raises(DataError, match="no tokenizer is given"):
        build(folder, tokenizer=None)
    with pytest.raises(DataError, match="fill 69 rows of 64 tokens, fewer than the 100 of one step"):
        build(folder, global_batch_tokens=6400)


def test_nothing_to_be_learnt_is_refused_with_a_sample(folder: Path):
    data = build(folder)
    path = data.artefact.folder / "train-is_target.npy"
    np.save(path, np.zeros_like(np.load(path)))
    with pytest.raises(
        DataError, match=r"nothing is to be learnt: .* with 0 of \d+ tokens to be learnt, is '<.endofte"
    ):
        data.setup("fit")


def test_a_conversation_reads_back_as_it_was_rendered():
    record = {"messages": [{"role": role, "content": role} for role in ("system", "user", "assistant")]}
    rendered = render(TOKENIZER, conversation_of(record))
    store = ConversationStore.of([rendered, rendered])
    assert store[1].ids.tolist() == rendered.ids.tolist()
    assert store[1].is_target.tolist() == rendered.is_target.tolist()
    assert torch.tensor(store.offsets).tolist() == [0, len(rendered.ids), 2 * len(rendered.ids)]
