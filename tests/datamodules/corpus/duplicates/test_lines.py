import re
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus.duplicates.lines import (
    DropLines,
    LineCounts,
    Unit,
    count_lines,
    frequent_lines,
    id_hashes,
    line_hashes,
    merge_counts,
)

MENU = "Home | About us | Contact"
NOTICE = "All rights reserved by us"
TEXTS = st.lists(
    st.lists(
        st.sampled_from([MENU, NOTICE, "  " + MENU + " ", "own line", "", " \t", "\u00e9" * 8, "e" * 10, "x" * 90])
    )
    .map("\n".join)
    .flatmap(lambda text: st.sampled_from([text, text + "\n", text + "\n\n"])),
    max_size=6,
)
LEAST = 10


def batch_of(texts: list[str], ids: list[str] | None = None) -> pa.RecordBatch:
    ids = ids or [f"id-{number}" for number in range(len(texts))]
    return pa.RecordBatch.from_pydict({"id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())})


def counted(batch: pa.RecordBatch, unit: Unit, least: int = LEAST) -> LineCounts:
    return count_lines(line_hashes(batch.column("text"), unit, least), id_hashes(batch.column("id")))


def dropped(
    batches: list[pa.RecordBatch], unit: Unit, min_documents: int = 2, least: int = LEAST
) -> list[pa.RecordBatch]:
    frequent = frequent_lines(merge_counts(counted(batch, unit, least) for batch in batches), min_documents)
    return [DropLines(frequent, unit, least).apply(batch) for batch in batches]


def pieces(text: str, unit: Unit) -> list[str]:
    """The text in pieces: each line with its newline, or each paragraph with the blank lines behind it."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    if unit == "line":
        return lines
    paragraphs: list[str] = []
    blank = True
    for line in lines:
        if not paragraphs or (blank and line.strip()):
            paragraphs.append(line)
        else:
            paragraphs[-1] += line
        blank = not line.strip()
    return paragraphs


def reference(
    texts: list[str], ids: list[str], unit: Unit, min_documents: int
) -> tuple[list[str], list[int], list[int]]:
    order = dict(zip(ids, id_hashes(pa.array(ids, pa.string())).tolist(), strict=True))
    holders = defaultdict(set)
    for text, one in zip(texts, ids, strict=True):
        for piece in pieces(text, unit):
            if len(piece.strip()) >= LEAST:
                holders[piece.strip()].add(one)
    kept, count, size = [], [], []
    for text, one in zip(texts, ids, strict=True):
        gone = [
            len(holders[piece.strip()]) >= min_documents and min(holders[piece.strip()], key=order.__getitem__) != one
            for piece in pieces(text, unit)
        ]
        pairs = list(zip(pieces(text, unit), gone, strict=True))
        kept.append("".join(piece for piece, go in pairs if not go))
        count.append(sum(gone))
        size.append(sum(len(piece.encode()) for piece, go in pairs if go))
    return kept, count, size


def test_one_document_keeps_the_line() -> None:
    texts = [
        f"{MENU}\nfirst text of its own\n{NOTICE}\n",
        f"\t{MENU} \nsecond text of its own\n",
        "a third without any",
    ]
    [batch] = dropped([batch_of(texts)], "line")
    after = batch.column("text").to_pylist()
    assert sum(MENU in text for text in after) == 1
    assert NOTICE in after[0]
    assert "second text of its own\n" in after[1]
    assert sum(batch.column("removed_lines").to_pylist()) == 1
    assert batch.schema.field("removed_lines").type == pa.int32()


def test_a_paragraph_goes_as_a_whole_or_not_at_all() -> None:
    texts = [f"one\n\n{MENU}\n{NOTICE}\n\n\ntwo\n", f"{MENU}\n{NOTICE}\n\nthree\n", f"{MENU}\n\nfour\n"]
    [batch] = dropped([batch_of(texts)], "paragraph")
    after = batch.column("text").to_pylist()
    assert after[2] == texts[2]
    assert sorted(after[:2]) in (sorted(["one\n\ntwo\n", texts[1]]), sorted([texts[0], "three\n"]))


def test_characters_count_rather_than_bytes() -> None:
    lines = line_hashes(pa.array(["\u00e9" * 9 + "\n" + "e" * 10 + "\n" + "\u4e2d" * 10]), "line", 10)
    assert len(lines.hashes) == 2


@pytest.mark.parametrize("unit", ["line", "paragraph"])
@settings(max_examples=150, deadline=None)
@given(texts=TEXTS, min_documents=st.integers(1, 3), cut=st.integers(0, 6))
def test_equals_the_loop_over_lines_in_any_batches(unit: Unit, texts: list[str], min_documents: int, cut: int) -> None:
    ids = [f"id-{number}" for number in range(len(texts))]
    batch = batch_of(texts, ids)
    text, count, size = reference(texts, ids, unit, min_documents)
    [whole] = dropped([batch], unit, min_documents)
    assert whole.column("text").to_pylist() == text
    assert whole.column("removed_lines").to_pylist() == count
    assert whole.column("removed_line_bytes").to_pylist() == size
    first, second = batch.slice(0, cut), batch.slice(cut)
    two, one = dropped([second, first], unit, min_documents)
    assert pa.Table.from_batches([one, two]).to_pylist() == whole.to_pylist()


def test_merging_in_steps_changes_nothing() -> None:
    parts = [counted(batch_of([f"{MENU}\n{NOTICE} {number % 3}"], [f"id-{number}"]), "line") for number in range(9)]
    at_once = merge_counts(parts)
    in_steps = merge_counts([merge_counts(parts[5:]), merge_counts(parts[:5]), merge_counts([])])
    for name in ("hashes", "documents", "keepers"):
        np.testing.assert_array_equal(getattr(at_once, name), getattr(in_steps, name))
    assert sorted(at_once.documents.tolist()) == [3, 3, 3, 9]


def test_nothing_listed_and_nothing_there() -> None:
    for texts in ([], [""], ["a line that stands alone"]):
        [batch] = dropped([batch_of(texts)], "line")
        assert batch.column("text").to_pylist() == texts
        assert sum(batch.column("removed_lines").to_pylist()) == 0


def test_lines_of_twenty_characters_in_two_documents_count_unless_told_otherwise() -> None:
    long, short = "x" * 20, "y" * 19
    batch = batch_of([f"{long}\n{short}"] * 2)
    frequent = frequent_lines(count_lines(line_hashes(batch.column("text")), id_hashes(batch.column("id"))))
    assert frequent.documents.tolist() == [2]
    after = DropLines(frequent).apply(batch).column("text").to_pylist()
    assert sorted(after) == sorted([short, f"{long}\n{short}"])
