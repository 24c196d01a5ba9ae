"""The report of a run as plain numbers and samples, from the decisions and from the records of the shards.

Samples are the documents with the smallest ids, which are hashes: the same whatever the order, the shards or the
workers. `report` shows what is gathered here.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from datamodules.corpus.decisions import KEPT, Documents

SAMPLES = 5  # of each reason
PAIRS = 50  # of removed and kept documents
CLUSTERS = 10  # the largest
SHOWN = 400  # characters of a sample


class Excerpts:
    """The beginnings of documents, by their number among all; reads only the row groups that hold them."""

    def __init__(self, documents: Documents, paths: Sequence[Path]) -> None:
        self.documents = documents
        self.paths = paths
        self.texts: dict[int, str] = {}

    def fetch(self, rows: Iterable[int]) -> None:
        """Read the texts of these documents, each row group once."""
        wanted = np.unique(np.array([row for row in rows if row not in self.texts], dtype=np.int64))
        shards = np.searchsorted(self.documents.starts, wanted, side="right") - 1
        for shard in np.unique(shards):
            here = wanted[shards == shard] - self.documents.starts[shard]
            with pq.ParquetFile(self.paths[shard]) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                ends = np.cumsum(sizes)
                groups = np.searchsorted(ends, here, side="right")
                for group in np.unique(groups):
                    texts = file.read_row_group(group, columns=["text"]).column("text")
                    first = ends[group] - sizes[group]
                    for row in here[groups == group]:
                        number = int(row + self.documents.starts[shard])
                        self.texts[number] = texts[int(row - first)].as_py()[:SHOWN]

    def sample(self, row: int) -> dict[str, Any]:
        """One document as the report shows it; `fetch` comes first."""
        high, low = self.documents.ids[row]
        return {
            "id": f"{int(high):016x}{int(low):016x}",
            "source": self.documents.source_names[self.documents.sources[row]],
            "bytes": int(self.documents.sizes[row]),
            "text": self.texts[row],
        }

    def samples(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Several documents as the report shows them."""
        self.fetch(rows.tolist())
        return [self.sample(int(row)) for row in rows]


def lowest(documents: Documents, rows: np.ndarray, count: int) -> np.ndarray:
    """Of the documents `rows` (int64 [m]) the `count` with the smallest ids."""
    order = np.lexsort((documents.ids[rows, 1], documents.ids[rows, 0]))
    return rows[order[:count]]


def dropped(documents: Documents, excerpts: Excerpts) -> dict[str, Any]:
    """For each reason, in the order in which they apply: documents, bytes and samples."""
    found = {}
    for code, reason in enumerate(documents.reasons):
        rows = np.flatnonzero(documents.reason == code)
        if rows.size:
            found[reason] = {
                "documents": int(rows.size),
                "bytes": int(documents.sizes[rows].sum()),
                "samples": excerpts.samples(lowest(documents, rows, SAMPLES)),
            }
    return found


def funnel(documents: Documents, read: Mapping[str, int]) -> list[dict[str, Any]]:
    """Documents and bytes before and after each stage; a stage is what stands before the dot of its reasons."""
    left = {"documents": len(documents), "bytes": int(documents.sizes.sum())}
    stages = [_stage("read", {"documents": read["documents"], "bytes": read["bytes"]}, left)]
    groups: dict[str, list[int]] = {}
    for code, reason in enumerate(documents.reasons):
        groups.setdefault(reason.split(".")[0], []).append(code)
    for name, codes in groups.items():
        gone = np.isin(documents.reason, codes)
        after = {
            "documents": left["documents"] - int(gone.sum()),
            "bytes": left["bytes"] - int(documents.sizes[gone].sum()),
        }
        stages.append(_stage(name, left, after))
        left = after
    return stages


def _stage(name: str, before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": name,
        "documents_in": before["documents"],
        "documents_out": after["documents"],
        "bytes_in": before["bytes"],
        "bytes_out": after["bytes"],
    }


def duplicates(documents: Documents, excerpts: Excerpts) -> dict[str, Any]:
    """Sizes of the duplicate clusters, the largest with samples, and pairs of a removed document and the one kept."""
    pairs = np.flatnonzero((documents.kept_instead >= 0) & (documents.reason != KEPT))
    if not pairs.size:
        return {}
    # A cluster is what hangs together by its hash; most documents are a cluster of their own.
    looked_at = np.flatnonzero(documents.kept | (documents.kept_instead >= 0))
    order = looked_at[np.lexsort((documents.cluster[looked_at, 1], documents.cluster[looked_at, 0]))]
    ordered = documents.cluster[order]
    first = np.flatnonzero(np.concatenate(([True], (ordered[1:] != ordered[:-1]).any(axis=1))))
    sizes = np.diff(np.append(first, len(order)))
    several = np.flatnonzero(sizes > 1)
    counts = np.unique(sizes[several], return_counts=True)
    largest = several[np.lexsort((ordered[first[several], 1], ordered[first[several], 0], -sizes[several]))][:CLUSTERS]
    near = pairs[documents.jaccard[pairs] < 1]
    shown = lowest(documents, near, PAIRS)
    excerpts.fetch([*shown.tolist(), *documents.kept_instead[shown].tolist()])
    return {
        "cluster_sizes": {str(size): int(count) for size, count in zip(*counts, strict=True)},
        "largest": [_cluster(documents, excerpts, order[first[n] : first[n] + sizes[n]]) for n in largest],
        "pairs": [
            {
                "jaccard": round(float(documents.jaccard[row]), 4),
                "removed": excerpts.sample(int(row)),
                "kept": excerpts.sample(int(documents.kept_instead[row])),
            }
            for row in shown
        ],
    }


def _cluster(documents: Documents, excerpts: Excerpts, rows: np.ndarray) -> dict[str, Any]:
    return {
        "documents": len(rows),
        "kept": int(documents.kept[rows].sum()),
        "samples": excerpts.samples(lowest(documents, rows, 3)),
    }


def contamination(documents: Documents, matches: Sequence[Path]) -> dict[str, Any]:
    """For each benchmark: documents that hold text of it, spans, and samples; of what no other rule dropped."""
    code = documents.reasons.index("contaminated")
    reached = documents.kept | (documents.reason == code)
    found: dict[str, dict[str, Any]] = {}
    start = 0
    for path in matches:
        spans = pq.read_table(path, columns=["contamination"]).column(0).to_pylist()
        for row, here in enumerate(spans, start):
            for name in sorted({span["benchmark"] for span in here or () if reached[row]}):
                told = found.setdefault(name, {"documents": 0, "spans": 0, "samples": []})
                texts = [span["text"] for span in here if span["benchmark"] == name]
                told["documents"] += 1
                told["spans"] += len(texts)
                high, low = documents.ids[row]
                told["samples"].append({"id": f"{int(high):016x}{int(low):016x}", "text": texts[0]})
                told["samples"] = sorted(told["samples"], key=lambda sample: sample["id"])[:SAMPLES]
        start += len(spans)
    return found


def by_name(documents: Documents, codes: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Documents and bytes, read and kept, of each source or language."""
    kept = documents.kept
    found = {}
    for code, name in enumerate(names):
        here = codes == code
        found[name] = {
            "documents": int(here.sum()),
            "bytes": int(documents.sizes[here].sum()),
            "kept_documents": int((here & kept).sum()),
            "kept_bytes": int(documents.sizes[here & kept].sum()),
        }
    return dict(sorted(found.items(), key=lambda item: (-item[1]["bytes"], item[0])))


def add_up(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of records of numbers, key by key, records inside them too; what is not a number is left out."""
    total: dict[str, Any] = {}
    for record in records:
        for key, value in record.items():
            if isinstance(value, Mapping):
                total[key] = add_up([total.get(key, {}), value])
            elif isinstance(value, int | float):
                total[key] = total.get(key, 0) + value
    return total
