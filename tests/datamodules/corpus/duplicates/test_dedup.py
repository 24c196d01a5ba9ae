import random

import numpy as np
import pyarrow as pa
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus.duplicates.exact import ClusterByContent, contained, hash_columns, id_columns, survivors


def clusters(texts: list[str]) -> np.ndarray:
    batch = ClusterByContent().apply(pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string())}))
    return hash_columns(batch.column("cluster"))


def ids(numbers: list[int]) -> np.ndarray:
    return id_columns(pa.array([f"{number:032x}" for number in numbers], pa.string()))


def test_equal_texts_share_a_cluster_and_others_do_not() -> None:
    found = clusters(["same", "other", "same", "same ", ""])
    assert (found[0] == found[2]).all()
    assert len(np.unique(found, axis=0)) == 4
    assert (clusters(["x", "same"])[1] == found[0]).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abcde"), max_size=30), st.randoms())
def test_the_smallest_id_survives_in_any_order(texts: list[str], order: random.Random) -> None:
    numbers = list(range(1 << 70, (1 << 70) + len(texts)))
    order.shuffle(numbers)
    kept = {number for number, keep in zip(numbers, survivors(clusters(texts), ids(numbers)), strict=True) if keep}
    smallest = {
        text: min(number for number, other in zip(numbers, texts, strict=True) if other == text) for text in set(texts)
    }
    assert kept == set(smallest.values())


def test_one_document_that_stands_twice_is_kept_once() -> None:
    assert survivors(clusters(["a", "a"]), ids([7, 7])).sum() == 1


def test_contained() -> None:
    assert contained(clusters(["a", "b", "c"]), clusters(["c", "a", "x"])).tolist() == [True, False, True]
    assert contained(clusters(["a"]), clusters([])).tolist() == [False]
    assert contained(clusters([]), clusters(["a"])).tolist() == []


def test_hashes_are_all_128_bits_and_a_part_of_a_column_is_its_own() -> None:
    texts = ["a", "b", "c", "d"]
    batch = ClusterByContent().apply(pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string())}))
    expected = [xxhash.xxh3_128_intdigest(text.encode()) for text in texts]
    found = hash_columns(batch.slice(1, 2).column("cluster"))
    assert [int(high) << 64 | int(low) for high, low in found] == expected[1:3]


def test_ids_are_compared_as_the_numbers_that_they_are() -> None:
    numbers = [2 << 64 | 1, 1 << 64 | 9, 1 << 64 | 8, 255, 256]
    assert [int(high) << 64 | int(low) for high, low in ids(numbers)] == numbers
    same = np.zeros((5, 2), dtype=np.uint64)
    assert survivors(same, ids(numbers)).tolist() == [False, False, False, True, False]
    assert survivors(same[:3], ids(numbers[:3])).tolist() == [False, False, True]


def test_both_halves_of_a_hash_make_a_cluster() -> None:
    half = np.array([[1, 1], [1, 2], [2, 2], [1, 1]], dtype=np.uint64)
    assert survivors(half, ids([1, 2, 3, 4])).tolist() == [True, True, True, False]
    assert contained(half[:1], half[1:3]).tolist() == [False]
