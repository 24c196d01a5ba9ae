"""What becomes of each document: kept or dropped, for which one reason, in train or in validation.

Decided over all shards at once, from ids, hashes, sizes and measurements; no text is read here. The answer depends on
the documents alone, never on their order, on how they lie in shards, or on who worked on them.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from datamodules.corpus.duplicates.exact import contained, hash_columns, id_columns, survivors
from datamodules.corpus.split import in_validation, is_near
from datamodules.errors import DataError

log = logging.getLogger(__name__)

TRAIN, VALIDATION = "train", "validation"
DROP, TO_TRAIN, TO_VALIDATION, TO_BOTH = range(4)  # where a document goes; to both: its tail to validation
KEPT = -1
SETTLED = 100  # `max_removed` is a share, which means little among fewer documents than this

DECISIONS = pa.schema(
    [
        ("goes", pa.uint8()),
        ("copies", pa.uint8()),
        ("reason", pa.dictionary(pa.int16(), pa.string())),
        ("duplicate_of", pa.binary(16)),
        ("jaccard", pa.float32()),
    ]
)


@dataclass
class Documents:
    """What is known of all n documents, shard after shard, and what was decided.

    `ids` and `contents` (the hash of the text) are uint64 [n, 2], `sizes` int64 [n] bytes, `sides` bool [n] (true: from
    the validation sources), `sources` int32 [n] into `source_names`, `languages` int32 [n] into `language_names`.
    Shard i has the documents `starts[i]` to `starts[i + 1]`. `reason` int16 [n] is KEPT or an index into `reasons`;
    `kept_instead` int64 [n] and `jaccard` float32 [n] tell of a duplicate which document is kept instead, else -1.
    `cluster` uint64 [n, 2] is one for all that resemble each other.
    """

    ids: np.ndarray
    contents: np.ndarray
    sizes: np.ndarray
    sides: np.ndarray
    sources: np.ndarray
    source_names: list[str]
    languages: np.ndarray
    language_names: list[str]
    starts: np.ndarray
    reason: np.ndarray = field(init=False)
    reasons: list[str] = field(default_factory=list)
    kept_instead: np.ndarray = field(init=False)
    jaccard: np.ndarray = field(init=False)
    cluster: np.ndarray = field(init=False)
    goes: np.ndarray = field(init=False)
    copies: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.ids)
        self.reason = np.full(n, KEPT, dtype=np.int16)
        self.kept_instead = np.full(n, -1, dtype=np.int64)
        self.jaccard = np.full(n, np.nan, dtype=np.float32)
        self.cluster = self.contents.copy()
        self.goes = np.zeros(n, dtype=np.uint8)
        self.copies = np.ones(n, dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def kept(self) -> np.ndarray:
        """bool [n]."""
        return self.reason == KEPT

    def drop(self, reason: str, which: np.ndarray) -> int:
        """Drop those of `which` (bool [n]) that are still kept; returns how many these were."""
        new = which & self.kept
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.reason[new] = self.reasons.index(reason)
        return int(new.sum())

    def table(self, shard: int) -> pa.Table:
        """The decisions on one shard, a row a document, in its order."""
        rows = slice(self.starts[shard], self.starts[shard + 1])
        reason, instead = self.reason[rows], self.kept_instead[rows]
        partner = np.ascontiguousarray(self.ids[np.maximum(instead, 0)].astype(">u8")).view("V16").ravel()
        columns = [
            pa.array(self.goes[rows]),
            pa.array(self.copies[rows]),
            pa.DictionaryArray.from_arrays(pa.array(reason, mask=reason == KEPT), pa.array(self.reasons, pa.string())),
            pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), len(partner), [_validity(instead >= 0), pa.py_buffer(partner.tobytes())]
            ),
            pa.array(self.jaccard[rows], mask=np.isnan(self.jaccard[rows])),
        ]
        return pa.Table.from_arrays(columns, schema=DECISIONS)

    def digest(self, shard: int) -> str:
        """32 hexadecimal digits that change with any decision on a shard, and with nothing else."""
        rows = slice(self.starts[shard], self.starts[shard + 1])
        names = [xxhash.xxh3_64_intdigest(reason.encode()) for reason in self.reasons]
        reasons = np.array([*names, 0], dtype=np.uint64)[self.reason[rows]]  # KEPT is the last one
        instead = self.kept_instead[rows]
        partners = np.where(instead[:, None] >= 0, self.ids[np.maximum(instead, 0)], 0)
        sink = xxhash.xxh3_128()
        for column in (self.goes[rows], self.copies[rows], reasons, instead >= 0, partners, self.jaccard[rows]):
            sink.update(np.ascontiguousarray(column).tobytes())
        return sink.hexdigest()


def _validity(valid: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())


def gather(shards: Sequence[Path], sides: Sequence[bool]) -> Documents:
    """Read what is known of the documents of all shards; `sides` says of each whether it is validation."""
    ids, contents, sizes, sources, languages, flags = [], [], [], [], [], []
    names: dict[str, dict[str, int]] = {"source": {}, "language": {}}
    starts = [0]
    for path, side in zip(shards, sides, strict=True):
        count = 0
        with pq.ParquetFile(path) as file:
            columns = [c for c in ("id", "cluster", "size", "source", "language") if c in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                for batch in file.read_row_group(group, columns=columns).to_batches():
                    count += len(batch)
                    ids.append(id_columns(batch.column("id")))
                    contents.append(hash_columns(batch.column("cluster")))
                    sizes.append(np.asarray(batch.column("size")))
                    sources.append(_codes(batch.column("source"), names["source"]))
                    if "language" in columns:
                        languages.append(_codes(batch.column("language"), names["language"]))
        starts.append(starts[-1] + count)
        flags.append(np.full(count, side))
    pairs, numbers = np.zeros((0, 2), dtype=np.uint64), np.zeros(0, dtype=np.int64)
    codes = np.zeros(0, dtype=np.int32)
    return Documents(
        np.concatenate([pairs, *ids]),
        np.concatenate([pairs, *contents]),
        np.concatenate([numbers, *sizes]),
        np.concatenate([numbers.astype(bool), *flags]),
        np.concatenate([codes, *sources]),
        list(names["source"]),
        np.concatenate([codes, *languages]),
        list(names["language"]),
        np.array(starts),
    )


def _codes(column: pa.Array, known: dict[str, int]) -> np.ndarray:
    encoded = column.dictionary_encode("encode")  # null is a name as well: the empty one
    here = [known.setdefault(name or "", len(known)) for name in encoded.dictionary.to_pylist()]
    return np.array(here, dtype=np.int32)[np.asarray(encoded.indices)]


def drop_exact_duplicates(documents: Documents) -> None:
    """Of equal texts the document with the smallest id stays; train and validation sources each by themselves."""
    for side in (False, True):
        rows = np.flatnonzero(documents.kept & (documents.sides == side))
        stays = survivors(documents.contents[rows], documents.ids[rows])
        which = np.zeros(len(documents), dtype=bool)
        which[rows[~stays]] = True
        documents.drop("duplicate", which)
        _point_to_survivors(documents, rows, stays)


def _point_to_survivors(documents: Documents, rows: np.ndarray, stays: np.ndarray) -> None:
    """Note for each duplicate the one of equal text that stays."""
    kept = rows[stays]
    order = np.lexsort((documents.contents[kept, 1], documents.contents[kept, 0]))
    pair = np.dtype([("high", np.uint64), ("low", np.uint64)])
    texts = np.ascontiguousarray(documents.contents[kept[order]]).view(pair).ravel()
    dropped = rows[~stays]
    at = np.searchsorted(texts, np.ascontiguousarray(documents.contents[dropped]).view(pair).ravel())
    documents.kept_instead[dropped] = kept[order][at]
    documents.jaccard[dropped] = 1.0


def drop_what_validation_has(documents: Documents) -> None:
    """Train documents whose text also stands in the validation sources are dropped from train."""
    theirs = documents.contents[documents.kept & documents.sides]
    documents.drop("in_validation", ~documents.sides & contained(documents.contents, theirs))


def check_removed(documents: Documents, reason: str, limit: float, example: Callable[[], str]) -> None:
    """Stop where a kind of duplicate removed a larger share of what it looked at than `limit`.

    Raises:
        DataError: with the numbers, and an `example` of what was removed.
    """
    if reason not in documents.reasons:
        return
    removed = int((documents.reason == documents.reasons.index(reason)).sum())
    seen = removed + int(documents.kept.sum())
    if seen >= SETTLED and removed > limit * seen:
        raise DataError(
            f"{reason} removed {removed:,} of {seen:,} documents ({removed / seen:.1%}), more than max_removed "
            f"({limit:g}) allows, for example {example()}; look at the sources, or raise max_removed to accept it"
        )


def split(documents: Documents, fraction: float) -> dict[str, Any]:
    """Set where each kept document goes; whole clusters go to one side. Returns how it was done.

    `fraction` of the bytes becomes validation where there are no validation sources: documents by the hash of their
    cluster, or the tail of each where documents are too few or too unequal for that.
    """
    kept = documents.kept
    documents.goes[:] = np.where(kept, np.where(documents.sides, TO_VALIDATION, TO_TRAIN), DROP)
    if documents.sides.any():
        return {"by": "sources"}
    if fraction == 0:
        return {"by": "none", "asked": fraction}
    chosen = in_validation(documents.cluster, fraction) & kept
    share = documents.sizes[chosen].sum() / max(1, documents.sizes[kept].sum())
    if is_near(share, fraction):
        documents.goes[chosen] = TO_VALIDATION
        return {"by": "documents", "asked": fraction}
    documents.goes[kept] = TO_BOTH
    log.info(
        "documents: too few or too unequal to be split whole (validation would hold %.1f %% of the bytes, "
        "%.1f %% were asked for), so the last part of each is validation",
        100 * share,
        100 * fraction,
    )
    return {"by": "tails", "asked": fraction}
