import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus.decisions import DROP, TO_TRAIN, TO_VALIDATION, Documents, split
from datamodules.corpus.mixture import weigh
from datamodules.errors import DataError


def documents_of(*counts: int) -> Documents:
    """So many documents of 100 bytes of each source, named a, b, ..."""
    n = sum(counts)
    ids = np.random.default_rng(0).integers(0, 2**63, (n, 2)).astype(np.uint64)
    sources = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    documents = Documents(
        ids,
        ids[:, ::-1].copy(),
        np.full(n, 100, dtype=np.int64),
        np.zeros(n, dtype=bool),
        sources,
        list("abc"[: len(counts)]),
        np.zeros(n, dtype=np.int32),
        [],
        np.array([0, n]),
    )
    split(documents, 0.1)
    return documents


def bytes_of(documents: Documents, source: int) -> int:
    train = (documents.sources == source) & (documents.goes != DROP) & (documents.goes != TO_VALIDATION)
    return int((documents.sizes * documents.copies)[train].sum())


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=3))
def test_sources_get_their_shares(weights: list[float]) -> None:
    documents = documents_of(1000, 2000, 4000)
    before = sum(bytes_of(documents, source) for source in range(3))
    epochs = weigh(documents, dict(zip("abc", weights, strict=True)))
    after = [bytes_of(documents, source) for source in range(3)]
    assert sum(after) == pytest.approx(before, rel=0.05)
    for source, weight in enumerate(weights):
        assert after[source] / sum(after) == pytest.approx(weight / sum(weights), abs=0.02)
        assert epochs["abc"[source]] == pytest.approx(weight / sum(weights) * before / (900 * 100 * 2**source), rel=0.1)


def test_a_weight_of_nothing_drops_a_source_and_leaves_validation() -> None:
    documents = documents_of(1000, 1000)
    validation = (documents.goes == TO_VALIDATION).sum()
    weigh(documents, {"a": 1, "b": 0})
    assert bytes_of(documents, 1) == 0
    assert (documents.goes == TO_VALIDATION).sum() == validation
    dropped = documents.reason == documents.reasons.index("mixture")
    assert dropped.sum() == 1000 - (documents.goes[documents.sources == 1] == TO_VALIDATION).sum()


def test_without_weights_nothing_changes() -> None:
    documents = documents_of(10, 10)
    assert weigh(documents, {}) == {}
    assert (documents.copies == 1).all()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1, "d": 1}, "weights names 'd', which is no source"),
        ({"a": 1}, "weights leaves out b"),
        ({"a": 0, "b": 0}, "weights are 0 for every source"),
        ({"a": 1, "b": 1e6}, "b would be read .* times"),
    ],
)
def test_weights_that_cannot_be(weights: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        weigh(documents_of(100_000, 10) if "read" in message else documents_of(100, 100), weights)


def test_shares_are_of_bytes_and_not_of_documents() -> None:
    documents = documents_of(1000, 1000)
    documents.sizes[documents.sources == 1] = 900
    epochs = weigh(documents, {"a": 1, "b": 1})
    assert epochs["a"] == pytest.approx(5, rel=0.1)
    assert epochs["b"] == pytest.approx(5 / 9, rel=0.1)


def test_what_was_dropped_before_is_no_part_of_the_mixture() -> None:
    documents = documents_of(1000, 1000)
    gone = (documents.sources == 0) & (np.arange(2000) % 2 == 0)
    documents.drop("before", gone)
    documents.goes[gone] = DROP
    epochs = weigh(documents, {"a": 1, "b": 1})
    assert epochs["a"] == pytest.approx(1.5, rel=0.1)
    assert (documents.goes[gone] == DROP).all()
    assert (documents.copies[gone] == 1).all()


def test_what_is_not_drawn_goes_nowhere_and_validation_is_read_once() -> None:
    documents = documents_of(1000, 1000)
    weigh(documents, {"a": 3, "b": 1})
    none = documents.copies == 0
    assert 300 < none.sum() < 600
    assert (documents.goes[none] == DROP).all()
    assert (documents.copies[documents.goes == TO_VALIDATION] == 1).all()


def test_a_source_without_text_needs_no_weight_and_takes_none() -> None:
    documents = documents_of(1000, 1000, 10)
    documents.drop("before", documents.sources == 2)
    documents.goes[documents.sources == 2] = DROP
    for weights in ({"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 8}):
        epochs = weigh(documents, weights)
        assert epochs["a"] + epochs["b"] == pytest.approx(2, rel=0.1)
        assert epochs["c"] == 0


def test_a_hundred_times_is_the_most() -> None:
    def one_of_two_hundred() -> Documents:
        documents = documents_of(1, 199)
        documents.goes[:] = TO_TRAIN
        return documents

    assert weigh(one_of_two_hundred(), {"a": 1, "b": 1})["a"] == 100
    with pytest.raises(DataError, match="a would be read 101 times"):
        weigh(one_of_two_hundred(), {"a": 1.02, "b": 1})
