"""C4's rules about lines, against the same rules in plain Python."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus.quality.c4_lines import C4Lines

NOTICES = (
    "javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies",
)  # fmt: skip


def slow_lines(text: str, min_words: int = 3, max_word_length: int = 1000) -> str:
    kept = []
    for line in (line.strip() for line in text.split("\n")):
        words = line.split()
        line = re.sub(r"\[[0-9]*\]|\[edit\]|\[citation needed\]", "", line)
        if len(words) < min_words or any(len(word) > max_word_length for word in words):
            continue
        if not line.endswith((".", "?", "!", '"', "'")) or line.endswith("..."):
            continue
        if not any(notice in line.lower() for notice in NOTICES):
            kept.append(line)
    return "\n".join(kept)


def apply(stage: C4Lines, *documents: str) -> list[str]:
    batch = pa.record_batch(
        {"id": pa.array(["1"] * len(documents), pa.string()), "text": pa.array(documents, pa.string())}
    )
    changed = stage.apply(batch)
    assert changed.schema == batch.schema
    return changed.column("text").to_pylist()


PIECES = [
    "one ",
    "two ",
    "three ",
    "é\u3000",
    "\n",
    ".\n",
    '."\n',
    "'\n",
    "?",
    "...\n",
    "[3].\n",
    "[edit]",
    "[citation needed]",
]
documents = st.lists(st.sampled_from([*PIECES, *NOTICES, "JavaScript", "Use Cookies", "x" * 12, "x" * 11]), max_size=40)


@settings(deadline=None)
@given(st.lists(documents.map("".join), max_size=5))
def test_lines_are_those_of_plain_python(texts: list[str]):
    assert apply(C4Lines(), *texts) == [slow_lines(text) for text in texts]
    stage = C4Lines(min_words=2, max_word_length=11)
    assert apply(stage, *texts) == [slow_lines(text, min_words=2, max_word_length=11) for text in texts]


@pytest.mark.parametrize("text", ["", "\n", "\n\n", "no end", "It is so.", "x" * 2000 + " it is so."])
def test_edges(text: str):
    assert apply(C4Lines(), "", text, "All of it stays.") == ["", slow_lines(text), "All of it stays."]


def test_a_slice_of_a_batch():
    batch = pa.record_batch({"text": ["One of them goes", "It is here.\nGone", "So is this one."]}).slice(1)
    assert C4Lines().apply(batch).column("text").to_pylist() == ["It is here.", "So is this one."]


def test_real_texts(shared_data: Path):
    lines = (shared_data / "c4-sample" / "c4_demo.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    texts += [path.read_text()[:100_000] for path in sorted((shared_data / "novels").glob("*.txt"))]
    assert apply(C4Lines(), *texts) == [slow_lines(text) for text in texts]
