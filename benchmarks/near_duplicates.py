"""How well near-duplicates are found: against brute force over the exact sets of word 5-grams.

    python benchmarks/near_duplicates.py [--documents 12000] [--text FOLDER_OR_FILE ...] [--seeds 3]

Families of near-duplicates are planted among unrelated documents, each kind of change at rates that spread the true
Jaccard similarities over 0.5 to 1: words replaced, deleted, inserted, a prefix or suffix changed, blocks moved, all of
these together, chains of changes, and a fixed boilerplate around unrelated texts. Without `--text` the documents are
random words of Zipf's law. The reference splits words by a regular expression and compares sets of tuples of words.

Recall: of all pairs with a true similarity of at least 0.8, those in one cluster. Precision: of all removed documents,
those with a true similarity of at least 0.8 to the kept document that they are recorded with. Removed: of the documents
that brute force would remove by the same rule (longest first), those that were removed. Merged: of the pairs in one
cluster, those below 0.5 (joined by a chain).
"""

import argparse
import random
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_array

from datamodules.corpus.duplicates.minhash import MinHash
from datamodules.corpus.duplicates.near import near_duplicates

WORD = re.compile(r"[^\W_]+")
TRUE = 0.8
BUCKETS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0001)
KINDS = ("replace", "delete", "insert", "prefix", "suffix", "move", "mixture", "chain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=12_000)
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="text to cut documents from")
    parser.add_argument("--family", type=int, default=6, help="documents in a family at most; 2: pairs alone")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    settings = {"default": MinHash(), "one grouping": MinHash(groupings=1), "112 bins": MinHash(fine=1, groupings=1)}
    table = Table(title=f"{arguments.documents:,} documents, {arguments.seeds} plantings: medians", show_lines=False)
    for column in ("measure", *settings):
        table.add_column(column, justify="left" if column == "measure" else "right")
    columns: dict[str, list[dict[str, float]]] = {name: [] for name in settings}
    for seed in range(arguments.seeds):
        texts = plant(arguments.documents, arguments.family, source_words(arguments.text, seed), random.Random(seed))
        truth = brute_force(texts)
        for name, minhash in settings.items():
            columns[name].append(measure(texts, truth, minhash))
    for row in columns["default"][0]:
        values = [float(np.median([one[row] for one in columns[name]])) for name in settings]
        table.add_row(row, *(f"{value:.4f}" if value <= 1 else f"{value:,.0f}" for value in values))
    Console().print(table)


def source_words(paths: list[Path], seed: int) -> list[str]:
    """A long run of words: of the files, or random ones whose frequencies follow Zipf's law."""
    if paths:
        files = [file for path in paths for file in (sorted(path.glob("*.txt")) if path.is_dir() else [path])]
        return " ".join(file.read_text(encoding="utf-8", errors="replace") for file in files).split()
    ranks = np.minimum(np.random.default_rng(seed).zipf(1.2, size=3_000_000), 50_000)
    return [f"w{rank}" for rank in ranks.tolist()]


def plant(documents: int, largest: int, words: list[str], rng: random.Random) -> list[str]:
    """Unrelated documents and as many families of 2 to `largest`."""
    boilerplate = [f"notice{number}" for number in range(40)]
    texts: list[str] = []

    def fresh() -> list[str]:
        # Runs of eight words from all over the source: no two documents overlap by being neighbours there.
        length = round(min(3000, max(8, rng.lognormvariate(5.3, 1.0))))
        starts = [rng.randrange(len(words) - 8) for _ in range(length // 8 + 1)]
        return [word for start in starts for word in words[start : start + 8]][:length]

    while len(texts) < documents:
        base = fresh()
        if rng.random() < 0.5:
            framed = rng.random() < 0.2
            texts.append(" ".join(boilerplate + base + boilerplate if framed else base))
            continue
        kind, rate = rng.choice(KINDS), rng.random() ** 2 * 0.16
        family = [base]
        for _ in range(rng.randint(1, largest - 1)):
            start = family[-1] if kind == "chain" else base
            family.append(changed(start, kind, rate * rng.random(), fresh, rng))
        texts += [" ".join(one) for one in family if one]
    texts = texts[:documents]
    rng.shuffle(texts)
    return texts


def changed(base: list[str], kind: str, rate: float, fresh: Callable[[], list[str]], rng: random.Random) -> list[str]:
    """A document with about `rate` of its words touched."""
    if kind == "mixture":
        for part in rng.sample(KINDS[:6], 3):
            base = changed(base, part, rate / 3, fresh, rng)
        return base
    touched = sum(rng.random() < rate for _ in base)
    some = set(rng.sample(range(len(base)), touched))
    new = (f"new{rng.randrange(10**6)}" for _ in iter(int, 1))
    if kind in ("replace", "chain"):
        return [next(new) if place in some else word for place, word in enumerate(base)]
    if kind == "delete":
        return [word for place, word in enumerate(base) if place not in some]
    if kind == "insert":
        return [one for place, word in enumerate(base) for one in ([next(new), word] if place in some else [word])]
    amount = round(len(base) * rate * 2)
    if kind == "prefix":
        return fresh()[:amount] + base[amount:]
    if kind == "suffix":
        return base[: len(base) - amount] + (fresh()[:amount] if rng.random() < 0.5 else [])
    middle = rng.randrange(len(base))
    return base[middle:] + base[:middle] if rate else list(base)


def brute_force(texts: list[str]) -> dict[tuple[int, int], float]:
    """The exact Jaccard similarity of every pair of documents that share a 5-gram, from 0.3 on."""
    numbers: dict[tuple[str, ...], int] = {}
    rows, columns = [], []
    sizes = np.zeros(len(texts))
    for row, text in enumerate(texts):
        found = WORD.findall(text.lower())
        grams = {tuple(found[start : start + 5]) for start in range(max(1, len(found) - 4))} if found else set()
        sizes[row] = len(grams)
        columns += [numbers.setdefault(gram, len(numbers)) for gram in grams]
        rows += [row] * len(grams)
    shape = (len(texts), len(numbers))
    matrix = csr_array((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)
    pairs = {}
    for start in range(0, len(texts), 1000):
        common = (matrix[start : start + 1000] @ matrix.T).tocoo()
        one, other = common.row + start, common.col
        jaccard = common.data / (sizes[one] + sizes[other] - common.data)
        keep = (one < other) & (jaccard >= 0.3)
        pairs.update(
            zip(zip(one[keep].tolist(), other[keep].tolist(), strict=True), jaccard[keep].tolist(), strict=True)
        )
    return pairs


def measure(texts: list[str], truth: dict[tuple[int, int], float], minhash: MinHash) -> dict[str, float]:
    """Every figure of the table, by its name."""
    result = near_duplicates(texts, minhash)
    clusters = result.clusters.tolist()
    figures: dict[str, float] = {}
    alike = [pair for pair, jaccard in truth.items() if jaccard >= TRUE]
    figures["pairs >= 0.8"] = len(alike)
    figures["recall"] = share(clusters[one] == clusters[other] for one, other in alike)
    removed = np.flatnonzero(~result.kept).tolist()
    partners = result.partners.tolist()
    true = [truth.get((min(one, partners[one]), max(one, partners[one])), 0.0) for one in removed]
    figures["removed documents"] = len(removed)
    figures["precision"] = share(jaccard >= TRUE for jaccard in true)
    figures["precision, true >= 0.75"] = share(jaccard >= 0.75 for jaccard in true)
    figures["least true similarity of a removed one"] = min(true, default=0)
    error = result.jaccard[removed] - np.array(true)
    figures["error of the estimate (standard deviation)"] = float(error.std())
    expected = greedy(texts, truth)
    figures["removed of those to remove"] = share(not result.kept[one] for one in expected)
    members: dict[int, list[int]] = {}
    for document, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(document)
    figures["largest cluster"] = max(map(len, members.values()))
    together = [pair for group in members.values() for pair in pairs_of(group)]
    figures["merged below 0.5"] = share(truth.get(pair, 0.0) < 0.5 for pair in together)
    for low, high in pairwise(BUCKETS):
        bucket = [pair for pair, jaccard in truth.items() if low <= jaccard < high]
        figures[f"in one cluster, {low:.2f} to {min(high, 1):.2f}"] = share(
            clusters[a] == clusters[b] for a, b in bucket
        )
    return figures


def greedy(texts: list[str], truth: dict[tuple[int, int], float]) -> list[int]:
    """The documents that brute force removes: longest first, then smallest number."""
    neighbours: dict[int, list[int]] = {}
    for (one, other), jaccard in truth.items():
        if jaccard >= TRUE:
            neighbours.setdefault(one, []).append(other)
            neighbours.setdefault(other, []).append(one)
    kept: set[int] = set()
    removed = []
    for document in sorted(neighbours, key=lambda one: (-len(texts[one].encode()), one)):
        if any(other in kept for other in neighbours[document]):
            removed.append(document)
        else:
            kept.add(document)
    return removed


def pairs_of(group: list[int]) -> Iterator[tuple[int, int]]:
    return ((one, other) for place, one in enumerate(group) for other in group[place + 1 :])


def share(these: Iterable[bool]) -> float:
    some = list(these)
    return sum(some) / len(some) if some else float("nan")


if __name__ == "__main__":
    main()
