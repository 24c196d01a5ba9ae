"""How much of a document repeats itself: lines, paragraphs and n-grams of words (Rae et al. 2021, appendix A1.1)."""

import numpy as np

from datamodules.corpus.compiled import compiled
from datamodules.corpus.quality.layout import Layout, Spans

TOP = (2, 3, 4)  # sizes of n-grams whose most frequent one is measured
REPEATED = (5, 6, 7, 8, 9, 10)  # sizes of n-grams whose repetitions are measured

_SMALLEST, _LARGEST, _LARGEST_TOP, _SMALLEST_REPEATED = TOP[0], REPEATED[-1], TOP[-1], REPEATED[0]
_PAIR = np.uint64(0xD6E8FEB86659FD93)  # an odd constant, so that two words cannot change places
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
_HALF = np.uint64(32)  # bits


def span_repetition(spans: Spans) -> tuple[np.ndarray, np.ndarray]:
    """Of each document, the lines (or paragraphs) that stand in it earlier already, and their characters; int64."""
    counts, characters = np.zeros((2, len(spans.offsets) - 1), dtype=np.int64)
    _repeated_spans(spans.hashes, spans.characters, spans.offsets, counts, characters)
    return counts, characters


def ngram_repetition(layout: Layout) -> dict[str, np.ndarray]:
    """Columns `top_2gram_characters` to `top_4gram_...` and `repeated_5gram_characters` to `repeated_10gram_...`."""
    words = layout.words
    before = np.concatenate(([0], np.cumsum(words.characters)))
    names = [f"top_{n}gram_characters" for n in TOP] + [f"repeated_{n}gram_characters" for n in REPEATED]
    columns = np.zeros((len(names), len(layout.documents) - 1), dtype=np.int64)
    _repeated_ngrams(words.hashes, before, words.offsets, columns)
    return dict(zip(names, columns, strict=True))


@compiled
def _find_earlier(keys: np.ndarray, count: int, table: np.ndarray, earliest: np.ndarray) -> None:
    """Write for each of the keys, uint64, the place of the first one that equals it.

    `table` is a hash table (open addressing) that keeps places of keys, with room for four times as many.
    """
    bits = 1
    while 1 << bits < 2 * count:
        bits += 1
    mask, shift = (1 << bits) - 1, np.uint64(64 - bits)
    table[: 1 << bits] = -1
    for place in range(count):
        key = keys[place]
        slot = np.int64(((key ^ key >> _HALF) * _SPREAD) >> shift)
        while table[slot] >= 0 and keys[table[slot]] != key:
            slot = slot + 1 & mask
        if table[slot] < 0:
            table[slot] = place
        earliest[place] = table[slot]


@compiled
def _longest(offsets: np.ndarray) -> int:
    most = 0
    for document in range(len(offsets) - 1):
        most = max(most, offsets[document + 1] - offsets[document])
    return most


@compiled
def _repeated_spans(
    hashes: np.ndarray, lengths: np.ndarray, offsets: np.ndarray, counts: np.ndarray, characters: np.ndarray
) -> None:
    room = _longest(offsets)
    table, earliest = np.empty(4 * room + 2, dtype=np.int32), np.empty(room, dtype=np.int32)
    for document in range(len(offsets) - 1):
        first, count = offsets[document], offsets[document + 1] - offsets[document]
        _find_earlier(hashes[first:], count, table, earliest)
        for place in range(count):
            again = earliest[place] < place
            counts[document] += again
            characters[document] += again * lengths[first + place]


@compiled
def _repeated_ngrams(hashes: np.ndarray, before: np.ndarray, offsets: np.ndarray, columns: np.ndarray) -> None:
    """Write a row for each size: characters of the most frequent n-gram or of those read again, int64 [documents].

    Only n-grams that stand at least twice in a document are looked at; those of n + 1 words begin where two of n words
    follow each other, so that each size leaves fewer to the next. `before` are the characters of all words before each.
    """
    room = _longest(offsets)
    table, group, times = np.empty(4 * room + 2, np.int32), np.empty(room, np.int32), np.empty(room, np.int32)
    keys, at = np.empty(room, np.uint64), np.empty(room, np.int64)
    for document in range(len(offsets) - 1):
        first, words = offsets[document], offsets[document + 1] - offsets[document]
        count = max(words - 1, 0)
        for place in range(count):
            at[place] = first + place
            keys[place] = hashes[first + place] * _PAIR + hashes[first + place + 1]
        for n in range(_SMALLEST, _LARGEST + 1):
            _find_earlier(keys, count, table, group)
            times[:count] = 0
            for place in range(count):
                times[group[place]] += 1
            if n <= _LARGEST_TOP:
                columns[n - _SMALLEST, document] = _top(first, words, n, at, times, count, before)
            # Those that stand once go.
            kept = 0
            for place in range(count):
                at[kept], group[kept] = at[place], group[place]
                kept += times[group[place]] > 1
            count = kept
            if n >= _SMALLEST_REPEATED:
                columns[n - _SMALLEST, document] = _read_again(at, group, times, count, n, before)
            kept = 0
            for place in range(count - 1):
                keys[kept] = np.uint64(group[place]) << _HALF | np.uint64(group[place + 1])
                at[kept] = at[place]
                kept += at[place + 1] == at[place] + 1
            count = kept


@compiled
def _top(first: int, words: int, n: int, at: np.ndarray, times: np.ndarray, count: int, before: np.ndarray) -> int:
    """Characters of the most frequent n-gram, one space between words, times its count.

    The earlier one of equally frequent ones. A document without repeated n-grams has its first one, once.
    """
    if words < n:
        return 0
    best, most = first, 1
    for place in range(count):
        if times[place] > most:
            best, most = at[place], int(times[place])
    return most * (before[best + n] - before[best] + n - 1)


@compiled
def _read_again(at: np.ndarray, group: np.ndarray, times: np.ndarray, count: int, n: int, before: np.ndarray) -> int:
    """Characters of the n-grams that a reader from left to right counts as repeated, none of which overlap.

    The reader notes the n-gram at each word it comes to. One that it has noted before counts, and the reader goes on
    behind its last word, so what begins inside is not noted.
    """
    characters = following = 0
    for place in range(count):
        if at[place] >= following:
            if times[group[place]] < 0:
                characters += before[at[place] + n] - before[at[place]]
                following = at[place] + n
            times[group[place]] = -1  # noted
    return characters
