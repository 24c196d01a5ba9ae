"""Counts over a token store."""

import numpy as np

from datamodules.tokens.store import TokenStore

CHUNK = 1 << 22  # tokens whose pairs are sorted at once
MOST_TOKENS = 100_000_000  # more do not make the counts of frequent pairs better, and each takes time


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
