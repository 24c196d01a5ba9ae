"""Counts over a token store."""

from collections.abc import Iterator

import numpy as np

from datamodules.errors import DataError
from datamodules.tokens.store import TokenStore

CHUNK = 1 << 22  # tokens whose pairs are sorted at once
MOST_TOKENS = 100_000_000  # more do not make the counts of frequent pairs better, and each takes time
MOST_IN_NGRAMS = 2**24  # tokens: their counts take some 30 bytes a token in memory, 24 in a checkpoint


def count_bigrams(store: TokenStore, most_tokens: int = MOST_TOKENS) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs of successive tokens, int64 [2, N], and how often each comes, int64 [N], in ascending order.

    The ends of documents are tokens like others. Of a store longer than `most_tokens` its beginning counts.
    """
    length = min(store.n_tokens, most_tokens)
    codes, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for start in range(0, length - 1, CHUNK):
        tokens = store.tokens[start : min(start + CHUNK + 1, length)].astype(np.int64)
        new, often = np.unique(tokens[:-1] * store.vocab_size + tokens[1:], return_counts=True)
        codes, places = np.unique(np.concatenate([codes, new]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([counts, often])).astype(np.int64)
    return np.stack(np.divmod(codes, store.vocab_size)), counts


def count_ngrams(tokens: np.ndarray, order: int, vocab_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Count the sequences of up to `order` tokens in one text, which is read as a ring: its end goes on at its start.

    So every token begins a sequence of every length, and a sequence is continued as often as it occurs.

    Args:
        tokens: integers [N].
        order: tokens of the longest sequences, at least 2.
        vocab_size: ids are 0 to vocab_size - 1.

    Yields:
        For the lengths 1, 2, ... order: keys, int64 and ascending, each the place of the sequence without its last
        token in the level before, times vocab_size, plus the last token; and counts int32. Of one token the keys are
        all ids, of more the sequences that occur.

    Raises:
        DataError: if the text is longer than MOST_IN_NGRAMS.
    """
    if len(tokens) > MOST_IN_NGRAMS:
        raise DataError(
            f"the training text has {len(tokens):,} tokens, and n-grams are counted in texts of up to "
            f"{MOST_IN_NGRAMS:,}: set gpt.ngram_order to 0"
        )
    yield np.arange(vocab_size), np.bincount(tokens, minlength=vocab_size).astype(np.int32)
    n, bits = len(tokens), max(1, (vocab_size - 1).bit_length())
    ring = np.concatenate([tokens, np.resize(tokens, order - 1)])
    # Every pass writes to one of these, as fresh memory costs more than most passes do.
    places, codes, heads = (np.zeros(n, np.int64) for _ in range(3))
    changed = np.ones(n, bool)
    length = 0  # `places` are those of the sequences of so many tokens, first in the order of the text
    while length < order:
        # Numbers that sort like the sequences: a place, and as many tokens after it as there is room for.
        n_more = min(order - length, (63 - int(places.max()).bit_length()) // bits)
        np.copyto(codes, places)
        for further in range(length, length + n_more):
            codes <<= bits
            codes |= ring[further : further + n]
        by = None
        if length + n_more == order:
            codes.sort()
        else:
            by = codes.argsort()
            codes, heads = codes.take(by, out=heads, mode="clip"), codes
        np.right_shift(codes, bits * n_more, out=places)
        for left in range(n_more - 1, -1, -1):
            np.right_shift(codes, bits * left, out=heads)
            length += 1
            if length == 1:
                np.copyto(places, heads)
                continue
            np.not_equal(heads[1:], heads[:-1], out=changed[1:])
            starts = np.flatnonzero(changed)
            keys = places[starts] * vocab_size + (heads[starts] & (1 << bits) - 1)
            yield keys, np.diff(starts, append=n).astype(np.int32)
            np.cumsum(changed, out=places)
            places -= 1
        if by is not None:
            codes[by] = places
            places, codes = codes, places
