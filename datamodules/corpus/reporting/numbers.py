"""The figures of a corpus report: how they are written for people, and what follows from them."""

from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Any

UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")  # powers of 1000


def count(number: int) -> str:
    """12345678 as 12,345,678."""
    return f"{number:,}"


def short_count(number: int, names: Sequence[str] = ("million", "billion", "trillion")) -> str:
    """As `count` below ten million; from there on three digits and a name: 12.3 million."""
    if number < 10**7:
        return count(number)
    for name, unit in zip(names, (10**6, 10**9, 10**12), strict=True):
        if number < 999.5 * unit:
            return f"{_three_digits(number / unit)} {name}"
    return f"{number / 10**12:,.0f} {names[-1]}"


def numbered(things: Sized, noun: str) -> str:
    """How many things of a noun: 1 sample, 2 samples."""
    return f"{count(len(things))} {noun}{'' if len(things) == 1 else 's'}"


def size(number: int) -> str:
    """Bytes in three digits and a decimal unit: 12,345,678 as 12.3 MB."""
    if number < 1000:
        return f"{number} bytes"
    value, unit = float(number), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{_three_digits(value)} {UNITS[unit]}"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{decimals}f}"


def share(part: float, whole: float) -> str:
    """`part` of `whole` in per cent; never 0.0 % or 100.0 % where it is not exactly that."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.05:
        return "< 0.1 %"
    if 99.95 <= percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def duration(seconds: float) -> str:
    """1.234 as 1.23 s, 12.34 as 12.3 s, 3723 as 1 h 2 min, 1e6 as 278 h."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours < 100 else f"{round(seconds / 3600):,} h"


def rate(stage: dict[str, Any]) -> float | None:
    """MB of text that one core works on per second of CPU time; None where that was not measured."""
    seconds = stage.get("cpu_seconds")
    return stage["bytes_worked_on"] / seconds / 1e6 if seconds else None


def shown_rate(stage: dict[str, Any]) -> str:
    value = rate(stage)
    return "–" if value is None else _three_digits(value)


def other_records(read: dict[str, Any]) -> str:
    """What was read besides documents, such as `37 warc request, 2 not json`; empty where there was nothing else."""
    found = largest_first(read.get("not_documents", {}), lambda number: number)
    return ", ".join(f"{count(number)} {reason.replace('_', ' ')}" for reason, number in found)


def kept_documents(report: dict[str, Any]) -> int:
    """How many of the documents that were read are kept, each counted once.

    `kept.documents` says it where it is given. Else it is the sum over the splits, or, where each document is cut in
    two ("tails"), the larger of them.
    """
    kept = report["kept"]
    if "documents" in kept:
        return int(kept["documents"])
    each = [part["documents"] for part in splits(report).values()]
    return (max if report.get("split", {}).get("by") == "tails" else sum)(each) if each else 0


def splits(report: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The counts of train and of validation, those that there are."""
    kept = report.get("kept", {})
    return {name: kept[name] for name in ("train", "validation") if name in kept}


def dropped_documents(report: dict[str, Any]) -> int:
    return sum(reason["documents"] for reason in report.get("dropped", {}).values())


def largest_first(counts: dict[str, Any], number: Callable[[Any], float]) -> list[tuple[str, Any]]:
    """Name and value, the largest number first, and those that are equal by name."""
    return sorted(counts.items(), key=lambda item: (-number(item[1]), item[0]))


def size_bins(cluster_sizes: dict[str, int]) -> list[tuple[int, int, int]]:
    """Clusters by their number of documents, as (from, to, clusters): 2, 3-4, 5-8 ..., no bin left out on the way.

    `cluster_sizes` maps a number of documents, written as text, to the number of clusters that have it.
    """
    sizes = {int(documents): clusters for documents, clusters in cluster_sizes.items() if clusters}
    if not sizes:
        return []
    bins = [(0 if documents < 2 else (documents - 1).bit_length() - 1, documents) for documents in sizes]
    found = dict.fromkeys(range(max(number for number, _ in bins) + 1), 0)
    for number, documents in bins:
        found[number] += sizes[documents]
    return [(2**number + 1, 2 ** (number + 1), clusters) for number, clusters in found.items()]


def jaccard_bins(values: Iterable[float], steps: int = 40) -> list[tuple[float, float, int]]:
    """Counts of values in [0, 1] in bins of 1/steps, from the first that is not empty up to 1; 1 is in the last."""
    # Rounding first, so that 0.8 falls where 0.8 starts although 0.8 * 40 may come out a little less.
    numbers = [min(steps - 1, max(0, int(round(value * 1e6) * steps // 10**6))) for value in values]
    if not numbers:
        return []
    return [(n / steps, (n + 1) / steps, numbers.count(n)) for n in range(min(numbers), steps)]
