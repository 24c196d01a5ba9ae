"""Text of benchmarks in documents: runs of words that a document shares with an item, found, shown and removed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa

from datamodules.corpus.decontamination.benchmarks import Benchmark
from datamodules.corpus.spans import character_starts, replace_spans, text_bytes, trim_spans
from datamodules.corpus.words import Words, split_words
from datamodules.errors import DataError

VERSION = 1  # raised when the same text gives other matches
Action = Literal["remove", "cut"]
SPAN = pa.struct([("benchmark", pa.string()), ("start", pa.int32()), ("end", pa.int32()), ("text", pa.string())])
CONTAMINATION = pa.field("contamination", pa.list_(SPAN))
CONTAMINATED = pa.field("contaminated", pa.bool_())

WHOLE_ITEM = 8  # words; an item of fewer than n, but so many, counts where all of it stands in a document
SHOWN = 500  # bytes of a matched span that are given back
JOINT = b"\n\n"  # stands where a span was cut between two pieces
STEP = np.uint64(0xC2B2AE3D27D4EB4F)  # odd; the polynomial in it tells the order of words
SPARSITY = 16  # slots of the table of first bits for each n-gram: 1 of 16 that are absent is looked up in vain


@dataclass(frozen=True)
class Grams:
    """The n-grams of one length (in words) of all benchmarks: `hashes` uint64 ascending; i stands in the benchmarks
    `benchmarks[offsets[i] : offsets[i + 1]]` (int64). `table` (bool) says which first `bits` of a hash occur at all."""

    length: int
    hashes: np.ndarray
    offsets: np.ndarray
    benchmarks: np.ndarray
    table: np.ndarray
    bits: int

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in `hashes` (int64) of those that are n-grams of a benchmark, and their places here."""
        at = np.flatnonzero(self.table[hashes >> np.uint64(64 - self.bits)])
        place = np.minimum(np.searchsorted(self.hashes, hashes[at]), len(self.hashes) - 1)
        known = self.hashes[place] == hashes[at]
        return at[known], place[known]


@dataclass(frozen=True)
class Matches:
    """Runs of matched words in a batch, by document, then place: document, benchmark, first word, word behind."""

    documents: np.ndarray
    benchmarks: np.ndarray
    first: np.ndarray
    last: np.ndarray


@dataclass(frozen=True)
class Decontamination:
    """Finds documents that share `n` words in a row with an item of a benchmark; removes them, or cuts the words out.

    Words are compared without case and punctuation. An item of fewer than `n` words counts as a whole from `WHOLE_ITEM`
    words on; shorter ones are left out (`left_out`). Adds two columns:

    - `contamination`: list of (benchmark, start, end, text): spans of bytes in the text as it came, and its beginning;
    - `contaminated`: bool, whether the document is to be dropped.

    With "remove" that is every document with a span. With "cut" a span goes together with `margin` bytes on both sides,
    widened to whole words and the blanks around them; so do pieces of fewer than `min_piece` bytes between cuts; one
    blank line stands in their place. A document that would fall into more than `max_pieces`, or of which nothing is
    left, is to be dropped. Rules and numbers of GPT-3 (Brown et al. 2020, appendix C.1), which counts in characters.

    Against matches that mean nothing: in a document a benchmark counts from `min_matches` n-grams on and from
    `min_share` of the document's words on (Llama 3 takes such a share of the item's words: Dubey et al. 2024, section
    5.1.4); `ignored` are n-grams that stand in many documents (`common_grams`).
    """

    benchmarks: Sequence[Benchmark] = field(repr=False)
    n: int = 13
    action: Action = "remove"
    min_matches: int = 1
    min_share: float = 0.0
    margin: int = 200
    min_piece: int = 200
    max_pieces: int = 10
    ignored: np.ndarray | None = field(default=None, repr=False, compare=False)
    column: str = "text"

    def __post_init__(self) -> None:
        if self.n < 2:
            raise DataError(f"decontamination by n-grams of {self.n} words; give n = 2 or more")
        if self.action not in ("remove", "cut"):
            raise DataError(f"decontamination action {self.action!r} is unknown; give 'remove' or 'cut'")
        names = [one.name for one in self.benchmarks]
        if len(set(names)) < len(names):
            raise DataError(f"benchmarks share a name ({', '.join(names)}); give each its own")

    @cached_property
    def left_out(self) -> dict[str, int]:
        """How many items of each benchmark are too short to be looked for."""
        least = min(WHOLE_ITEM, self.n)
        return {
            one.name: int((split_words(pa.array(one.texts, pa.string())).counts < least).sum())
            for one in self.benchmarks
        }

    @cached_property
    def grams(self) -> list[Grams]:
        """The n-grams of all items by their length, from `WHOLE_ITEM` to `n`."""
        hashes, lengths, owners = [], [], []
        for owner, one in enumerate(self.benchmarks):
            words = split_words(pa.array(one.texts, pa.string()))
            for length, sums in _sums(words, range(min(WHOLE_ITEM, self.n), self.n + 1)):
                # Items of exactly this many words; of the full length all that are long enough.
                at = words.offsets[:-1][words.counts == length]
                if length == self.n:
                    at = np.flatnonzero(np.arange(len(sums)) + length <= np.repeat(words.offsets[1:], words.counts))
                hashes.append(sums[at])
                lengths.append(np.full(len(at), length))
                owners.append(np.full(len(at), owner))
        if not hashes:
            return []
        all_hashes, all_lengths, all_owners = map(np.concatenate, (hashes, lengths, owners))
        used = np.isin(all_hashes, [] if self.ignored is None else self.ignored, invert=True)
        return [
            _grams(int(length), all_hashes[chosen], all_owners[chosen])
            for length in np.unique(all_lengths[used])
            for chosen in [used & (all_lengths == length)]
        ]

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        index = batch.schema.get_field_index(self.column)
        text = batch.column(index)
        words = split_words(text)
        matches = self._matches(words)
        contaminated = np.zeros(len(batch), dtype=bool)
        if self.action == "cut" and len(matches.documents):
            cut, contaminated = self._cut(text, words, matches)
            batch = batch.set_column(index, batch.schema.field(index), cut)
        else:
            contaminated[matches.documents] = True
        batch = batch.append_column(CONTAMINATION, self._spans(text, words, matches))
        return batch.append_column(CONTAMINATED, pa.array(contaminated))

    def matched_grams(self, text: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams of benchmarks in a batch (uint64, ascending), and in how many documents each stands (int64)."""
        words = split_words(text)
        pairs = np.zeros((0, 2), dtype=np.uint64)
        for grams, _, documents, places in self._find(words):
            found = np.stack((grams.hashes[places], documents.astype(np.uint64)), axis=1)
            pairs = np.unique(np.concatenate((pairs, found)), axis=0)
        return np.unique(pairs[:, 0], return_counts=True)

    def _find(self, words: Words) -> Iterator[tuple[Grams, np.ndarray, np.ndarray, np.ndarray]]:
        """By length: the n-grams, then first word, document and place among them (int64) of each that was found."""
        by_length = {grams.length: grams for grams in self.grams}
        for length, sums in _sums(words, list(by_length)):
            first, places = by_length[length].find(sums)
            documents = np.searchsorted(words.offsets, first, side="right") - 1
            whole = first + length <= words.offsets[documents + 1]
            yield by_length[length], first[whole], documents[whole], places[whole]

    def _matches(self, words: Words) -> Matches:
        parts = []
        for grams, first, documents, places in self._find(words):
            owners = np.diff(grams.offsets)[places]
            which = np.arange(owners.sum()) + np.repeat(grams.offsets[places] - np.cumsum(owners) + owners, owners)
            first, documents = np.repeat(first, owners), np.repeat(documents, owners)
            parts.append(np.stack((documents, grams.benchmarks[which], first, first + grams.length)))
        documents, owners, first, last = np.concatenate([np.zeros((4, 0), dtype=np.int64), *parts], axis=1)
        order = np.lexsort((last, first, documents, owners))
        documents, owners, first, last = documents[order], owners[order], first[order], last[order]
        # Runs that overlap or touch become one. Words are numbered through the batch, so one running maximum will do.
        group = owners * (len(words.starts) + 1)
        reach = np.maximum.accumulate(group + last)
        begins = np.ones(len(order), dtype=bool)
        begins[1:] = (group[1:] + first[1:] > reach[:-1]) | (documents[1:] != documents[:-1])
        ends = np.append(begins[1:], True)[: len(order)]
        number = np.cumsum(begins) - 1
        runs = Matches(documents[begins], owners[begins], first[begins], (reach - group)[ends])
        # Both thresholds are of one benchmark in one document.
        pairs, inverse = np.unique(runs.documents * len(self.benchmarks) + runs.benchmarks, return_inverse=True)
        matched = np.bincount(inverse, np.bincount(number), len(pairs))
        covered = np.bincount(inverse, runs.last - runs.first, len(pairs))
        share = covered / words.counts[pairs // max(len(self.benchmarks), 1)]
        counts = (matched >= self.min_matches) & (share >= self.min_share)
        kept = np.flatnonzero(counts[inverse])
        kept = kept[np.lexsort((runs.benchmarks[kept], runs.first[kept], runs.documents[kept]))]
        return Matches(runs.documents[kept], runs.benchmarks[kept], runs.first[kept], runs.last[kept])

    def _spans(self, text: pa.StringArray, words: Words, matches: Matches) -> pa.ListArray:
        data, offsets = text_bytes(text)
        starts, ends = words.starts[matches.first], words.ends[matches.last - 1]
        shown = [
            data[start : min(end, start + SHOWN)].tobytes().decode(errors="ignore")
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        begin = offsets[matches.documents]
        names = [self.benchmarks[owner].name for owner in matches.benchmarks.tolist()]
        columns = [
            pa.array(names, pa.string()),
            pa.array(starts - begin, pa.int32()),
            pa.array(ends - begin, pa.int32()),
            pa.array(shown, pa.string()),
        ]
        counts = np.bincount(matches.documents, minlength=len(text))
        lists = pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32())
        return pa.ListArray.from_arrays(lists, pa.StructArray.from_arrays(columns, fields=list(SPAN)))

    def _cut(self, text: pa.StringArray, words: Words, matches: Matches) -> tuple[pa.StringArray, np.ndarray]:
        """The texts without their spans, and which documents are to be dropped for it (bool [n])."""
        data, offsets = text_bytes(text)
        begin, end = offsets[matches.documents], offsets[matches.documents + 1]
        low = np.maximum(words.starts[matches.first] - self.margin, begin)
        high = np.minimum(words.ends[matches.last - 1] + self.margin, end)
        low = np.minimum(low, np.maximum(words.starts[np.searchsorted(words.ends, low, side="right")], begin))
        high = np.maximum(high, np.minimum(words.ends[np.searchsorted(words.starts, high) - 1], end))
        low, high = character_starts(data, low), character_starts(data, high)
        # Cuts with less than a piece between them become one, up to the document's two ends.
        reach = np.maximum.accumulate(high)
        apart = matches.documents[1:] != matches.documents[:-1]
        first = np.concatenate(([True], apart | (low[1:] - reach[:-1] >= max(self.min_piece, 1))))
        documents, low, high = matches.documents[first], low[first], reach[np.append(first[1:], True)]
        begin, end = offsets[documents], offsets[documents + 1]
        low = np.where(low - begin < self.min_piece, begin, low)
        high = np.where(end - high < self.min_piece, end, high)
        # What stays before and behind each cut, without the blanks beside it.
        new = np.concatenate(([True], documents[1:] != documents[:-1]))
        final = np.append(new[1:], True)
        before = trim_spans(data, np.where(new, begin, np.roll(high, 1)), low)
        behind = trim_spans(data, high, np.where(final, end, np.roll(low, -1)))
        stays_before, stays_behind = before[0] < before[1], behind[0] < behind[1]
        so_far = np.cumsum(stays_before)
        so_far = so_far - (so_far - stays_before)[new][np.cumsum(new) - 1]  # of the same document, up to this cut
        joints = [JOINT if joint else b"" for joint in (stays_behind & (so_far > 0)).tolist()]
        pieces = (so_far + stays_behind)[final]
        dropped = np.zeros(len(text), dtype=bool)
        dropped[documents[final]] = (pieces == 0) | (pieces > self.max_pieces)
        return replace_spans(text, before[1], behind[0], joints), dropped


def common_grams(parts: Iterable[tuple[np.ndarray, np.ndarray]], max_documents: int = 10) -> np.ndarray:
    """uint64, ascending: the n-grams that stand in more than `max_documents`, from `matched_grams` of all batches.

    Ten is GPT-3's number (Brown et al. 2020, appendix C.1): proverbs, licences and the like.
    """
    some = list(parts)
    if not some:
        return np.zeros(0, dtype=np.uint64)
    hashes, inverse = np.unique(np.concatenate([part[0] for part in some]), return_inverse=True)
    return hashes[np.bincount(inverse, np.concatenate([part[1] for part in some])) > max_documents]


def _grams(length: int, hashes: np.ndarray, owners: np.ndarray) -> Grams:
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    once = np.concatenate(([True], (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])))
    hashes, owners = hashes[once], owners[once]
    first = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1])))
    bits = max(len(first) * SPARSITY, 2).bit_length()
    table = np.zeros(1 << bits, dtype=bool)
    table[hashes >> np.uint64(64 - bits)] = True
    return Grams(length, hashes[first], np.append(first, len(hashes)), owners, table, bits)


def _sums(words: Words, lengths: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """For each length, ascending: a hash of so many words from each word on (uint64), also across documents.

    All lengths in one run, as the sum for a length is a step on the way to the next. Valid up to the next iteration.
    """
    longest, count = max(lengths, default=0), len(words.hashes)
    padded = np.concatenate((words.hashes, np.zeros(longest, dtype=np.uint64)))
    total = np.zeros(count, dtype=np.uint64)
    for place in range(longest):
        total *= STEP
        total += padded[place : place + count]
        if place + 1 in lengths:
            yield place + 1, total
