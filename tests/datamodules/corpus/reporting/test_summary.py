"""What the report is told: counts that are right, and samples that neither order nor shards change."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.documents import documents_of, write_texts_of

from datamodules.corpus.decisions import Documents
from datamodules.corpus.reporting import summary

TEXTS = [f"text {number}" for number in range(11)]


def excerpts_of(folder: Path, documents: Documents, texts: list[str], rows: int = 2) -> summary.Excerpts:
    return summary.Excerpts(documents, write_texts_of(folder, documents, texts, rows))


def dropped_as(documents: Documents, reason: str, *places: int) -> None:
    which = np.zeros(len(documents), dtype=bool)
    which[list(places)] = True
    documents.drop(reason, which)


@pytest.mark.parametrize(("shards", "rows"), [(1, 100), (1, 3), (3, 1), (4, 2)])
def test_every_excerpt_is_the_beginning_of_its_own_document(shards: int, rows: int, tmp_path: Path) -> None:
    texts = [*TEXTS[:-1], "x" * 1000]
    documents = documents_of(texts, shards=shards, sources=["a", "b"] * 5 + ["a"])
    excerpts = excerpts_of(tmp_path, documents, texts, rows)
    told = excerpts.samples(np.array([10, 3, 0, 7, 3, 9, 6]))
    assert [one["text"] for one in told] == ["x" * 400, *(TEXTS[row] for row in (3, 0, 7, 3, 9, 6))]
    assert told[0] == {"id": f"{10:016x}{7:016x}", "source": "a", "bytes": 1000, "text": "x" * 400}
    assert told[1]["source"] == "b"


def test_samples_are_those_with_the_smallest_ids(tmp_path: Path) -> None:
    ids = [(number * 7 % 11) << 64 | (99 - number) for number in range(11)]
    documents = documents_of(TEXTS, ids=ids)
    dropped_as(documents, "rule", *range(1, 11))
    told = summary.dropped(documents, excerpts_of(tmp_path, documents, TEXTS))
    assert told["rule"]["documents"] == 10
    assert told["rule"]["bytes"] == sum(len(text) for text in TEXTS[1:])
    expected = sorted(range(1, 11), key=ids.__getitem__)[:5]
    assert [one["text"] for one in told["rule"]["samples"]] == [TEXTS[row] for row in expected]
    low = documents_of(TEXTS[:3], ids=[5 << 64 | 3, 5 << 64 | 1, 5 << 64 | 2])
    assert summary.lowest(low, np.arange(3), 2).tolist() == [1, 2]


def test_rules_of_one_filter_are_one_stage_of_the_funnel() -> None:
    documents = documents_of(TEXTS)
    dropped_as(documents, "code.min_lines", 0, 1)
    dropped_as(documents, "code.max_lines", 2)
    dropped_as(documents, "duplicate", 3, 10)
    size = int(documents.sizes.sum())
    stages = summary.funnel(documents, {"documents": 11, "bytes": 500})
    assert [(one["name"], one["documents_in"], one["documents_out"]) for one in stages] == [
        ("read", 11, 11),
        ("code", 11, 8),
        ("duplicate", 8, 6),
    ]
    assert [(one["bytes_in"], one["bytes_out"]) for one in stages] == [
        (500, size),
        (size, size - 18),
        (size - 18, size - 18 - 13),
    ]


def test_clusters_and_pairs(tmp_path: Path) -> None:
    documents = documents_of(TEXTS, ids=[(20 - number) << 64 for number in range(11)])
    # 0 is kept of a cluster of four, of which one is an exact copy; 5 of one of two; 9 was dropped before.
    documents.cluster[[1, 2, 3]] = documents.cluster[0]
    documents.cluster[[6]] = documents.cluster[5]
    documents.cluster[9] = documents.cluster[5]
    dropped_as(documents, "language", 9)
    dropped_as(documents, "duplicate", 1)
    dropped_as(documents, "near_duplicate", 2, 3, 6)
    documents.kept_instead[[1, 2, 3, 6]] = [0, 0, 0, 5]
    documents.jaccard[[1, 2, 3, 6]] = [1.0, 0.9, 0.95, 0.8]
    told = summary.duplicates(documents, excerpts_of(tmp_path, documents, TEXTS))
    assert told["cluster_sizes"] == {"2": 1, "4": 1}
    assert [(one["documents"], one["kept"]) for one in told["largest"]] == [(4, 1), (2, 1)]
    assert [one["text"] for one in told["largest"][0]["samples"]] == ["text 3", "text 2", "text 1"]
    pairs = [(one["jaccard"], one["removed"]["text"], one["kept"]["text"]) for one in told["pairs"]]
    assert pairs == [(0.8, "text 6", "text 5"), (0.95, "text 3", "text 0"), (0.9, "text 2", "text 0")]
    assert summary.duplicates(documents_of(TEXTS), excerpts_of(tmp_path, documents, TEXTS)) == {}


def test_contamination_is_of_what_no_other_rule_dropped(tmp_path: Path) -> None:
    documents = documents_of(TEXTS, shards=2, ids=[(20 - number) << 64 for number in range(11)])
    dropped_as(documents, "language", 0)
    dropped_as(documents, "contaminated", *range(1, 9))

    def span(benchmark: str, text: str) -> dict[str, Any]:
        return {"benchmark": benchmark, "start": 0, "end": 4, "text": text}

    spans = [[span("quiz", f"quiz {row}"), span("quiz", "again")] for row in range(9)] + [[], []]
    spans[7].insert(0, span("other", "other 7"))
    spans[9] = [span("quiz", "cut out of 9")]  # kept, as the words were cut out
    paths = []
    for shard in range(2):
        paths.append(tmp_path / f"{shard}.parquet")
        here = spans[documents.starts[shard] : documents.starts[shard + 1]]
        pq.write_table(pa.table({"contamination": here}), paths[-1])
    told = summary.contamination(documents, paths)
    assert {name: (one["documents"], one["spans"]) for name, one in told.items()} == {"quiz": (9, 17), "other": (1, 1)}
    assert [one["text"] for one in told["quiz"]["samples"]] == ["cut out of 9", "quiz 8", "quiz 7", "quiz 6", "quiz 5"]
    assert told["other"]["samples"] == [{"id": f"{13:016x}{0:016x}", "text": "other 7"}]


def test_sources_are_told_by_size_with_what_is_kept_of_them() -> None:
    documents = documents_of(TEXTS, sources=["small", "large", "large"] + ["even"] * 2 + ["large"] * 6)
    dropped_as(documents, "rule", 1, 10)
    told = summary.by_name(documents, documents.sources, documents.source_names)
    assert list(told) == ["large", "even", "small"]
    assert told["large"] == {"documents": 8, "bytes": 49, "kept_documents": 6, "kept_bytes": 36}


def test_records_are_added_up_within_each_other() -> None:
    records = [{"a": 1, "b": {"c": 2, "d": {"e": 1}}}, {"a": 2.5, "b": {"c": 3}, "text": "x"}, {"b": {"d": {"e": 4}}}]
    assert summary.add_up(records) == {"a": 3.5, "b": {"c": 5, "d": {"e": 5}}}
    assert summary.add_up([]) == {}
