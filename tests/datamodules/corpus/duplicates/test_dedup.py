import random

import numpy as np
import pyarrow as pa
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
