"""The report of a corpus: what was read, what became of it and why, checked, printed and written.

The pipeline hands it over as a dict of JSON primitives; a part that was not asked for is an absent key, and nothing is
shown of it.
"""

import io
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from datamodules.corpus.reporting.html import render
from datamodules.corpus.reporting.numbers import (
    count,
    dropped_documents,
    duration,
    kept_documents,
    largest_first,
    other_records,
    share,
    short_count,
    shown_rate,
    size,
    size_bins,
    splits,
)
from datamodules.corpus.reporting.texts import plain
from datamodules.errors import DataError

JSON_FILE, HTML_FILE = "report.json", "report.html"
ROWS = 20  # of a table in the terminal
WIDE = 110  # columns from which on there is room for all figures and for bars
NO_TERMINAL = 160  # columns of a file or a pipe, where no line may be folded
BAR = 24  # columns


def check(report: dict[str, Any]) -> None:
    """Hold the counts of documents against each other: all that was read is kept or dropped for one reason.

    Raises:
        ValueError: with the numbers, where read is not kept + dropped, a stage does not take what the one before it
            gave, or the stages' end is not what is kept.
    """
    stages = report.get("stages", [])
    read = report["read"]["documents"] if "read" in report else stages[0]["documents_in"] if stages else None
    if read is None:
        return
    at, before = read, "read"
    for stage in stages:
        if stage["documents_in"] != at:
            raise ValueError(
                f"the report does not add up: {before} gave {count(at)} documents, "
                f"{stage['name']} took {count(stage['documents_in'])}"
            )
        at, before = stage["documents_out"], stage["name"]
    if not report.get("kept"):
        return
    kept, dropped = kept_documents(report), dropped_documents(report)
    if read != kept + dropped:
        raise ValueError(
            f"the report does not add up: {count(read)} documents were read, but {count(kept)} kept and "
            f"{count(dropped)} dropped are {count(kept + dropped)}"
        )
    if stages and at != kept:
        raise ValueError(f"the report does not add up: {before} gave {count(at)} documents, but {count(kept)} are kept")


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Check the report and write it as `report.json` and `report.html`; each file is there whole or not at all.

    Raises:
        ValueError: where its counts do not add up; nothing is written then.
        DataError: where the folder cannot be written.
    """
    check(report)
    _write(folder / JSON_FILE, json.dumps(report, indent=1, sort_keys=True, allow_nan=False) + "\n")
    _write(folder / HTML_FILE, render(report))


def _write(path: Path, content: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {os.strerror(error.errno or 0)}; make room or grant access") from error
    finally:
        unfinished.unlink(missing_ok=True)


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print what is there as tables: within the terminal's columns, or as plain text where it is none."""
    Printer(console).all(report)


class Printer:
    """Tables on one console; names come from outside and are never read as markup."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.terminal = console.is_terminal
        self.columns = console.width if self.terminal else NO_TERMINAL
        self.wide = self.columns >= WIDE
        self.bars = self.terminal and self.wide and not console.options.ascii_only
        self.count: Callable[[int], str] = count if self.wide else partial(short_count, names=("M", "bn", "tn"))

    def all(self, report: dict[str, Any]) -> None:
        self.line(f"corpus report: {report.get('title', 'documents')}", style="bold")
        self.stages(report)
        self.totals(report)
        self.counted("dropped", "reason", report.get("dropped", {}), report.get("read", {}).get("documents"))
        self.duplicates(report.get("duplicates", {}))
        self.counted("languages", "language", report.get("languages", {}))
        if report.get("languages") and report.get("kept_languages"):
            self.line(f"languages kept: {', '.join(report['kept_languages'])}")
        self.sources(report.get("sources", {}))
        pii = largest_first(report.get("pii", {}), lambda number: number)
        self.table("personal data replaced", ["kind", "found"], [[kind, count(number)] for kind, number in pii])
        found = largest_first(report.get("contamination", {}), lambda benchmark: benchmark["documents"])
        rows = [[name, self.count(each["documents"]), self.count(each["spans"])] for name, each in found]
        self.table("benchmark contamination", ["benchmark", "documents", "spans"], rows)

    def line(self, text: str, style: str = "") -> None:
        self.console.print(Text(plain(text), style=style), soft_wrap=not self.terminal)

    def table(self, title: str, headers: Sequence[str], rows: Sequence[Sequence[RenderableType]]) -> None:
        """The first column is text, the others are numbers; more than ROWS rows are cut with a word about it."""
        if not rows:
            return
        style = box.SIMPLE_HEAD if self.terminal else None
        table = Table(box=style, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
        for number, name in enumerate(headers):
            if number:
                table.add_column(name, justify="right", no_wrap=True)
            else:
                table.add_column(name, overflow="fold", min_width=14)
        for row in rows[:ROWS]:
            table.add_row(*(Text(plain(cell)) if isinstance(cell, str) else cell for cell in row))
        self.line("")
        self.line(title, style="bold")
        if self.terminal:
            self.console.print(table, highlight=False)
        else:
            paper = Console(file=io.StringIO(), width=NO_TERMINAL, color_system=None)
            with paper.capture() as drawn:
                paper.print(table, highlight=False)
            for line in drawn.get().splitlines():
                self.line(line.rstrip())
        if len(rows) > ROWS:
            self.line(f"and {count(len(rows) - ROWS)} more in {JSON_FILE}")

    def stages(self, report: dict[str, Any]) -> None:
        rows = []
        for stage in report.get("stages", []):
            text_in, text_out = (size(stage[key]) for key in ("bytes_in", "bytes_out"))
            documents = [self.count(stage[key]) for key in ("documents_in", "documents_out")]
            kept = share(stage["documents_out"], stage["documents_in"])
            row = [stage["name"], *documents, kept, text_in, text_out, shown_rate(stage)]
            if self.wide:
                row += [
                    share(stage["bytes_out"], stage["bytes_in"]),
                    duration(stage["cpu_seconds"]) if "cpu_seconds" in stage else "–",
                ]
            rows.append(row)
        headers = ["stage", "docs in", "docs out", "kept", "text in", "text out", "MB/s/core"]
        self.table("stages", [*headers, *(("text kept", "CPU time") if self.wide else ())], rows)

    def totals(self, report: dict[str, Any]) -> None:
        self.line("")
        read = report.get("read")
        if read and report.get("kept"):
            kept, dropped = kept_documents(report), dropped_documents(report)
            self.line(f"{count(read['documents'])} read = {count(kept)} kept + {count(dropped)} dropped")
        if read and (others := other_records(read)):
            self.line(f"records that are no documents: {others}")
        if read and read.get("replaced"):
            self.line(f"{count(read['replaced'])} replacement characters put where the bytes were not UTF-8")
        if "lines" in report:
            self.line(f"{count(report['lines']['removed'])} lines cut out ({size(report['lines']['bytes'])})")
        sides = ", ".join(
            f"{name} {count(part['documents'])} documents ({size(part['bytes'])})"
            for name, part in splits(report).items()
        )
        if sides:
            by = f", split by {report['split']['by']}" if "split" in report else ""
            self.line(sides + by)
        if "seconds" in report:
            cpu = f", {duration(report['cpu_seconds'])} of CPU time" if "cpu_seconds" in report else ""
            self.line(f"{duration(report['seconds'])}{cpu}")

    def counted(self, title: str, noun: str, counts: dict[str, dict[str, Any]], whole: int | None = None) -> None:
        ordered = largest_first(counts, lambda item: item["documents"])
        whole = whole or sum(item["documents"] for _, item in ordered)
        full = max((item["documents"] for _, item in ordered), default=0)
        rows: list[list[RenderableType]] = []
        for name, item in ordered:
            documents = item["documents"]
            row: list[RenderableType] = [name, self.count(documents), share(documents, whole), size(item["bytes"])]
            rows.append([*row, Bar(max(1, full), 0, documents, width=BAR)] if self.bars else row)
        self.table(title, [noun, "documents", "share", "text", *([""] if self.bars else [])], rows)

    def duplicates(self, duplicates: dict[str, Any]) -> None:
        bins = size_bins(duplicates.get("cluster_sizes", {}))
        rows = [
            [str(first) if first == last else f"{first:,} to {last:,}", count(clusters)]
            for first, last, clusters in bins
            if clusters
        ]
        self.table("clusters of duplicates", ["documents", "clusters"], rows)
        if duplicates.get("largest"):
            largest = max(cluster["documents"] for cluster in duplicates["largest"])
            self.line(f"largest cluster: {count(largest)} documents")

    def sources(self, sources: dict[str, dict[str, Any]]) -> None:
        rows = [
            [
                name,
                self.count(source["documents"]),
                size(source["bytes"]),
                self.count(source["kept_documents"]),
                size(source["kept_bytes"]),
                f"{source.get('epochs', 1):g}",
            ]
            for name, source in largest_first(sources, lambda source: source["bytes"])
        ]
        headers = ["source", "docs read", "text read", "docs kept", "text kept", "epochs"]
        self.table("sources", headers, rows)
