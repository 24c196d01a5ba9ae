"""Every document judged, in the order of the reasons: blank, language, quality, duplicates, near-duplicates, split."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from datamodules.corpus.curation import Curation
from datamodules.corpus.decisions import (
    Documents,
    check_removed,
    drop_exact_duplicates,
    drop_what_validation_has,
    split,
)
from datamodules.corpus.duplicates.near import CLUSTER_AT, NO_EDGES, Edges, candidate_edges, clusters, survivors
from datamodules.corpus.mixture import weigh
from datamodules.corpus.quality.filters import Filter
from datamodules.corpus.steps import KEYS_FILE, SIGNATURES_FILE

log = logging.getLogger(__name__)

SHOWN = 60  # characters of an example in an error


def judge(
    documents: Documents,
    curation: Curation,
    validation_fraction: float,
    features: Sequence[Path],
    sketches: Sequence[Path],
    matches: Sequence[Path],
    show: Callable[[int], str],
) -> dict[str, Any]:
    """Decide of every document, and return how it was split and how often each source is read.

    `features` are the files of measured columns, `sketches` the folders of MinHash arrays, `matches` the files of
    benchmark matches, one a shard each, or none.
    `show(row)` is the text of a document, for an error's example.

    Raises:
        DataError: where duplicates removed more than `max_removed`.
    """
    documents.drop("empty", documents.sizes == 0)
    if curation.languages is not None:
        kept = np.array([name in curation.languages for name in documents.language_names], dtype=bool)
        documents.drop("language", ~kept[documents.languages] if len(documents) else np.zeros(0, dtype=bool))
    for quality in curation.quality():
        _drop_failed(documents, quality, features)

    def example(reason: str) -> str:
        row = int(np.flatnonzero(documents.reason == documents.reasons.index(reason))[0])
        return repr(show(row)[:SHOWN])

    drop_exact_duplicates(documents)
    check_removed(documents, "duplicate", curation.max_removed, lambda: example("duplicate"))
    if curation.near_duplicates is not None and sketches:
        drop_near_duplicates(documents, sketches, curation.near_duplicates)
        check_removed(documents, "near_duplicate", curation.max_removed, lambda: example("near_duplicate"))
    if documents.sides.any():
        drop_what_validation_has(documents)
    if matches:
        parts = [pq.read_table(path, columns=["contaminated"]) for path in matches]
        documents.drop("contaminated", np.concatenate([part.column(0).to_numpy() for part in parts]))
    told = split(documents, validation_fraction)
    return {"split": told, "epochs": weigh(documents, curation.weights)}


def _drop_failed(documents: Documents, quality: Filter, features: Sequence[Path]) -> None:
    """Drop what fails a filter, each document for the first rule that it fails."""
    reasons: list[str | None] = []
    for path in features:
        reasons += quality.failed(pq.read_table(path, columns=list(quality.needs))).to_pylist()
    failed = np.array([reason or "" for reason in reasons], dtype=str)
    for rule in quality.reasons():
        documents.drop(rule, failed == rule)


def drop_near_duplicates(documents: Documents, sketches: Sequence[Path], threshold: float) -> None:
    """Join what is alike into clusters, and keep of each what is like no kept one, the longest text first.

    Validation goes before train, so that of two alike the one in train is dropped, as `in_validation`.
    """
    alive = np.flatnonzero(documents.kept)
    shards = np.searchsorted(documents.starts, alive, side="right") - 1
    keys = [_mapped(folder / KEYS_FILE) for folder in sketches]
    stored = [_mapped(folder / SIGNATURES_FILE) for folder in sketches]

    def signatures(chosen: np.ndarray) -> np.ndarray:
        return _rows_of(stored, documents.starts, chosen)

    # Documents of validation count as longer than all of train: they come first in the order of survival.
    lengths = documents.sizes + np.where(documents.sides, documents.sizes.max(initial=0) + 1, 0)
    edges: list[Edges] = [NO_EDGES]
    for column in range(keys[0].shape[1] if keys else 0):
        found = np.concatenate(
            [keys[shard][alive[shards == shard] - documents.starts[shard], column] for shard in np.unique(shards)]
            or [np.zeros(0, dtype=np.uint64)]
        )
        edges.append(candidate_edges(found, alive, lengths[alive], signatures, min(CLUSTER_AT, threshold)))
    joined = Edges.joined(edges)
    cluster = clusters(alive, joined)
    result = survivors(alive, lengths[alive], cluster, joined, signatures, threshold)
    _share_cluster(documents, alive, cluster)
    removed = ~result.kept
    documents.kept_instead[alive[removed]] = result.partners[removed]
    documents.jaccard[alive[removed]] = result.jaccard[removed]
    gone = np.zeros(len(documents), dtype=bool)
    gone[alive[removed]] = True
    also_in_validation = gone & ~documents.sides
    also_in_validation[gone] &= documents.sides[documents.kept_instead[gone]]
    documents.drop("near_duplicate", gone & ~also_in_validation)
    if documents.sides.any():
        documents.drop("in_validation", also_in_validation)


def _share_cluster(documents: Documents, alive: np.ndarray, cluster: np.ndarray) -> None:
    """Give all documents of a cluster the smallest hash of a text in it, which does not depend on names."""
    order = np.lexsort((documents.contents[alive, 1], documents.contents[alive, 0], cluster))
    first = np.concatenate(([True], cluster[order][1:] != cluster[order][:-1])) if len(order) else np.zeros(0, bool)
    smallest = documents.contents[alive[order][first]]
    documents.cluster[alive[order]] = smallest[np.cumsum(first) - 1]
    # Exact duplicates that were dropped before stay with the document that was kept instead of them.
    twins = np.flatnonzero((documents.kept_instead >= 0) & ~documents.kept)
    documents.cluster[twins] = documents.cluster[documents.kept_instead[twins]]


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def _rows_of(arrays: Sequence[np.ndarray], starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows of the arrays of several shards as if they were one array."""
    shards = np.searchsorted(starts, rows, side="right") - 1
    found = np.empty((len(rows), arrays[0].shape[1]), dtype=arrays[0].dtype)
    for shard in np.unique(shards):
        here = shards == shard
        found[here] = arrays[shard][rows[here] - starts[shard]]
    return found
