"""Lines and paragraphs that stand in many documents: menus, notices, signatures.

In three steps, as documents are spread over shards: `line_hashes` of each batch, `count_lines` within a shard and
`merge_counts` over all of them, `frequent_lines`; then the stage `DropLines`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from datamodules.corpus.spans import documents_of, lines_of, remove_spans, text_bytes, trim_spans
from datamodules.corpus.words import hash_spans

Unit = Literal["line", "paragraph"]
REMOVED_LINES = pa.field("removed_lines", pa.int32())
REMOVED_LINE_BYTES = pa.field("removed_line_bytes", pa.int32())


@dataclass(frozen=True)
class Lines:
    """The lines of a batch that count: a hash (uint64 [m]), the document (int64 [m]), and two spans of bytes each.

    [start, end) is the line without blanks at its ends, [start, next) what goes with it if it goes; int64 [m].
    """

    hashes: np.ndarray
    documents: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    begins: np.ndarray
    nexts: np.ndarray


@dataclass(frozen=True)
class LineCounts:
    """For each of m different lines: its hash (uint64, ascending), in how many documents it stands (int64), its keeper.

    The keeper is the smallest hash (uint64) of an id among these documents: a choice that no order can change.
    """

    hashes: np.ndarray
    documents: np.ndarray
    keepers: np.ndarray


def line_hashes(text: pa.StringArray, unit: Unit = "line", min_characters: int = 20) -> Lines:
    """Every line, or paragraph (lines up to a blank one), of at least `min_characters`, without blanks at its ends.

    Shorter ones ("}", "* * *", "Chapter 1") stand in many documents without being copies of anything.
    """
    data, offsets = text_bytes(text)
    begins, ends, nexts = lines_of(data, offsets)
    starts, ends = trim_spans(data, begins, ends)
    solid = np.flatnonzero(ends > starts)
    begins, nexts, starts, ends = begins[solid], nexts[solid], starts[solid], ends[solid]
    if unit == "paragraph" and solid.size:
        first = np.concatenate(([True], np.diff(solid) > 1)) | np.isin(begins, offsets)
        last = np.append(first[1:], True)
        begins, nexts, starts, ends = begins[first], nexts[last], starts[first], ends[last]
    long = np.flatnonzero(_characters(data, starts, ends) >= min_characters)
    begins, nexts, starts, ends = begins[long], nexts[long], starts[long], ends[long]
    return Lines(hash_spans(data, starts, ends), documents_of(offsets, starts), starts, ends, begins, nexts)


def _characters(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """int64 [m]: characters of each span, which are the bytes that do not continue one."""
    lengths = ends - starts
    if not data.size or data.max() < 0x80:
        return lengths
    continues = np.flatnonzero((data & 0xC0) == 0x80)
    return lengths - (np.searchsorted(continues, ends) - np.searchsorted(continues, starts))


def id_hashes(ids: pa.StringArray) -> np.ndarray:
    """uint64 [n]: a hash of each document's id, by which the keeper of a line is chosen."""
    data, offsets = text_bytes(ids)
    return hash_spans(data, offsets[:-1], offsets[1:])


def count_lines(lines: Lines, ids: np.ndarray) -> LineCounts:
    """Lines of one batch, each once a document; `ids` are the `id_hashes` of its documents."""
    order = np.lexsort((lines.documents, lines.hashes))
    hashes, documents = lines.hashes[order], lines.documents[order]
    once = np.ones(len(order), dtype=bool)
    once[1:] = (hashes[1:] != hashes[:-1]) | (documents[1:] != documents[:-1])
    hashes, documents = hashes[once], documents[once]
    return _grouped(hashes, np.ones(len(hashes), dtype=np.int64), ids[documents])


def merge_counts(parts: Iterable[LineCounts]) -> LineCounts:
    """The counts over several batches or shards that share no document; in any order, in one step or in many."""
    some = list(parts)
    if not some:
        return LineCounts(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.uint64))
    hashes = np.concatenate([part.hashes for part in some])
    order = np.argsort(hashes, kind="stable")
    documents = np.concatenate([part.documents for part in some])[order]
    keepers = np.concatenate([part.keepers for part in some])[order]
    return _grouped(hashes[order], documents, keepers)


def _grouped(hashes: np.ndarray, documents: np.ndarray, keepers: np.ndarray) -> LineCounts:
    """Sorted hashes made unique: sums of documents, smallest keepers."""
    if not len(hashes):
        return LineCounts(hashes, documents, keepers)
    first = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1])))
    return LineCounts(hashes[first], np.add.reduceat(documents, first), np.minimum.reduceat(keepers, first))


def frequent_lines(counts: LineCounts, min_documents: int = 2) -> LineCounts:
    """The lines that stand in at least `min_documents` documents."""
    often = counts.documents >= min_documents
    return LineCounts(counts.hashes[often], counts.documents[often], counts.keepers[often])


@dataclass(frozen=True)
class DropLines:
    """Removes lines (or paragraphs, with the blank lines behind them) that `frequent` lists, but in their keeper.

    One document keeps them, as C4 keeps one of the spans that occur more than once (Raffel et al. 2020, section 2.2);
    in it they stay as often as they are there. Adds `removed_lines` and `removed_line_bytes` (int32 each). `unit` and
    `min_characters` have to be those with which the lines were counted.
    """

    frequent: LineCounts = field(repr=False, compare=False)
    unit: Unit = "line"
    min_characters: int = 20
    column: str = "text"

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        index = batch.schema.get_field_index(self.column)
        text = batch.column(index)
        lines = line_hashes(text, self.unit, self.min_characters)
        listed = np.searchsorted(self.frequent.hashes, lines.hashes)
        listed[listed == len(self.frequent.hashes)] = 0
        gone = np.zeros(len(lines.hashes), dtype=bool)
        if len(self.frequent.hashes):
            keeper = self.frequent.keepers[listed] == id_hashes(batch.column("id"))[lines.documents]
            gone = (self.frequent.hashes[listed] == lines.hashes) & ~keeper
        starts, ends, documents = lines.begins[gone], lines.nexts[gone], lines.documents[gone]
        if self.unit == "paragraph":
            ends = self._with_blank_lines(text, ends)
        count = np.bincount(documents, minlength=len(batch))
        size = np.bincount(documents, weights=ends - starts, minlength=len(batch))
        batch = batch.set_column(index, batch.schema.field(index), remove_spans(text, starts, ends))
        return batch.append_column(REMOVED_LINES, pa.array(count, REMOVED_LINES.type)).append_column(
            REMOVED_LINE_BYTES, pa.array(size.astype(np.int32), REMOVED_LINE_BYTES.type)
        )

    @staticmethod
    def _with_blank_lines(text: pa.StringArray, ends: np.ndarray) -> np.ndarray:
        """Each end moved behind the blank lines that follow it; its neighbours stay as far apart as they were."""
        data, offsets = text_bytes(text)
        begins, line_ends, _ = lines_of(data, offsets)
        starts, line_ends = trim_spans(data, begins, line_ends)
        solid = np.append(begins[line_ends > starts], data.size)
        nexts = solid[np.searchsorted(solid, ends)]
        # The last paragraph of a document takes the blank lines to the document's end and no further.
        return np.minimum(nexts, offsets[np.searchsorted(offsets, ends)])
