"""Words and n-grams against a slow reference in plain Python, which knows nothing of bytes or batches."""

import itertools

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules.corpus.spans import text_bytes
from datamodules.corpus.words import hash_spans, ngrams, split_words

# What the code has cases for: case, accents, scripts without spaces, quotes, wide and odd punctuation, and
# the neighbours of every range's limits.
PIECES = [
    *("a", "B", "zZ", "9", "Straße", "ÉCOLE", "école", "ΑΒγ", "Привет", "\u07ff", "\u0800", "İ", "ſ", "ÿ", "Ÿ"),
    *("日本語", "ひ", "カ", "\u3040", "\u303f", "\u3000", "\u9fff", "\ua000", "한국", "𝒳", "😀", "।", "ﷺ"),
    *("“", "’", "…", "\u2070", "\u00a0", "¿", "½", "À", "\uff00", "\uff0f", " ", "  ", "\n", "-", "'", "_", "\x00"),
    *("abcdefgh", "abcdefghi", "x" * 16, "x" * 17, "y" * 64, "y" * 65, "y" * 66, "z" * 200),
]
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), max_size=8)


def lower(character: str) -> str:
    small = character.lower()
    if character.isascii() or (ord(character) < 0x800 and len(small) == 1 and 0x80 <= ord(small) < 0x800):
        return small
    return character


def separates(character: str) -> bool:
    code = ord(character)
    if code < 0x80:
        return not character.isalnum()
    ranges = ((0x80, 0xBF), (0x2000, 0x207F), (0x3000, 0x303F), (0xFF00, 0xFF0F))
    return any(first <= code <= last for first, last in ranges)


def words_of(text: str) -> list[str]:
    words, current = [], ""
    for character in text:
        alone = 0x3040 <= ord(character) <= 0x9FFF
        if current and (alone or separates(character)):
            words.append(current)
            current = ""
        if alone:
            words.append(character)
        elif not separates(character):
            current += lower(character)
    return [*words, current] if current else words


def grams_of(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(max(1, len(words) - n + 1))] if words else []


def same_partition(hashes: list[int], things: list[object]) -> bool:
    """Equal hashes exactly where the things are equal."""
    assert len(hashes) == len(things)
    return len(set(hashes)) == len(set(things)) == len(set(zip(hashes, things, strict=True)))


@settings(max_examples=400, deadline=None)
@given(TEXTS)
@example(["", "", ""])
@example(["ab", "cd", "", "日", "本x", "y"])
def test_words_are_those_of_the_reference(texts: list[str]) -> None:
    array = pa.array(texts, pa.string())
    words = split_words(array)
    expected = [words_of(text) for text in texts]
    assert words.counts.tolist() == [len(one) for one in expected]
    assert same_partition(words.hashes.tolist(), list(itertools.chain(*expected)))
    data, _ = text_bytes(array)
    spans = [bytes(data[start:end]).decode() for start, end in zip(words.starts, words.ends, strict=True)]
    assert ["".join(map(lower, span)) for span in spans] == list(itertools.chain(*expected))


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 7))
@example(["a b", "c d e", "", "a b c d e f"], 5)
def test_ngrams_are_those_of_the_reference_and_none_across_documents(texts: list[str], n: int) -> None:
    hashes = ngrams(split_words(pa.array(texts, pa.string())), n)
    expected = []
    for words in map(words_of, texts):
        grams = grams_of(words, n)
        expected += grams + grams[-1:] * (len(words) - len(grams))  # the last one again, for each word after it
    assert same_partition(hashes.tolist(), expected)


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(0, 8), st.integers(1, 5))
def test_batches_and_slices_play_no_part(texts: list[str], cut: int, n: int) -> None:
    array = pa.array(texts, pa.string())
    whole = split_words(array)
    grams = ngrams(whole, n)
    for start, end in ((0, min(cut, len(texts))), (min(cut, len(texts)), len(texts))):
        part = split_words(array.slice(start, end - start))
        there = slice(whole.offsets[start], whole.offsets[end])
        assert np.array_equal(part.hashes, whole.hashes[there])
        assert np.array_equal(ngrams(part, n), grams[there])


def test_words_count_in_one_case_and_without_punctuation() -> None:
    hashes = [split_words(pa.array([text])).hashes.tolist() for text in ("It’s ÉTÉ!", "it s\nété", "“IT”, s (Été)")]
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(hashes[0]) == 3


def test_long_words_differ_in_their_last_byte() -> None:
    for length in (1, 7, 8, 9, 16, 64, 65, 1000):
        hashes = split_words(pa.array([f"{'q' * length} {'q' * (length - 1)}r {'q' * (length + 1)}"])).hashes
        assert len(set(hashes.tolist())) == 3


def test_a_span_has_one_hash_wherever_it_stands() -> None:
    """Close to others or far apart, at the end of the data, alone: all the same."""
    for gap in (1, 120):
        word, number = b"one-and-twenty", 1000
        data = np.frombuffer((b"-" * gap).join([word] * number), dtype=np.uint8)
        starts = np.arange(number) * (len(word) + gap)
        hashes = hash_spans(data, starts, starts + len(word))
        assert np.unique(hashes).tolist() == hash_spans(data[: len(word)], starts[:1], starts[:1] + len(word)).tolist()


def test_every_bit_of_a_hash_is_even() -> None:
    """Each bit is set for half of many similar words: n-grams and MinHash take the hashes for random numbers."""
    for form in ("{}", "abcdefg{}", "{}-", "long-word-with-number-{}"):
        data = [form.format(number).encode() for number in range(20_000)]
        ends = np.cumsum([len(one) for one in data])
        joined = np.frombuffer(b"".join(data), dtype=np.uint8)
        hashes = hash_spans(joined, np.concatenate(([0], ends[:-1])), ends)
        share = [(hashes >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(64)]
        assert max(abs(one - 0.5) for one in share) < 0.02, form
        assert len(np.unique(hashes)) == len(data)


def test_no_documents() -> None:
    words = split_words(pa.array([], pa.string()))
    assert words.offsets.tolist() == [0]
    assert ngrams(words, 5).size == 0
