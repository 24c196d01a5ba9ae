import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus.duplicates.minhash import NO_KEY, MinHash
from datamodules.corpus.duplicates.near import (
    ALL_PAIRS,
    NO_EDGES,
    Edges,
    MappedSignatures,
    address,
    candidate_edges,
    clusters,
    near_duplicates,
    similarity,
    survivors,
)

BINS = 200


def words(rng: random.Random, number: int) -> list[str]:
    return [f"w{rng.randrange(10**6)}" for _ in range(number)]


def edges_of(*edges: tuple[int, int, float]) -> Edges:
    first, second, jaccard = zip(*edges, strict=True)
    return Edges(np.array(first), np.array(second), np.array(jaccard, dtype=np.float32))


def line_of(places: list[int]) -> np.ndarray:
    """Signatures that differ in as many bins as the places do: a similarity of 1 - |difference| / BINS."""
    return np.array([[2 if bin < place else 1 for bin in range(BINS)] for place in places], dtype=np.uint8)


def decided(places: list[int], order: list[int] | None = None, lengths: list[int] | None = None):
    """Survivors of one cluster on a line; documents are given in `order`."""
    signatures = line_of(places)
    documents = np.array(order or range(len(places)))
    sizes = np.array(lengths or [100] * len(places))[documents]
    result = survivors(documents, sizes, np.zeros(len(places), np.int64), NO_EDGES, lambda some: signatures[some], 0.8)
    back = np.argsort(documents)
    return result.kept[back].tolist(), result.partners[back].tolist()


def test_similarity_by_hand() -> None:
    one = np.array([[5, 5, 0, 0, 7, 0]], dtype=np.uint8)
    other = np.array([[5, 0, 9, 0, 7, 0]], dtype=np.uint8)
    assert similarity(one, other)[0] == 0.5
    assert similarity(one, one)[0] == 1
    assert similarity(one * 0, one * 0)[0] == 0
    assert similarity(one, one * 0)[0] == 0


def test_unrelated_signatures_have_no_similarity() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(1, 256, (2, 2000, 896), dtype=np.uint8)
    estimate = similarity(one, other)
    assert estimate.max() < 0.03
    assert abs(estimate.mean()) < 0.003


def test_a_chain_removes_only_what_is_like_a_kept_one() -> None:
    # 30 bins apart is 0.85, 60 is 0.7: B goes because of A, C stays, although it is like B; D goes because of C.
    assert decided([0, 30, 60, 90]) == ([True, False, True, False], [-1, 0, -1, 2])


def test_the_longest_survives_and_then_the_smallest() -> None:
    assert decided([0, 1, 2], lengths=[5, 9, 9]) == ([False, True, False], [1, -1, 1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, BINS), min_size=1, max_size=25), st.randoms())
def test_survivors_are_those_of_the_plain_rule_in_any_order(places: list[int], rng: random.Random) -> None:
    lengths = [rng.randrange(4) for _ in places]
    signatures = line_of(places)
    kept: list[int] = []
    partners = [-1] * len(places)
    for one in sorted(range(len(places)), key=lambda one: (-lengths[one], one)):
        like = [other for other in kept if similarity(signatures[[one]], signatures[[other]])[0] >= np.float32(0.8)]
        if like:
            partners[one] = like[0]
        else:
            kept.append(one)
    order = list(range(len(places)))
    rng.shuffle(order)
    assert decided(places, order, lengths) == ([one in kept for one in range(len(places))], partners)


def test_beyond_the_bound_documents_are_compared_along_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.corpus.duplicates.near.FULL", 1)
    signatures = line_of([0, 100, 110, 130, 200])
    edges = edges_of((1, 2, 0.95), (2, 3, 0.9), (1, 3, 0.85), (3, 4, 0.65))
    documents = np.arange(5)
    result = survivors(documents, np.ones(5), documents * 0, edges, lambda some: signatures[some], 0.8)
    assert result.kept.tolist() == [True, True, False, False, True]
    assert result.partners.tolist() == [-1, -1, 1, 1, -1]
    assert result.jaccard.tolist() == pytest.approx([0, 0, 0.95, 0.85, 0])


@pytest.mark.parametrize("full", [0, 1, 2])
@settings(max_examples=60, deadline=None)
@given(places=st.lists(st.integers(0, BINS), min_size=1, max_size=20), rng=st.randoms())
def test_along_edges_the_rule_is_the_same(full: int, places: list[int], rng: random.Random) -> None:
    lengths = np.array([rng.randrange(4) for _ in places])
    signatures = line_of(places)
    documents, cluster = np.arange(len(places)), np.zeros(len(places), np.int64)
    order = np.random.default_rng(rng.randrange(99)).permutation(len(places))
    pairs = [(one, other) for other in range(len(places)) for one in range(other)]
    edges = Edges(
        np.array([one for one, _ in pairs], dtype=np.int64),
        np.array([other for _, other in pairs], dtype=np.int64),
        np.array([similarity(signatures[[one]], signatures[[other]])[0] for one, other in pairs], dtype=np.float32),
    )
    plain = survivors(documents, lengths, cluster, NO_EDGES, lambda some: signatures[some])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datamodules.corpus.duplicates.near.FULL", full)
        result = survivors(order, lengths[order], cluster, edges, lambda some: signatures[some])
    back = np.argsort(order)
    assert result.kept[back].tolist() == plain.kept.tolist()
    assert result.partners[back].tolist() == plain.partners.tolist()


@pytest.mark.parametrize("full", [0, 64])
def test_just_the_similarity_that_is_asked_for_is_enough(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.corpus.duplicates.near.FULL", full)
    signatures = line_of([0, 10, 50])
    documents = np.arange(3)
    threshold = float(similarity(signatures[[0]], signatures[[1]])[0])
    keys = np.ones(3, dtype=np.uint64)
    edges = candidate_edges(keys, documents, documents * 0, lambda some: signatures[some], threshold)
    assert (edges.first.tolist(), edges.second.tolist()) == ([0], [1])
    result = survivors(documents, documents * 0, documents * 0, edges, lambda some: signatures[some], threshold)
    assert result.kept.tolist() == [True, False, True]


def test_documents_are_removed_from_four_fifths_on_unless_told_otherwise() -> None:
    signatures = line_of([0, 36, 0, 44])  # 0.82 and 0.78
    documents = np.arange(4)
    result = survivors(documents, documents * 0, documents // 2, NO_EDGES, lambda some: signatures[some])
    assert result.kept.tolist() == [True, False, True, True]


def test_documents_without_a_key_are_not_compared() -> None:
    def refuse(some: np.ndarray) -> np.ndarray:
        assert not some.size
        return line_of([])[some]

    documents = np.arange(40)
    edges = candidate_edges(np.full(40, NO_KEY, dtype=np.uint64), documents, documents, refuse)
    assert len(edges.first) == 0


def test_a_document_is_no_duplicate_of_itself() -> None:
    documents, keys = np.array([3, 3, 5]), np.ones(3, dtype=np.uint64)
    edges = candidate_edges(keys, documents, documents * 0, lambda some: line_of([0] * 6)[some])
    assert set(zip(edges.first.tolist(), edges.second.tolist(), strict=True)) == {(3, 5)}


def test_few_with_one_key_are_all_compared_and_many_with_the_longest() -> None:
    for size, number in ((ALL_PAIRS, ALL_PAIRS * (ALL_PAIRS - 1) // 2), (ALL_PAIRS + 1, ALL_PAIRS)):
        documents = np.arange(size)
        lengths = np.where(documents == 7, 9, 5)
        edges = candidate_edges(np.ones(size, np.uint64), documents, lengths, lambda some: line_of([0] * 40)[some])
        assert len(edges.first) == number
        if size > ALL_PAIRS:
            assert ((edges.first == 7) | (edges.second == 7)).all()


def test_what_is_like_two_unlike_leaders_joins_their_clusters() -> None:
    places = [0, 80, *[40] * 20]  # the first two are 0.6 alike, all others 0.8 like both
    documents = np.arange(len(places))
    keys = np.ones(len(places), dtype=np.uint64)
    edges = candidate_edges(keys, documents, -documents, lambda some: line_of(places)[some])
    assert set(clusters(documents, edges).tolist()) == {0}


def test_clusters_have_the_number_of_their_smallest_document() -> None:
    edges = edges_of((3, 7, 0.9), (7, 9, 0.8), (4, 5, 0.8))
    assert clusters(np.array([9, 1, 5, 4, 3, 7]), edges).tolist() == [3, 1, 4, 4, 3, 3]
    assert clusters(np.array([2, 1]), NO_EDGES).tolist() == [2, 1]


def test_edges_are_joined_in_order_and_once() -> None:
    joined = Edges.joined([edges_of((3, 4, 0.5), (1, 2, 0.6)), NO_EDGES, edges_of((1, 2, 0.6), (1, 9, 0.7))])
    assert joined.first.tolist() == [1, 1, 3]
    assert joined.second.tolist() == [2, 9, 4]


@pytest.mark.parametrize("size", [2, ALL_PAIRS, ALL_PAIRS + 1, 200])
def test_all_with_one_key_are_joined_and_unlike_ones_are_not(size: int) -> None:
    signatures = line_of([place % 2 * BINS + place % 3 - place % 2 * 2 for place in range(size)]).astype(np.uint8)
    documents = np.arange(size)
    keys = np.full(size, 7, dtype=np.uint64)
    edges = candidate_edges(keys, documents, documents % 5, lambda some: signatures[some])
    assert clusters(documents, edges).tolist() == [place % 2 for place in range(size)]
    assert (edges.first < edges.second).all()
    assert (edges.jaccard > 0.98).all()


def test_an_unlike_crowd_with_one_key_makes_bounded_work() -> None:
    rng = np.random.default_rng(0)
    signatures = rng.integers(1, 256, (3000, 64), dtype=np.uint8)
    compared = 0

    def counted(some: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(some)
        return signatures[some]

    documents = np.arange(3000)
    edges = candidate_edges(np.ones(3000, dtype=np.uint64), documents, documents, counted)
    assert len(edges.first) == 0
    assert compared < 3000 * 40


def test_documents_without_a_signature_are_alike_to_none() -> None:
    result = near_duplicates(["", "", "?", "two words", "two words"])
    assert result.kept.all()
    assert result.clusters.tolist() == list(range(5))


def test_no_documents() -> None:
    assert near_duplicates([]).kept.tolist() == []


def test_short_texts_that_share_a_frame_are_kept() -> None:
    rng = random.Random(0)
    frame = "please find the answer to the question about"
    result = near_duplicates([f"{frame} {' '.join(words(rng, 4))} and {' '.join(words(rng, 4))}" for _ in range(300)])
    assert result.kept.all()


def test_unrelated_long_texts_survive_with_the_same_boilerplate() -> None:
    rng = random.Random(0)
    head, foot = words(rng, 150), words(rng, 150)
    texts = [" ".join(head + words(rng, 600) + foot) for _ in range(150)]
    long = [" ".join(rng.choice("abcdefghij") * 2 for _ in range(20_000)) for _ in range(5)]
    result = near_duplicates(texts + long)
    assert result.kept.all()
    assert len(np.unique(result.clusters)) == len(texts) + len(long)


def test_all_equal_leave_one() -> None:
    result = near_duplicates([" ".join(words(random.Random(3), 100))] * 500)
    assert np.flatnonzero(result.kept).tolist() == [0]
    assert (result.clusters == 0).all()
    assert (result.partners[1:] == 0).all()
    assert (result.jaccard[1:] == 1).all()


def test_planted_near_duplicates_are_found_and_others_are_not() -> None:
    """200 families: the longest is whole, the near copies have a few words changed, the far ones one in twelve."""
    rng = random.Random(5)
    texts, kinds = [], []
    for _ in range(200):
        base = words(rng, rng.randint(100, 600))
        for kind, rate in (("base", 0.0), ("near", 0.01), ("far", 0.08)):
            start = rng.randrange(50)
            places = range(start, len(base), round(1 / rate)) if rate else ()
            texts.append(" ".join("x" if place in places else word for place, word in enumerate(base)))
            kinds.append(kind)
    result = near_duplicates(texts)
    for place, kind in enumerate(kinds):
        assert result.kept[place] == (kind != "near"), kind
        assert result.clusters[place] == (place - 1 if kind == "near" else place)


@pytest.mark.parametrize("seed", range(3))
def test_partitions_and_order_play_no_part(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    base = words(rng, 60)
    texts = [" ".join(f"n{rng.randrange(9)}" if rng.random() < 0.05 else word for word in base) for _ in range(150)]
    sketches = MinHash().sketch(pa.array(texts))
    halves = np.array_split(np.arange(len(texts)), 2)
    for shard, rows in enumerate(halves):
        np.save(tmp_path / f"{shard}.npy", sketches.signatures[rows])
    mapped = MappedSignatures([tmp_path / "0.npy", tmp_path / "1.npy"])
    documents = np.concatenate([address(shard, rows - rows[0]) for shard, rows in enumerate(halves)])
    assert np.array_equal(mapped(documents[::-1]), sketches.signatures[::-1])
    lengths = np.array([len(text) for text in texts])

    answers = []
    for partitions in (1, 3):
        width = sketches.keys.shape[1]
        keys, owner = sketches.keys.ravel(), np.repeat(np.arange(len(texts)), width)
        shuffled = np.random.default_rng(partitions).permutation(len(keys))
        keys, owner = keys[shuffled], owner[shuffled]
        parts = [keys % np.uint64(partitions) == part for part in range(partitions)]
        edges = Edges.joined(
            candidate_edges(keys[part], documents[owner[part]], lengths[owner[part]], mapped) for part in parts
        )
        found = clusters(documents, edges)
        answers.append((edges, found, survivors(documents, lengths, found, edges, mapped)))
    for one, other in zip(answers[0][2].__dict__.values(), answers[1][2].__dict__.values(), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(answers[0][0].second, answers[1][0].second)
    whole = near_duplicates(texts)
    assert np.array_equal(whole.kept, answers[0][2].kept)
    assert 1 < whole.kept.sum() < len(texts)
