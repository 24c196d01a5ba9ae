"""Exact duplicates: documents whose cleaned texts are equal, found by a 128-bit hash."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

CLUSTER = pa.field("cluster", pa.binary(16))


@dataclass(frozen=True)
class ClusterByContent:
    """Adds the column `cluster`: the 16 bytes of xxh3_128 over the text. Equal texts form one duplicate cluster.

    The chance that any two of n different texts share a hash is about n² / 2^129: 10^-21 for a thousand million.
    """

    column: str = "text"

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = batch.column(self.column)
        digests = [xxhash.xxh3_128_digest(text.as_buffer()) for text in texts]
        return batch.append_column(CLUSTER, pa.array(digests, CLUSTER.type))


def hash_columns(column: pa.FixedSizeBinaryArray) -> np.ndarray:
    """uint64 [n, 2] from a column of 16-byte hashes, big-endian: the order of rows is the order of the bytes."""
    data = np.frombuffer(column.buffers()[1], dtype=">u8").reshape(-1, 2)
    return data[column.offset : column.offset + len(column)].astype(np.uint64)


def id_columns(ids: pa.StringArray) -> np.ndarray:
    """uint64 [n, 2] from document ids of 32 hexadecimal digits."""
    return np.frombuffer(bytes.fromhex("".join(ids.to_pylist())), dtype=">u8").reshape(-1, 2).astype(np.uint64)


def survivors(clusters: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """bool [n]: true for the document with the smallest id of each cluster, so the order of documents plays no part.

    Takes uint64 [n, 2] each; two documents with equal id and cluster are one document twice, and the first is kept.
    """
    keep = np.zeros(len(clusters), dtype=bool)
    if len(clusters):
        order = np.lexsort((ids[:, 1], ids[:, 0], clusters[:, 1], clusters[:, 0]))
        ordered = clusters[order]
        keep[order] = np.concatenate(([True], (ordered[1:] != ordered[:-1]).any(axis=1)))
    return keep


def contained(clusters: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool [n]: true for each cluster that also stands in `others`; uint64 [n, 2] and [m, 2]."""
    pair = np.dtype([("high", np.uint64), ("low", np.uint64)])
    return np.isin(
        np.ascontiguousarray(clusters).view(pair).ravel(), np.unique(np.ascontiguousarray(others).view(pair).ravel())
    )
