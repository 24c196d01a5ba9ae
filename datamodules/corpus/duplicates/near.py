"""Near-duplicates from MinHash sketches: candidates, verified edges, clusters, and which document of each survives.

Documents are int64 addresses: shard number and row (`address`), or any other number of theirs. All functions are pure
and give the same answer for any order of their input, so the work can be cut up: `candidate_edges` by keys (equal keys
together), `survivors` by clusters. Signatures are asked for in blocks, and may lie on disk (`MappedSignatures`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.corpus.duplicates.minhash import CHANCE, EMPTY, NO_KEY, MinHash

CLUSTER_AT = 0.75  # estimated Jaccard similarity from which two documents are joined into a cluster
REMOVE_AT = 0.8  # ... and from which one of them is removed
PAIRS = 256  # compared at a time, so that their signatures stay in the processor's cache
ALL_PAIRS = 16  # documents with one key that are all compared with each other
LEADERS = 16  # documents that others with the same key are compared with, where there are more of them
EVERYONE = 3  # of the leaders, whom also those are compared with that are like an earlier one
FULL = 64  # survivors that all later documents of a cluster are compared with

Signatures = Callable[[np.ndarray], np.ndarray]  # int64 [n] documents -> uint8 [n, bins]


@dataclass(frozen=True)
class Edges:
    """Pairs of documents found alike: int64 [n] each, `first` < `second`, in order, and float32 [n] `jaccard`."""

    first: np.ndarray
    second: np.ndarray
    jaccard: np.ndarray

    @staticmethod
    def joined(parts: Iterable["Edges"]) -> "Edges":
        """The edges of all parts, each once."""
        some = [NO_EDGES, *parts]
        first = np.concatenate([part.first for part in some])
        second = np.concatenate([part.second for part in some])
        jaccard = np.concatenate([part.jaccard for part in some])
        order = np.lexsort((second, first))
        first, second, jaccard = first[order], second[order], jaccard[order]
        new = np.ones(len(first), dtype=bool)
        new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        return Edges(first[new], second[new], jaccard[new])


NO_EDGES = Edges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


@dataclass(frozen=True)
class NearDuplicates:
    """What became of n documents, in the order they were given.

    `clusters` int64: the smallest document of each one's cluster, its own where it has none; `kept` bool; `partners`
    int64: the kept document that a removed one is like, else -1; `jaccard` float32: how alike they are, else 0.
    """

    clusters: np.ndarray
    kept: np.ndarray
    partners: np.ndarray
    jaccard: np.ndarray


def address(shard: int, rows: np.ndarray) -> np.ndarray:
    """int64 [n]: documents from the number of their shard and their rows in it, both below 2^31."""
    return np.int64(shard) << 32 | rows.astype(np.int64)


class MappedSignatures:
    """Signatures by address, from one `.npy` file (uint8 [rows, bins]) a shard, mapped and not read whole."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.shards = [np.load(path, mmap_mode="r") for path in paths]

    def __call__(self, documents: np.ndarray) -> np.ndarray:
        found = np.empty((len(documents), self.shards[0].shape[1]), dtype=np.uint8)
        shards = documents >> 32
        for shard in np.unique(shards):
            here = shards == shard
            found[here] = self.shards[shard][documents[here] & 0xFFFFFFFF]
        return found


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 [n]: estimated Jaccard similarity of n pairs of signatures, uint8 [n, bins] each.

    Equal bins over bins that are full in either (Li, Owen, Zhang 2012, section 3), less those that are equal by chance
    (Li and König 2010, section 3). Its standard deviation is at most sqrt(J (1 - J) / bins full in either); for a text
    of far fewer n-grams than bins it is nearly exact. 0 where both are empty.
    """
    either = _count((first | second) != EMPTY)
    both = _count(np.minimum(first, second) != EMPTY)
    equal = _count(first == second) - (first.shape[1] - either)  # less those that are empty in both
    by_chance = (both - equal) * np.float32(CHANCE / (1 - CHANCE))
    return np.maximum(equal - by_chance, 0) / np.maximum(either, 1)


def _count(where: np.ndarray) -> np.ndarray:
    return where.sum(axis=1, dtype=np.uint16).astype(np.float32)  # four times as fast as into int64


def candidate_edges(
    keys: np.ndarray,
    documents: np.ndarray,
    lengths: np.ndarray,
    signatures: Signatures,
    threshold: float = CLUSTER_AT,
) -> Edges:
    """The pairs among documents with a common key whose similarity is at least `threshold`.

    Takes a row for each key of each document: uint64 [n] keys, int64 [n] documents and lengths of their texts. Up to
    ALL_PAIRS documents with one key are all compared. Of more, the first in the order of survival leads: all are
    compared with it, then all with the first that no leader is like, up to LEADERS; so the work grows with the number
    of documents and not with its square. What is left after that has to meet at other keys.
    """
    some = np.flatnonzero(keys != NO_KEY)
    some = some[np.lexsort((documents[some], -lengths[some], keys[some]))]
    keys, documents = keys[some], documents[some]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if len(keys) else np.zeros(0, np.int64)
    sizes = np.diff(np.append(starts, len(keys)))
    group, size = np.repeat(np.arange(len(starts)), sizes), np.repeat(sizes, sizes)
    small = np.flatnonzero((size > 1) & (size <= ALL_PAIRS))
    pairs = [
        (small[:-apart][same], small[apart:][same])
        for apart in range(1, ALL_PAIRS)
        if (same := group[small[apart:]] == group[small[:-apart]]).any()
    ]
    parts = [_verified(documents[one], documents[other], signatures, threshold)[0] for one, other in pairs]

    rows = np.flatnonzero(size > ALL_PAIRS)
    alone = np.ones(len(keys), dtype=bool)  # like none of its leaders so far
    leads = np.zeros(len(keys), dtype=bool)
    for turn in range(LEADERS):
        waiting = rows[alone[rows]]
        if not waiting.size:
            break
        led, first = np.unique(group[waiting], return_index=True)
        leader_of = np.full(len(starts), -1)
        leader_of[led] = waiting[first]
        alone[waiting[first]] = False
        leads[waiting[first]] = True
        members = rows[(leader_of[group[rows]] >= 0) & ~leads[rows]] if turn < EVERYONE else rows[alone[rows]]
        edges, alike = _verified(documents[leader_of[group[members]]], documents[members], signatures, threshold)
        alone[members[alike]] = False
        parts.append(edges)
    return Edges.joined(parts)


def _verified(one: np.ndarray, other: np.ndarray, signatures: Signatures, threshold: float) -> tuple[Edges, np.ndarray]:
    """The edges among pairs of documents, and bool [n] which of the pairs they are."""
    first, second = np.minimum(one, other), np.maximum(one, other)
    jaccard = compared(first, second, signatures)
    alike = jaccard >= np.float32(threshold)
    edges = alike & (first != second)  # a document may be given twice with one key
    return Edges(first[edges], second[edges], jaccard[edges]), alike


def compared(first: np.ndarray, second: np.ndarray, signatures: Signatures) -> np.ndarray:
    """float32 [n]: the similarity of n pairs of documents, PAIRS at a time."""
    jaccard = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), PAIRS):
        block = slice(start, start + PAIRS)
        jaccard[block] = similarity(signatures(first[block]), signatures(second[block]))
    return jaccard


def clusters(documents: np.ndarray, edges: Edges) -> np.ndarray:
    """int64 [n]: the smallest document of the connected component of each; its own number where no edge reaches it."""
    nodes = np.unique(np.concatenate((edges.first, edges.second)))
    if not nodes.size:
        return documents.copy()
    ends = np.searchsorted(nodes, edges.first), np.searchsorted(nodes, edges.second)
    from scipy.sparse import coo_array  # here, as importing it takes 0.2 s in every worker, and none needs it
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(edges.first), dtype=np.int8), ends), shape=(len(nodes), len(nodes)))
    labels = connected_components(graph, directed=False)[1]
    _, smallest = np.unique(labels, return_index=True)  # nodes are sorted
    place = np.minimum(np.searchsorted(nodes, documents), len(nodes) - 1)
    return np.where(nodes[place] == documents, nodes[smallest[labels[place]]], documents)


def survivors(
    documents: np.ndarray,
    lengths: np.ndarray,
    cluster: np.ndarray,
    edges: Edges,
    signatures: Signatures,
    threshold: float = REMOVE_AT,
) -> NearDuplicates:
    """Go through each cluster, the longest text first, then the smallest document: keep what is like no kept one.

    Takes int64 [n] documents (none twice), lengths and clusters. A removed document has a kept partner of at least
    `threshold`, the first such; so of a chain A ~ B ~ C, C stays although it is like B. In a cluster where more than
    FULL are kept, further ones are compared along `edges` alone, so that the work does not grow with its square.
    """
    order = np.lexsort((documents, -lengths, cluster))
    group, document = cluster[order], documents[order]
    partners = np.full(len(order), -1, dtype=np.int64)
    jaccard = np.zeros(len(order), dtype=np.float32)
    open_rows = np.flatnonzero(_repeated(group))
    for _ in range(FULL):
        if not open_rows.size:
            break
        first = np.concatenate(([True], group[open_rows[1:]] != group[open_rows[:-1]]))
        leaders = open_rows[first][np.cumsum(first) - 1][~first]
        others = open_rows[~first]
        alike = compared(document[leaders], document[others], signatures)
        found = alike >= np.float32(threshold)
        partners[others[found]], jaccard[others[found]] = document[leaders[found]], alike[found]
        open_rows = others[~found]
    if open_rows.size:
        _along_edges(document, open_rows, edges, threshold, partners, jaccard)
    result = NearDuplicates(cluster, np.ones(len(order), dtype=bool), np.empty_like(partners), np.empty_like(jaccard))
    result.partners[order], result.jaccard[order] = partners, jaccard
    result.kept[:] = result.partners < 0
    return result


def _repeated(group: np.ndarray) -> np.ndarray:
    """bool [n]: whether a neighbour is of the same group."""
    same = np.concatenate(([False], group[1:] == group[:-1], [False]))
    return (same[1:] | same[:-1])[: len(group)]


def _along_edges(
    document: np.ndarray,
    rows: np.ndarray,
    edges: Edges,
    threshold: float,
    partners: np.ndarray,
    jaccard: np.ndarray,
) -> None:
    """Decide, in place, of the documents at `rows`, in order. Each decision needs those before it, hence a loop."""
    by_document = rows[np.argsort(document[rows])]
    nodes = document[by_document]
    strong = np.flatnonzero(edges.jaccard >= np.float32(threshold))
    ends = []
    for side in (edges.first[strong], edges.second[strong]):
        place = np.minimum(np.searchsorted(nodes, side), len(nodes) - 1)
        ends.append(np.where(nodes[place] == side, by_document[place], -1))
    early, late = np.minimum(*ends), np.maximum(*ends)
    order = np.lexsort((early, late))
    order = order[early[order] >= 0]
    for one, other, alike in zip(
        early[order].tolist(), late[order].tolist(), edges.jaccard[strong[order]].tolist(), strict=True
    ):
        if partners[one] < 0 and partners[other] < 0:
            partners[other], jaccard[other] = document[one], alike


def near_duplicates(
    texts: Sequence[str] | pa.StringArray,
    minhash: MinHash | None = None,
    cluster_at: float = CLUSTER_AT,
    remove_at: float = REMOVE_AT,
) -> NearDuplicates:
    """Near-duplicates among texts in memory; documents are numbered from 0 in the order given."""
    text = texts if isinstance(texts, pa.StringArray) else pa.array(texts, pa.string())
    minhash = minhash or MinHash()
    sketches = minhash.sketch(text)
    documents = np.arange(len(text))
    lengths = np.asarray(pc.binary_length(text)).astype(np.int64)

    def signatures(some: np.ndarray) -> np.ndarray:
        return sketches.signatures[some]

    edges = Edges.joined(candidate_edges(keys, documents, lengths, signatures, cluster_at) for keys in sketches.keys.T)
    return survivors(documents, lengths, clusters(documents, edges), edges, signatures, remove_at)
