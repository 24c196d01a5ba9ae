from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from support.documents import documents_of

from datamodules.corpus.decisions import (
    DROP,
    TO_BOTH,
    TO_TRAIN,
    TO_VALIDATION,
    Documents,
    check_removed,
    drop_exact_duplicates,
    drop_what_validation_has,
    gather,
    split,
)
from datamodules.corpus.split import in_validation
from datamodules.errors import DataError


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["a", "b", "c", "dd", "eee"]), max_size=30))
def test_of_equal_texts_the_smallest_id_stays(texts: list[str]) -> None:
    documents = documents_of(texts)
    drop_exact_duplicates(documents)
    assert documents.kept.tolist() == [text not in texts[:n] for n, text in enumerate(texts)]
    for n, text in enumerate(texts):
        assert documents.kept_instead[n] == (-1 if documents.kept[n] else texts.index(text))


def test_a_document_has_one_reason_the_first() -> None:
    documents = documents_of(["x"] * 4)
    assert documents.drop("a", np.array([True, True, False, False])) == 2
    assert documents.drop("b", np.array([False, True, True, False])) == 1
    assert documents.drop("a", np.array([False, False, True, True])) == 1
    assert [documents.reasons[code] for code in documents.reason] == ["a", "a", "b", "a"]


def test_train_loses_what_validation_has() -> None:
    documents = documents_of(["a", "b", "b", "c", "b"], [False, False, False, True, True])
    drop_exact_duplicates(documents)
    drop_what_validation_has(documents)
    assert documents.kept.tolist() == [True, False, False, True, True]
    split(documents, 0.5)
    assert documents.goes.tolist() == [TO_TRAIN, DROP, DROP, TO_VALIDATION, TO_VALIDATION]


def test_a_cluster_goes_to_one_side() -> None:
    texts = [f"text {n}" for n in range(3000)]
    documents = documents_of(texts)
    documents.cluster[1::3] = documents.cluster[0::3]
    assert split(documents, 0.1)["by"] == "documents"
    goes = documents.goes.reshape(-1, 3)
    assert (goes[:, 0] == goes[:, 1]).all()
    assert (goes[:, 0] != goes[:, 2]).any()
    assert 0.05 < (goes == TO_VALIDATION).mean() < 0.2


def test_one_document_is_split_at_its_tail() -> None:
    documents = documents_of(["one long text"])
    assert split(documents, 0.1)["by"] == "tails"
    assert documents.goes.tolist() == [TO_BOTH]


def test_too_much_removed_is_an_error_with_an_example() -> None:
    documents = documents_of(["same"] * 990 + [str(n) for n in range(10)])
    drop_exact_duplicates(documents)
    message = r"duplicate removed 989 of 1,000 documents \(98.9%\), more than max_removed \(0.95\).*'same'"
    with pytest.raises(DataError, match=message):
        check_removed(documents, "duplicate", 0.95, lambda: repr("same"))
    check_removed(documents, "duplicate", 0.99, lambda: "")
    check_removed(documents, "near_duplicate", 0.0, lambda: "")


@pytest.mark.parametrize(("same", "others", "refused"), [(51, 49, True), (50, 49, False), (51, 50, False)])
def test_too_much_is_more_than_the_share_of_a_hundred_documents_or_more(same: int, others: int, refused: bool) -> None:
    # 50 of 100 removed is more than 0.495 allows; of 99 nothing is said, and 50 of 101 is just what 50/101 allows.
    documents = documents_of(["same"] * same + [str(n) for n in range(others)])
    drop_exact_duplicates(documents)
    limit = 50 / 101 if same + others == 101 else 0.01
    if refused:
        with pytest.raises(DataError, match="duplicate removed 50 of 100"):
            check_removed(documents, "duplicate", limit, lambda: "")
    else:
        check_removed(documents, "duplicate", limit, lambda: "")


def test_too_much_is_a_share_of_what_was_left_to_look_at() -> None:
    documents = documents_of(["same"] * 80 + [str(n) for n in range(40)] + [""] * 1000)
    documents.drop("empty", documents.sizes == 0)
    drop_exact_duplicates(documents)
    with pytest.raises(DataError, match="duplicate removed 79 of 120"):
        check_removed(documents, "duplicate", 0.5, lambda: "")


def test_what_was_dropped_goes_nowhere_however_the_rest_is_split() -> None:
    documents = documents_of(["one long text", "one long text", ""])
    documents.drop("empty", documents.sizes == 0)
    drop_exact_duplicates(documents)
    assert split(documents, 0.1)["by"] == "tails"
    assert documents.goes.tolist() == [TO_BOTH, DROP, DROP]


def test_the_share_of_validation_is_of_the_bytes_that_are_kept() -> None:
    documents = documents_of([f"text {n}" for n in range(3000)])
    documents.sizes[:] = 100
    chosen = in_validation(documents.cluster, 0.1)
    large = documents.sizes.copy()
    large[np.flatnonzero(chosen)[:20]] = 100_000  # the documents of validation hold nearly everything
    uneven = documents_of([f"text {n}" for n in range(3000)])
    uneven.sizes[:] = large
    assert split(documents, 0.1)["by"] == "documents"
    assert split(uneven, 0.1)["by"] == "tails"
    # Bytes of what was dropped do not count.
    dropped = documents_of([*(f"text {n}" for n in range(3000)), "a giant"])
    dropped.sizes[:-1], dropped.sizes[-1] = 100, 10**9
    dropped.drop("giant", dropped.sizes == 10**9)
    assert split(dropped, 0.1)["by"] == "documents"


def test_decisions_of_a_shard_tell_reason_and_partner() -> None:
    documents = documents_of(["a", "b", "a", "b", "c", "a"], shards=2)
    drop_exact_duplicates(documents)
    split(documents, 0.0)
    table = documents.table(1)
    assert table.column("reason").to_pylist() == ["duplicate", None, "duplicate"]
    assert table.column("goes").to_pylist() == [DROP, TO_TRAIN, DROP]
    partner = [value and int.from_bytes(value[:8], "big") for value in table.column("duplicate_of").to_pylist()]
    assert partner == [1, None, 0]
    assert table.column("jaccard").to_pylist() == [1.0, None, 1.0]


def test_shards_are_gathered_in_their_order(tmp_path: Path) -> None:
    paths = []
    for shard, names in enumerate((["a", "b"], [], ["c"])):
        path = tmp_path / f"{shard}.parquet"
        table = pa.table(
            {
                "id": pa.array([xxhash.xxh3_128_hexdigest(name.encode()) for name in names], pa.string()),
                "cluster": pa.array([xxhash.xxh3_128_digest(name.encode()) for name in names], pa.binary(16)),
                "size": pa.array([len(name) for name in names], pa.int64()),
                "source": pa.array([name.upper() for name in names], pa.string()),
                "language": pa.array([{"a": "en", "c": "en"}.get(name) for name in names], pa.string()),
            }
        )
        pq.write_table(table, path)
        paths.append(path)
    documents = gather(paths, [False, False, True])
    assert documents.starts.tolist() == [0, 2, 2, 3]
    assert documents.sides.tolist() == [False, False, True]
    assert [documents.source_names[code] for code in documents.sources] == ["A", "B", "C"]
    assert [documents.language_names[code] for code in documents.languages] == ["en", "", "en"]
    expected = [xxhash.xxh3_128_intdigest(name.encode()) for name in "abc"]
    assert [int(high) << 64 | int(low) for high, low in documents.contents] == expected


@pytest.mark.parametrize("change", ["goes", "copies", "reason", "kept_instead", "partner", "jaccard"])
def test_the_digest_of_a_shard_changes_with_each_decision_on_it_alone(change: str) -> None:
    def decided() -> Documents:
        documents = documents_of(["a", "b", "a", "c", "d", "e"], shards=2)
        drop_exact_duplicates(documents)
        return documents

    before, documents = decided(), decided()
    assert before.digest(0) == documents.digest(0) != before.digest(1)
    if change == "reason":
        documents.reasons[0] = "another"
    elif change == "partner":
        documents.kept_instead[2] = 1
    elif change == "kept_instead":
        documents.kept_instead[1] = 0
    else:
        getattr(documents, change)[1] = 9
    assert documents.digest(0) != before.digest(0)
    assert documents.digest(1) == before.digest(1)


def test_the_digest_of_a_shard_does_not_depend_on_the_order_of_the_reasons() -> None:
    one, other = documents_of(["a", "b"]), documents_of(["a", "b"])
    for documents, order in ((one, ["x", "y"]), (other, ["y", "x"])):
        for reason in order:
            documents.drop(reason, np.array([reason == "x", reason == "y"]))
    assert one.reasons != other.reasons
    assert one.digest(0) == other.digest(0)
