"""py3langid's model of languages, evaluated over many texts at once."""

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import csc_array, csr_array

PIECE = 32  # bytes that one lane reads, not fewer than WARM_UP
WARM_UP = 6  # bytes before a piece that its lane reads first: the longest n-gram of the model
LANES = 16384  # read side by side, of 512 texts of 1 kB; their arrays take about 20 MB
CLOSE = 0.001  # between two probabilities; rounding moves them by 3e-6 at most on 34,000 texts of 8 bytes to 100 kB


class Identifier:
    """The answers of py3langid's `LanguageIdentifier.classify`, about ten times as fast.

    Naive Bayes over byte n-grams (Lui and Baldwin 2012, "langid.py"). py3langid finds the n-grams with an automaton
    that reads one byte after the other. Its state depends on the last bytes alone, so a text is cut into pieces, all
    pieces of many texts are read side by side, and each begins a few bytes early to arrive at the right state. That it
    did is checked. The scores are one product of a sparse matrix: a text's sum has the same terms in the same order
    whatever stands beside it. Where two languages are so close that rounding could decide, where a text has no n-gram
    of the model, and where the check fails, py3langid itself is asked, so that the labels are always its own.

    Args:
        model: py3langid's, with `norm_probs=True` and all of its languages.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        rows = np.asarray(model.tk_row).astype(np.int64) << 8  # where each state's 256 transitions begin
        self._rows, self._transitions = rows, np.asarray(model.tk_nextmove)
        features = np.asarray(model.tk_output, dtype=np.int32)
        self._none = len(model.nb_ptc)  # stands for a state without an n-gram, and for what lies behind a text
        self._features = np.where(features < 0, np.int32(self._none), features)
        # Only differences between languages count. Without what is common to all of them sums of float32 are exacter.
        table = model.nb_ptc.astype(np.float32)
        table -= table.mean(axis=1, keepdims=True)
        self._table = np.concatenate((table, np.zeros((1, table.shape[1]), dtype=np.float32)))
        self._names = np.array(model.nb_classes, dtype=object)
        # A language with two scripts has two classes of one name.
        first = {name: number for number, name in reversed(list(enumerate(model.nb_classes)))}
        self._twins = [(first[name], number) for number, name in enumerate(model.nb_classes) if first[name] != number]

    def classify(self, texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """The likeliest language of each of n texts, and its probability: float32 [n]."""
        encoded = [_encode(text) for text in texts]
        lengths = np.array([len(one) for one in encoded], dtype=np.int64)
        lanes = -(-lengths // PIECE)
        blocks = (np.cumsum(lanes) - lanes) // LANES
        bounds = np.concatenate(([0], np.flatnonzero(np.diff(blocks)) + 1, [len(texts)])).tolist()
        best = np.zeros(len(texts), dtype=np.int64)
        scores = np.zeros(len(texts), dtype=np.float32)
        sure = np.zeros(len(texts), dtype=bool)
        for start, end in pairwise(bounds):
            block = slice(start, end)
            best[block], scores[block], sure[block] = self._block(encoded[block], lengths[block], lanes[block])
        languages = self._names[best].tolist()
        for unsure in np.flatnonzero(~sure).tolist():
            languages[unsure], scores[unsure] = self._model.classify(texts[unsure])
        return languages, scores

    def _block(
        self, encoded: list[bytes], lengths: np.ndarray, lanes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Class, probability, and whether both can be relied on, of each of a few texts."""
        counts, sure = self._counts(b"".join(encoded), lengths, lanes)
        np.log1p(counts.data, out=counts.data)
        # The temperature is py3langid's: the square root of the length keeps short and long texts comparable.
        temperature = np.sqrt(np.maximum(lengths, 1).astype(np.float32))[:, None]
        scores = (counts @ self._table + self._model.nb_pc) / temperature
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        for first, other in self._twins:
            scores[:, first] += scores[:, other]
            scores[:, other] = 0
        every = np.arange(len(encoded))
        best = scores.argmax(axis=1)
        highest = scores[every, best]
        scores[every, best] = 0
        return best, highest, sure & (highest - scores.max(axis=1) >= CLOSE)

    def _counts(self, data: bytes, lengths: np.ndarray, lanes: np.ndarray) -> tuple[csc_array, np.ndarray]:
        """How often each text has each n-gram: float32 [n, n-grams + 1]; and whether a text has any: bool [n]."""
        ends = np.concatenate(([0], np.cumsum(lanes)))
        texts = np.repeat(np.arange(len(lengths)), lanes)
        place = np.arange(ends[-1]) - ends[texts]  # of a lane in its text
        features, agrees = self._read(data, (np.cumsum(lengths) - lengths)[texts] + place * PIECE, place == 0)
        last = ends[1:][lanes > 0] - 1
        behind = np.arange(PIECE) >= (lengths - (lanes - 1) * PIECE)[lanes > 0][:, None]
        features[last] = np.where(behind, np.int32(self._none), features[last])
        ones = np.ones(features.size, dtype=np.float32)
        shape = (len(lengths), self._none + 1)
        # Sorted by n-gram, each row of the table is fetched once for all texts.
        counts = csr_array((ones, features.ravel(), (ends * PIECE).astype(np.int32)), shape=shape).tocsc()
        counts.sum_duplicates()
        without = slice(counts.indptr[self._none], None)
        nothing = np.zeros(len(lengths), dtype=np.int64)
        nothing[counts.indices[without]] = counts.data[without]
        sure = nothing < lanes * PIECE
        sure[texts[~agrees]] = False
        return counts, sure

    def _read(self, data: bytes, starts: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The n-gram that ends at each byte of each lane, int32 [lanes, PIECE], and whether its start was right.

        A lane is right if the one before it ends in the state in which it began; the first of a text is always.
        """
        padded = np.zeros(WARM_UP + len(data) + PIECE, dtype=np.uint8)
        padded[WARM_UP : WARM_UP + len(data)] = np.frombuffer(data, dtype=np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(padded, WARM_UP + PIECE)[starts]
        features = np.empty((WARM_UP + PIECE, len(starts)), dtype=np.int32)
        state = np.empty(len(starts), dtype=self._transitions.dtype)
        row = np.full(len(starts), self._rows[0])
        began = row
        for step, column in enumerate(np.ascontiguousarray(windows.T)):
            if step == WARM_UP:
                row[first] = self._rows[0]
                began = row.copy()
            row += column
            # "clip" alone lets numpy write to `out` without a copy in between; nothing is out of bounds.
            self._transitions.take(row, out=state, mode="clip")
            self._features.take(state, out=features[step], mode="clip")
            self._rows.take(state, out=row, mode="clip")
        agrees = first.copy()
        agrees[1:] |= began[1:] == row[:-1]
        return np.ascontiguousarray(features[WARM_UP:].T), agrees


def _encode(text: str) -> bytes:
    """As py3langid does: capitals alone are read as small letters, and characters in their composed form."""
    return unicodedata.normalize("NFC", text.lower() if text.isupper() else text).encode()
