"""The order of the reasons, and that each is decided from what belongs to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.documents import documents_of

from datamodules.corpus.curation import Curation
from datamodules.corpus.decisions import DROP, TO_TRAIN, TO_VALIDATION, Documents
from datamodules.corpus.duplicates.minhash import MinHash
from datamodules.corpus.judging import judge
from datamodules.corpus.steps import KEYS_FILE, SIGNATURES_FILE
from datamodules.errors import DataError

WORDS = [f"word{number}" for number in range(400)]
BASE = " ".join(WORDS)
NEAR = " ".join([*WORDS[:200], "another", *WORDS[201:]])  # similarity (396 - 5) / (396 + 5) = 0.975
HALF = " ".join([*WORDS[:270], *(f"new{number}" for number in range(130))])  # 266 / (2 * 396 - 266) = 0.51


def judged(
    folder: Path,
    documents: Documents,
    texts: Sequence[str],
    features: Sequence[Path] = (),
    matches: Sequence[Path] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Judge documents with the sketches of their texts."""
    folders = []
    for shard in range(len(documents.starts) - 1):
        folders.append(folder / f"sketches-{shard}")
        folders[-1].mkdir(exist_ok=True)
        here = list(texts[documents.starts[shard] : documents.starts[shard + 1]])
        sketches = settings.get("minhash", MinHash()).sketch(pa.array(here, pa.string()))
        np.save(folders[-1] / KEYS_FILE, sketches.keys)
        np.save(folders[-1] / SIGNATURES_FILE, sketches.signatures)
    return judge(documents, Curation(**settings), 0.0, features, folders, matches, lambda row: texts[row])


def reasons(documents: Documents) -> list[str | None]:
    return [documents.reasons[code] if code >= 0 else None for code in documents.reason]


def write_table(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_only_what_is_blank_is_empty(tmp_path: Path) -> None:
    documents = documents_of(["x", "", " "])
    judged(tmp_path, documents, ["x", "", " "])
    assert reasons(documents) == [None, "empty", "empty"]


def test_documents_in_other_languages_are_dropped(tmp_path: Path) -> None:
    texts = ["a", "b", "c", "", "e"]
    documents = documents_of(texts, languages=["en", "de", "fr", "und", "en"])
    judged(tmp_path, documents, texts, languages=["en", "fr"])
    assert reasons(documents) == [None, "language", None, "empty", None]


def test_a_document_is_dropped_for_the_first_rule_that_it_fails(tmp_path: Path) -> None:
    texts = ["a", "b", "c", "d", "e"]
    documents = documents_of(texts, shards=2)  # of two and three
    rows = {
        "lines": [3, 1, 3, 3, 99],
        "longest_line": [10] * 5,
        "characters": [100, 100, 100, 100, 100],
        "letters": [90, 10, 90, 10, 90],
    }
    files = [
        write_table(tmp_path / "0.parquet", **{name: column[:2] for name, column in rows.items()}),
        write_table(tmp_path / "1.parquet", **{name: column[2:] for name, column in rows.items()}),
    ]
    judged(tmp_path, documents, texts, files, filters={"code": {"min_lines": 2, "max_lines": 50}})
    assert reasons(documents) == [None, "code.min_lines", None, "code.min_letters", "code.max_lines"]


def test_what_holds_text_of_a_benchmark_is_dropped_for_that(tmp_path: Path) -> None:
    texts = ["a", "b", "b", "d", "e"]
    documents = documents_of(texts, shards=2)
    files = [
        write_table(tmp_path / "0.parquet", contaminated=[False, True]),
        write_table(tmp_path / "1.parquet", contaminated=[True, False, True]),
    ]
    judged(tmp_path, documents, texts, matches=files)
    assert reasons(documents) == [None, "contaminated", "duplicate", None, "contaminated"]
    assert documents.goes.tolist() == [TO_TRAIN, DROP, DROP, TO_TRAIN, DROP]


def test_of_two_alike_on_both_sides_train_loses_its_own_though_it_is_longer(tmp_path: Path) -> None:
    short = " ".join(WORDS[:380])
    texts = [BASE, short, "its own text of validation", NEAR, "its own text of train"]
    documents = documents_of(texts, [False, True, True, False, False], shards=2)
    judged(tmp_path, documents, texts)
    assert reasons(documents) == ["in_validation", None, None, "in_validation", None]
    assert documents.kept_instead.tolist() == [1, -1, -1, 1, -1]
    assert documents.goes.tolist() == [DROP, TO_VALIDATION, TO_VALIDATION, DROP, TO_TRAIN]


@pytest.mark.parametrize("side", [False, True])
def test_of_two_alike_on_one_side_the_shorter_is_a_near_duplicate(side: bool, tmp_path: Path) -> None:
    texts = [NEAR, "another text", BASE + " and more", "a text of the other side"]
    documents = documents_of(texts, [side, side, side, not side])
    judged(tmp_path, documents, texts)
    assert reasons(documents) == ["near_duplicate", None, None, None]
    assert documents.kept_instead[0] == 2
    assert 0.9 < documents.jaccard[0] < 1


@pytest.mark.parametrize(("threshold", "kept"), [(0.4, [True, False]), (0.6, [True, True])])
def test_a_threshold_below_that_of_clusters_finds_what_it_asks_for(
    threshold: float, kept: list[bool], tmp_path: Path
) -> None:
    documents = documents_of([BASE, HALF])
    judged(tmp_path, documents, [BASE, HALF], near_duplicates=threshold, minhash=MinHash(bands=40, rows=2))
    assert documents.kept.tolist() == kept


def test_exact_copies_share_the_cluster_of_what_their_text_is_like(tmp_path: Path) -> None:
    texts = [BASE, "something else", NEAR, BASE, NEAR]
    clusters = []
    for order in ([0, 1, 2, 3, 4], [4, 2, 1, 3, 0]):
        here = [texts[place] for place in order]
        documents = documents_of(here)
        judged(tmp_path, documents, here)
        back = documents.cluster[np.argsort(order)]
        assert len(np.unique(back[[0, 2, 3, 4]], axis=0)) == 1
        assert (back[1] != back[0]).any()
        clusters.append(back)
    assert (clusters[0] == clusters[1]).all(), "which hash it is depends on the texts alone"


def test_too_many_near_duplicates_are_an_error_with_one_of_them(tmp_path: Path) -> None:
    texts = ["something of its own", *(f"{BASE} and number {number}" for number in range(120))]
    with pytest.raises(DataError, match=r"near_duplicate removed 119 of 121 documents .*'word0 word1"):
        judged(tmp_path, documents_of(texts), texts, max_removed=0.9)
    judged(tmp_path, documents_of(texts), texts, max_removed=0.99)
