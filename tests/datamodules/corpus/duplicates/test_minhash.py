import pickle
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus.duplicates.minhash import EMPTY, KEYS, NO_KEY, SIGNATURE, MinHash, _fill
from datamodules.corpus.duplicates.near import similarity
from datamodules.errors import DataError


def strings(texts: list[str]) -> pa.StringArray:
    return pa.array(texts, pa.string())


def words(rng: random.Random, number: int) -> list[str]:
    return [f"w{rng.randrange(10**6)}" for _ in range(number)]


def pair(rng: random.Random, shared: int, own: int) -> tuple[str, str]:
    """Two texts whose sets of single words have a Jaccard similarity of shared / (shared + 2 * own)."""
    common = words(rng, shared)
    return " ".join(common + words(rng, own)), " ".join(common[::-1] + words(rng, own))


TEXTS = st.lists(
    st.lists(st.sampled_from(["one", "two", "three", "four", "日本", "é", "!", "\n"]), max_size=30).map(" ".join),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(0, 12))
def test_batches_slices_and_order_play_no_part(texts: list[str], cut: int) -> None:
    minhash = MinHash(bands=4, rows=3, fine=2, min_words=3)
    whole = minhash.sketch(strings(texts))
    start = min(cut, len(texts))
    for part, expected in ((slice(0, start), slice(0, start)), (slice(start, None), slice(start, None))):
        found = minhash.sketch(strings(texts).slice(part.start, len(texts[part])))
        assert np.array_equal(found.keys, whole.keys[expected])
        assert np.array_equal(found.signatures, whole.signatures[expected])
    backward = minhash.sketch(strings(texts[::-1]))
    assert np.array_equal(backward.keys[::-1], whole.keys)
    assert np.array_equal(backward.signatures[::-1], whole.signatures)


def test_blocks_play_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    texts = strings([" ".join(words(rng, rng.choice([0, 5, 12, 80, 600, 3000]))) for _ in range(120)])
    expected = MinHash().sketch(texts)
    monkeypatch.setattr("datamodules.corpus.duplicates.minhash.BLOCK_BYTES", 100)
    found = MinHash().sketch(texts)
    assert np.array_equal(found.keys, expected.keys)
    assert np.array_equal(found.signatures, expected.signatures)


def test_the_stage_appends_columns_that_are_null_without_a_signature() -> None:
    texts = ["", "?! --", "only nine words are in this one not ten", "ten words are in this one so it has some"]
    batch = pa.RecordBatch.from_pydict({"id": strings(list("abcd")), "text": strings(texts)})
    minhash = MinHash()
    done = minhash.apply(batch)
    assert done.schema.names == ["id", "text", KEYS, SIGNATURE]
    done.validate(full=True)
    assert done.column(KEYS).is_valid().to_pylist() == [False, False, False, True]
    assert done.column(SIGNATURE).is_valid().to_pylist() == [False, False, False, True]
    sketches = minhash.sketch(strings(texts))
    assert done.column(KEYS)[3].as_py() == sketches.keys[3].tolist()
    assert done.column(SIGNATURE)[3].as_py() == sketches.signatures[3].tobytes()
    assert (sketches.keys[:3] == NO_KEY).all()
    assert (sketches.keys[3] != NO_KEY).all()
    assert np.count_nonzero(sketches.signatures[3]) == 6  # n-grams, each in a bin of its own
    assert len(minhash.apply(batch.slice(0, 0))) == 0
    assert minhash.apply(batch.slice(2)).column(SIGNATURE)[1] == done.column(SIGNATURE)[3]


def test_a_full_bin_is_never_shown_as_an_empty_one() -> None:
    """Of 896 least values some end in a byte of zeros, which would say that the bin is empty."""
    text = " ".join(words(random.Random(0), 20_000))
    assert (MinHash(ngram=1).sketch(strings([text])).signatures != EMPTY).all()


def test_case_punctuation_and_space_do_not_count() -> None:
    one, other = MinHash(min_words=1).sketch(strings(["A b; c d — e F g", "a B c\n\nd “e” f, g!"])).keys
    assert (one == other).all()


@pytest.mark.parametrize(("shared", "own"), [(400, 50), (40, 5), (3000, 1000), (4, 1)])
def test_the_estimate_is_unbiased_and_as_exact_as_promised(shared: int, own: int) -> None:
    rng = random.Random(shared)
    texts = [text for _ in range(150) for text in pair(rng, shared, own)]
    minhash = MinHash(ngram=1, min_words=1)
    signatures = minhash.sketch(strings(texts)).signatures
    true = shared / (shared + 2 * own)
    error = similarity(signatures[::2], signatures[1::2]) - true
    deviation = (true * (1 - true) / minhash.bins) ** 0.5
    assert abs(error.mean()) < 4 * deviation / 150**0.5
    assert error.std() < 1.2 * deviation


@pytest.mark.parametrize(("shared", "own"), [(400, 50), (40, 5), (12, 2)])
@pytest.mark.parametrize("grouping", [0, 1])
def test_keys_meet_as_often_as_theory_says(shared: int, own: int, grouping: int) -> None:
    """With one row a band, a key of two documents is equal with the probability J, empty bins filled or not."""
    rng = random.Random(shared)
    texts = [text for _ in range(300) for text in pair(rng, shared, own)]
    keys = MinHash(ngram=1, bands=112, rows=1, min_words=1).sketch(strings(texts)).keys
    keys = keys[:, grouping * 112 : (grouping + 1) * 112]
    true = shared / (shared + 2 * own)
    assert abs((keys[::2] == keys[1::2]).mean() - true) < 0.02


def test_groupings_are_nearly_independent() -> None:
    """At J = 0.7 a pair is missed by 14 bands with a probability of 0.43, and by both groupings with 0.43 squared."""
    rng = random.Random(0)
    texts = [text for _ in range(600) for text in pair(rng, 350, 75)]
    keys = MinHash(ngram=1, min_words=1).sketch(strings(texts)).keys
    equal = keys[::2] == keys[1::2]
    first, second = ~equal[:, :14].any(axis=1), ~equal[:, 14:].any(axis=1)
    missed = (1 - 0.7**8) ** 14
    assert abs(first.mean() - missed) < 0.07
    assert abs(second.mean() - missed) < 0.07
    assert abs((first & second).mean() - missed**2) < 0.06


def test_keys_of_different_places_never_meet() -> None:
    keys = MinHash(min_words=1).sketch(strings(["same", "one two three four five six seven"])).keys
    assert len(np.unique(keys)) == keys.size


def test_settings_out_of_range_are_the_users_error() -> None:
    with pytest.raises(DataError, match="bands is 0"):
        MinHash(bands=0)
    with pytest.raises(DataError, match="groupings is 9"):
        MinHash(groupings=9)
    with pytest.raises(DataError, match="at most"):
        MinHash(bands=1000)
    minhash = MinHash()
    minhash.sketch(strings(["one " * 20]))
    assert pickle.loads(pickle.dumps(minhash)) == MinHash()


def test_empty_bins_are_filled_by_the_stated_rule_and_full_ones_stay() -> None:
    """Optimal densification in plain loops; from one full bin of 112 to all."""
    rng = np.random.default_rng(0)
    minhash, empty = MinHash(), 2**32 - 1
    values = rng.integers(0, empty, (112, minhash.joined), dtype=np.uint32)
    for row, full in enumerate(range(1, 113)):
        values[row, rng.permutation(minhash.joined)[full:]] = empty
    filled = np.zeros_like(values)
    for row, found in zip(values, filled, strict=True):
        _fill(row, minhash._shuffles, found)
        for place, value in enumerate(row):
            first = next(row[other] for other in minhash._shuffles[place] if row[other] != empty)
            assert found[place] == (value if value != empty else first)
    assert (np.sort(minhash._shuffles, axis=1) == np.arange(minhash.joined)).all()
    assert len(np.unique(minhash._shuffles, axis=0)) == minhash.joined
