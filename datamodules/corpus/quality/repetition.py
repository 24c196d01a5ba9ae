"""How much of a document repeats itself: lines, paragraphs and n-grams of words (Rae et al. 2021, appendix A1.1)."""

import numpy as np

from datamodules.corpus.quality.layout import Layout, Spans

TOP = (2, 3, 4)  # sizes of n-grams whose most frequent one is measured
REPEATED = (5, 6, 7, 8, 9, 10)  # sizes of n-grams whose repetitions are measured

_WORD = np.uint64(0xD6E8FEB86659FD93)  # odd constants, so that neither words nor documents can change places
_DOCUMENT = np.uint64(0xA24BAED4963EE407)
_FIRST_BITS = 32  # of a score: how often an n-gram stands in its document, then how early


def span_repetition(spans: Spans, hashes: np.ndarray, documents: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each document, the lines (or paragraphs) that stand in it earlier already, and their characters; float64."""
    order = np.lexsort((np.arange(len(hashes)), hashes, spans.documents))
    hashes, of = hashes[order], spans.documents[order]
    again = order[1:][(hashes[1:] == hashes[:-1]) & (of[1:] == of[:-1])]
    counts = np.bincount(spans.documents[again], minlength=documents)
    return counts, np.bincount(spans.documents[again], weights=spans.characters[again], minlength=documents)


def ngram_repetition(layout: Layout) -> dict[str, np.ndarray]:
    """Columns `top_2gram_characters` to `top_4gram_...` and `repeated_5gram_characters` to `repeated_10gram_...`.

    Only n-grams that stand at least twice in a document are looked at; those of n + 1 words begin where two of n words
    follow each other, so that each size leaves fewer to the next.
    """
    hashes, documents = layout.word_hashes, layout.word_documents
    at = np.flatnonzero(documents[1:] == documents[:-1])
    keys = hashes[at] * _WORD + hashes[at + 1] + documents[at].astype(np.uint64) * _DOCUMENT
    columns: dict[str, np.ndarray] = {}
    for n in range(TOP[0], REPEATED[-1] + 1):
        members, groups = _repeated(keys)
        at = at[members]
        if n in TOP:
            columns[f"top_{n}gram_characters"] = _top(layout, at, groups, n)
        if n in REPEATED:
            taken = _taken(at, groups, n)
            characters = layout.word_characters[taken + n] - layout.word_characters[taken]
            columns[f"repeated_{n}gram_characters"] = np.bincount(
                documents[taken], weights=characters, minlength=len(layout)
            )
        longer = np.flatnonzero(at[1:] == at[:-1] + 1)
        at, keys = at[longer], groups[longer] * (len(at) + 1) + groups[longer + 1]
    return columns


def _repeated(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which keys occur more than once, in their order, and a number from 0 for each different one; int64 [m]."""
    order = np.argsort(keys)
    ordered = keys[order]
    same = np.concatenate(([False], ordered[1:] == ordered[:-1], [False]))[: len(keys) + 1]
    repeated = same[:-1] | same[1:]
    groups = np.cumsum(repeated & ~same[:-1])[repeated] - 1
    members = order[repeated]
    group_of = np.full(len(keys), -1)
    group_of[members] = groups
    members = np.flatnonzero(group_of >= 0)
    return members, group_of[members]


def _top(layout: Layout, at: np.ndarray, groups: np.ndarray, n: int) -> np.ndarray:
    """int64 [documents]: characters of each document's most frequent n-gram, one space between words, times its count.

    The earlier one of equally frequent ones. A document without repeated n-grams has its first one, once.
    """
    words = layout.words
    first = words.offsets[:-1].copy()
    times = (words.counts >= n).astype(np.int64)
    counts = np.bincount(groups)
    where = np.full(len(counts), len(words.starts))
    np.minimum.at(where, groups, at)
    scores = np.zeros(len(layout), dtype=np.int64)
    limit = (1 << _FIRST_BITS) - 1
    np.maximum.at(scores, layout.word_documents[where], (counts << _FIRST_BITS) + limit - where)
    found = np.flatnonzero(scores)
    times[found], first[found] = scores[found] >> _FIRST_BITS, limit - (scores[found] & limit)
    end = np.minimum(first + n, len(words.starts))
    return times * (layout.word_characters[end] - layout.word_characters[first] + n - 1)


def _taken(at: np.ndarray, groups: np.ndarray, n: int) -> np.ndarray:
    """int64 [m]: the n-grams that a reader from left to right counts as repeated, none of which overlap.

    The reader notes the n-gram at each word it comes to. One that it has noted before counts, and the reader goes on
    behind its last word, so what begins inside is not noted. Each step hangs on the one before: a loop, but only over
    n-grams that occur twice in their document, one in a hundred words of ordinary prose. None reaches into the next
    document, so all documents are read as one.
    """
    noted = bytearray(int(groups.max(initial=-1)) + 1)
    taken = []
    following = 0
    for place, group in zip(at.tolist(), groups.tolist(), strict=True):
        if place >= following:
            if noted[group]:
                taken.append(place)
                following = place + n
            noted[group] = True
    return np.array(taken, dtype=np.int64)
