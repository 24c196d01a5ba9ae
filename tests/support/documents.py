"""Documents to be judged, in memory and as the shards in which they would have been read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from datamodules.corpus.decisions import Documents


def documents_of(
    texts: Sequence[str],
    sides: Sequence[bool] | None = None,
    *,
    shards: int = 1,
    sources: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    ids: Sequence[int] | None = None,
) -> Documents:
    """What is known of these texts; ids ascend with their places unless they are given."""
    numbers = list(ids) if ids is not None else [number << 64 | 7 for number in range(len(texts))]
    hashes = [xxhash.xxh3_128_intdigest(text.encode()) for text in texts]
    source_codes, source_names = _codes(sources if sources is not None else ["source"] * len(texts))
    language_codes, language_names = _codes(languages or [])
    return Documents(
        _pairs(numbers),
        _pairs(hashes),
        np.array([len(text.encode()) if text.strip() else 0 for text in texts], dtype=np.int64),
        np.array(sides if sides is not None else [False] * len(texts), dtype=bool),
        source_codes,
        source_names,
        language_codes,
        language_names,
        np.linspace(0, len(texts), shards + 1).astype(int),
    )


def write_texts_of(folder: Path, documents: Documents, texts: Sequence[str], rows: int) -> list[Path]:
    """The file of each shard, with so many rows in a row group."""
    paths = []
    for shard in range(len(documents.starts) - 1):
        here = list(texts[documents.starts[shard] : documents.starts[shard + 1]])
        paths.append(folder / f"{shard}.parquet")
        pq.write_table(pa.table({"text": pa.array(here, pa.string())}), paths[-1], row_group_size=rows)
    return paths


def _pairs(numbers: Sequence[int]) -> np.ndarray:
    return np.array([[n >> 64, n & (2**64 - 1)] for n in numbers], dtype=np.uint64).reshape(-1, 2)


def _codes(names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    known = list(dict.fromkeys(names))
    return np.array([known.index(name) for name in names], dtype=np.int32), known
