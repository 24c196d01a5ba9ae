"""Features of quality filters: equal to those of plain Python, whatever the text and wherever its batch ends."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.slow_features import slow_features

from datamodules.corpus.quality import features as module
from datamodules.corpus.quality.characters import CLOSERS, SENTENCE_ENDS
from datamodules.corpus.quality.features import ALL, FEATURES, Features, in_order
from datamodules.corpus.quality.layout import STOP_WORDS

# Texts in which every rule has something to find: words that repeat, and all that a rule looks for.
PIECES = (
    *"aab \n\n\n..#{-•…é1",
    *("\u3000", "\u2028", "\x85", "\u00a0", "\t", " ", "一", "😀", "٣", "½", "ª", "\U000e0001", "\U0010ffff"),
    *("...", " ... ", "\n- ", "\n• ", "\n \n", "Lorem Ipsum ", "lorem ipsum", "…\n", 'end." ', ".)')", "?!\n"),
    *SENTENCE_ENDS,
    *CLOSERS,
    *(f" {word} " for word in STOP_WORDS),
    " a line of words that is longer than thirty characters\n",
)
texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))
few_words = st.lists(st.sampled_from(["a ", "b ", "cé ", "dd\n"]), max_size=200).map("".join)


def table(documents: Sequence[str]) -> pa.RecordBatch:
    text = pa.array(documents, pa.string())
    return Features().apply(
        pa.record_batch({"id": pa.array(map(str, range(len(documents))), pa.string()), "text": text})
    )


def assert_features(documents: Sequence[str]) -> None:
    rows = table(documents).to_pylist()
    for text, row in zip(documents, rows, strict=True):
        expected = slow_features(text)
        assert {name: row[name] for name in expected} == expected, repr(text[:1000])


@settings(deadline=None)  # the first text beyond ASCII makes a table
@given(st.lists(texts, max_size=8))
@example(["..", ".", "...", "a", "", "\n", "", "b.\n", ".", '"', "x", "\n\na\n\na"])
@example(["a.", '" b', "a b\nb a\nb  a", "c\nd\n\nd\nc"])
@example(["a.. b.", ".. ..", "..", ".", 'a.") b', "a.\"') b", "a.') ) b.'", "a.'\"", ")"])
@example(["....... ...", "a..", "..b", "a.)", ")", "a.", "'", "…", "-"])
def test_features_are_those_of_plain_python(documents: list[str]):
    assert_features([text.encode(errors="ignore").decode() for text in documents])


@settings(max_examples=200, deadline=None)
@given(st.lists(few_words, max_size=4))
def test_repetition_is_that_of_plain_python(documents: list[str]):
    assert_features(documents)


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 5, 30])
def test_long_repetitive_documents(vocabulary: int):
    source = random.Random(vocabulary)
    words = [f"w{number}" * (1 + number % 3) for number in range(vocabulary)]
    period = [source.choice(words) for _ in range(37)]
    assert_features([" ".join(source.choices(words, k=3000)), " ".join(period * 60), " ".join(words * 40)])


@settings(deadline=None, max_examples=50)
@given(st.lists(texts, max_size=4), st.sets(st.sampled_from(ALL)))
def test_a_few_features_are_those_of_all(documents: list[str], chosen: set[str]):
    documents = [text.encode(errors="ignore").decode() for text in documents]
    names = in_order(chosen)
    batch = pa.record_batch({"text": pa.array(documents, pa.string())})
    few = Features(names).apply(batch)
    assert few.schema.names == ["text", *names]
    assert few.select(names) == table(documents).select(names)


@settings(deadline=None)
@given(st.lists(texts.map(lambda text: text.encode(errors="ignore").decode()), max_size=10), st.data())
def test_batches_do_not_matter(documents: list[str], data: st.DataObject):
    whole = table(documents)
    cut = data.draw(st.integers(0, len(documents)))
    assert pa.concat_batches([table(documents[:cut]), table(documents[cut:])]).drop_columns("id") == whole.drop_columns(
        "id"
    )
    assert Features().apply(whole.slice(cut).select(["id", "text"])) == whole.slice(cut)


def test_slices_of_a_batch_do_not_matter(monkeypatch: pytest.MonkeyPatch):
    documents = ["the same line\n" * count for count in range(30)] + [""] * 3
    whole = table(documents)
    for size in (1, 50, 1000):
        monkeypatch.setattr(module, "SLICE_BYTES", size)
        assert table(documents) == whole


def test_columns_are_those_stated():
    batch = table([])
    assert batch.num_rows == 0
    assert batch.schema.names == ["id", "text", *(feature.name for feature in FEATURES)]
    assert {batch.schema.field(feature.name).type for feature in FEATURES} == {pa.int32()}


def test_what_unicode_says_is_what_python_says():
    every = "".join(f"{chr(code)} " for code in range(0x20, 0x30000) if not 0xD800 <= code < 0xE000)
    row = table([every]).to_pylist()[0]
    assert row["letters"] == sum(character.isalpha() for character in every)
    assert row["words"] == len(every.split())


def test_real_texts(shared_data: Path):
    lines = (shared_data / "c4-sample" / "c4_demo.jsonl").read_text().splitlines()
    novels = [path.read_text()[10_000:60_000] for path in sorted((shared_data / "novels").glob("*_1*.txt"))]
    stories = (shared_data / "tinystories" / "tinystories_10k.txt").read_text().split("<|endoftext|>")
    assert_features([json.loads(line)["text"] for line in lines] + novels + stories[:200])
