"""The corpus report as one page of HTML: no network, no other file, complete without JavaScript."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

from datamodules.corpus.reporting.charts import Cell, table
from datamodules.corpus.reporting.duplicates_section import duplicates_section
from datamodules.corpus.reporting.numbers import (
    count,
    dropped_documents,
    duration,
    kept_documents,
    largest_first,
    numbered,
    other_records,
    share,
    short_count,
    shown_rate,
    size,
    splits,
)
from datamodules.corpus.reporting.texts import Budget, escaped, group, sample_block, shown, unit

FOLDER = Path(__file__).parent
ROWS = 40  # of a table; what is beyond is summed up in one row
# Bytes of HTML for samples; with those of report_duplicates.py and at most ROWS rows a table, below 400 kB in all.
DROPPED_BUDGET, SPANS_BUDGET = 120_000, 20_000
SETTINGS_SHOWN = 20_000  # characters
UNIT = re.compile(r"(?<=\d) (?=%|[kMGTP]B|bytes|s\b|min\b|h\b)")  # the space between a number and its unit

FOOTER = """<footer class="note"><p>
Units are decimal: 1 kB is 1,000 bytes, 1 MB is 1,000,000 bytes. Bytes are those of the
text in UTF-8. Bars start at 0, except on the scale that is said to be logarithmic. Samples are shown as they were read,
before anything was replaced in them: they may hold personal data, or text that offends. Everything is in report.json
as well.</p></footer>"""

Report = dict[str, Any]


def render(report: Report) -> str:
    """The page. Each part of the report that is there becomes a section; equal reports give equal pages."""
    sections = [(title, name, text) for title, name, draw in SECTIONS if (text := draw(report))]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for title, name, _ in sections)
    body = [
        _head(report),
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>' if links else "",
        "<main>",
        *(
            f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{text}</section>'
            for title, name, text in sections
        ),
        "</main>",
        FOOTER,
    ]
    script = (FOLDER / "filter.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = Template((FOLDER / "template.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escaped(_title(report)), body="\n".join(body), script=script, script_digest=f"sha256-{digest}"
    )


def _title(report: Report) -> str:
    return str(report.get("title", "documents"))


def _head(report: Report) -> str:
    facts = [f"made {escaped(report['made'])}"] if "made" in report else []
    if "fingerprint" in report:
        facts.append(f"fingerprint <code>{escaped(report['fingerprint'])}</code>")
    figures: list[tuple[str, str, str]] = []  # name, large, note
    read = report.get("read")
    if read:
        inputs = f" from {count(read['inputs'])} inputs" if "inputs" in read else ""
        figures.append(("Read", short_count(read["documents"]), f"documents, {size(read['bytes'])}{inputs}"))
    if read and report.get("kept"):
        documents, text = kept_documents(report), sum(part["bytes"] for part in splits(report).values())
        note = f"{share(documents, read['documents'])} of the documents, {share(text, read['bytes'])} of the bytes"
        figures.append(("Kept", short_count(documents), f"documents, {size(text)}: {note}"))
    if read and "dropped" in report:
        dropped = dropped_documents(report)
        note = (
            f"documents, {share(dropped, read['documents'])} of those read, for {numbered(report['dropped'], 'reason')}"
        )
        figures.append(("Dropped", short_count(dropped), note))
    split = report.get("split", {})
    for name, part in splits(report).items():
        note = f"{short_count(part['documents'])} documents"
        if name == "validation" and "share_of_bytes" in split:
            asked = f"; {100 * split['asked']:g} % asked for" if split.get("asked") else ""
            note += f"; {share(split['share_of_bytes'], 1)} of the bytes{asked}, split by {escaped(split['by'])}"
        figures.append((name.capitalize(), size(part["bytes"]), note))
    if "seconds" in report:
        note = f"{duration(report['cpu_seconds'])} of CPU time" if "cpu_seconds" in report else ""
        if read and report.get("cpu_seconds"):
            note += f"; {read['bytes'] / report['cpu_seconds'] / 1e6:.2f} MB/s per core"
        figures.append(("Time", duration(report["seconds"]), note))
    cards = "".join(
        f'<div><dt>{name}</dt><dd><span class="large">{large}</span><br>'
        f'<span class="note">{UNIT.sub("&nbsp;", note)}</span></dd></div>'
        for name, large, note in figures
    )
    return (
        f'<header><h1>Corpus report: <bdi>{escaped(_title(report))}</bdi></h1><p class="note">{" · ".join(facts)}</p>'
        f'<dl class="figures">{cards}</dl>{_sum(report)}{_lines(report)}</header>'
    )


def _sum(report: Report) -> str:
    if "read" not in report or not report.get("kept"):
        return ""
    kept, dropped, read = kept_documents(report), dropped_documents(report), report["read"]
    text = f'<p class="sum">{count(read["documents"])} read = {count(kept)} kept + {count(dropped)} dropped.</p>'
    if others := other_records(read):
        text += f"<p>Records that are no documents: {escaped(others)}.</p>"
    if replaced := read.get("replaced"):
        text += f"<p>{count(replaced)} replacement characters were put where the bytes were not UTF-8.</p>"
    return text


def _lines(report: Report) -> str:
    if "lines" not in report:
        return ""
    lines = report["lines"]
    return f"<p>{count(lines['removed'])} lines ({size(lines['bytes'])}) were cut out of documents.</p>"


def _stages(report: Report) -> str:
    stages = report.get("stages", [])
    if not stages:
        return ""
    documents = max(1, *(max(stage["documents_in"], stage["documents_out"]) for stage in stages))
    text = max(1, *(max(stage["bytes_in"], stage["bytes_out"]) for stage in stages))
    rows = [
        (
            stage["name"],
            [
                _bar(stage["documents_out"], documents),
                Cell(share(stage["documents_out"], stage["documents_in"])),
                Cell(size(stage["bytes_out"]), f"{count(stage['bytes_out'])} bytes", stage["bytes_out"] / text),
                Cell(share(stage["bytes_out"], stage["bytes_in"])),
                Cell(duration(stage["cpu_seconds"]) if "cpu_seconds" in stage else "–"),
                Cell(shown_rate(stage)),
            ],
        )
        for stage in stages
    ]
    start = [
        Cell(count(stages[0]["documents_in"]), part=stages[0]["documents_in"] / documents),
        Cell(""),
        Cell(size(stages[0]["bytes_in"]), f"{count(stages[0]['bytes_in'])} bytes", stages[0]["bytes_in"] / text),
        *[Cell("")] * 3,
    ]
    headers = ["Stage", "Documents left", "of those in", "Text left", "of that in", "CPU time", "MB/s per core"]
    caption = (
        f"What is left after each stage. A full bar is {count(documents)} documents, or {size(text)} of text. "
        "MB/s per core is the text that the stage worked on over its CPU time (near-duplicates and matches with "
        "benchmarks are looked for in all that was read)."
    )
    return table(caption, headers, [("(input)", start), *rows])


def _dropped(report: Report) -> str:
    dropped = report.get("dropped", {})
    if not dropped:
        return ""
    read = report.get("read", {}).get("documents") or dropped_documents(report)
    rows = _counted(dropped, read, "documents read")
    return f'<div class="mono">{rows}</div>{_dropped_samples(dropped)}'


def _dropped_samples(dropped: dict[str, Any]) -> str:
    ordered = largest_first(dropped, lambda reason: reason["documents"])
    blocks: dict[str, list[str]] = {name: [] for name, _ in ordered}
    budget = Budget(DROPPED_BUDGET)
    # The first sample of every reason, then the second of every reason: so each reason has its share of the page.
    for turn in range(max(len(reason.get("samples", [])) for _, reason in ordered)):
        for name, reason in ordered:
            if turn < len(samples := reason.get("samples", [])):
                block = unit(sample_block(samples[turn]))
                if len(blocks[name]) == turn and budget.take(block):
                    blocks[name].append(block)
    groups = [
        group(
            f"<code>{escaped(name)}</code>",
            f"{count(reason['documents'])} documents, {size(reason['bytes'])}",
            blocks[name],
            len(reason.get("samples", [])),
        )
        for name, reason in ordered
        if blocks[name]
    ]
    if not groups:
        return ""
    search = (
        '<div class="filter" id="filter" role="search" hidden><label for="wanted">Only samples with</label> '
        '<input id="wanted" type="search"> <output aria-live="polite"></output></div>'
    )
    return f"<h3>Samples of what was dropped</h3>{search}{''.join(groups)}"


def _languages(report: Report) -> str:
    languages = report.get("languages", {})
    if not languages:
        return ""
    kept = report.get("kept_languages")
    note = "" if not kept else f"<p>Kept: {', '.join(escaped(name) for name in kept)}.</p>"
    return note + _counted(languages, sum(language["documents"] for language in languages.values()), "documents")


def _counted(counts: dict[str, dict[str, Any]], whole: int, of: str) -> str:
    """A table of documents and bytes by name, the most documents first."""
    rows = largest_first(counts, lambda item: item["documents"])
    if len(rows) > ROWS:
        rest = [item for _, item in rows[ROWS - 1 :]]
        total = {key: sum(item[key] for item in rest) for key in ("documents", "bytes")}
        rows = [*rows[: ROWS - 1], (f"({len(rest):,} others)", total)]
    full = max(1, *(item["documents"] for _, item in rows))
    lines = [
        (
            name,
            [
                _bar(item["documents"], full),
                Cell(share(item["documents"], whole)),
                Cell(size(item["bytes"]), f"{count(item['bytes'])} bytes"),
            ],
        )
        for name, item in rows
    ]
    return table(f"A full bar is {count(full)} documents.", ["Name", "Documents", f"Share of {of}", "Text"], lines)


def _sources(report: Report) -> str:
    sources = report.get("sources", {})
    if not sources:
        return ""
    final = sum(_seen(source) for source in sources.values())
    ordered = largest_first(sources, lambda source: source["bytes"])
    rows = [
        (
            name,
            [
                Cell(count(source["documents"])),
                Cell(size(source["bytes"]), f"{count(source['bytes'])} bytes"),
                Cell(count(source["kept_documents"])),
                Cell(size(source["kept_bytes"]), f"{count(source['kept_bytes'])} bytes"),
                Cell(share(source["kept_bytes"], source["bytes"])),
                Cell(f"{source.get('epochs', 1):g}"),
                Cell(share(_seen(source), final), part=_seen(source) / final if final else 0),
            ],
        )
        for name, source in ordered[:ROWS]
    ]
    caption = "Share of the corpus: kept bytes times epochs, over the same of all sources. A full bar is all of it."
    if len(ordered) > ROWS:
        caption += f" The {ROWS} largest of {count(len(ordered))} sources; the others are in report.json."
    headers = ["Source", "Documents read", "Text read", "Documents kept", "Text kept", "of the text", "Epochs"]
    return table(caption, [*headers, "Share of the corpus"], rows)


def _seen(source: dict[str, Any]) -> float:
    return float(source["kept_bytes"] * source.get("epochs", 1))


def _pii(report: Report) -> str:
    found = report.get("pii", {})
    if not found:
        return ""
    full = max(1, *found.values())
    rows = [(kind, [_bar(number, full)]) for kind, number in largest_first(found, lambda n: n)]
    return table(f"Occurrences. A full bar is {count(full)}.", ["Kind", "Replaced by a placeholder"], rows[:ROWS])


def _contamination(report: Report) -> str:
    found = report.get("contamination", {})
    if not found:
        return ""
    ordered = largest_first(found, lambda benchmark: benchmark["documents"])[:ROWS]
    full = max(1, *(benchmark["documents"] for _, benchmark in ordered))
    rows = [(name, [_bar(each["documents"], full), Cell(count(each["spans"]))]) for name, each in ordered]
    caption = f"Documents that hold text of a benchmark. A full bar is {count(full)} documents."
    budget = Budget(SPANS_BUDGET)
    groups = []
    for name, benchmark in ordered:
        samples = benchmark.get("samples", [])
        blocks = budget.within(unit(sample_block(sample)) for sample in samples)
        if blocks:
            note = f"{count(benchmark['spans'])} matched spans"
            groups.append(group(f"<bdi>{escaped(name)}</bdi>", note, blocks, len(samples)))
    heading = "<h3>Matched spans</h3>" if groups else ""
    return table(caption, ["Benchmark", "Documents", "Matched spans"], rows) + heading + "".join(groups)


def _settings(report: Report) -> str:
    if "settings" not in report:
        return ""
    text = json.dumps(report["settings"], indent=2, sort_keys=True, ensure_ascii=False)
    more = "\n… the rest is in report.json" if len(text) > SETTINGS_SHOWN else ""
    return f"<details><summary>All settings</summary><pre>{shown(text[:SETTINGS_SHOWN])}{more}</pre></details>"


def _bar(number: int, full: int) -> Cell:
    return Cell(count(number), part=number / full)


SECTIONS: list[tuple[str, str, Callable[[Report], str]]] = [
    ("Stages", "stages", _stages),
    ("What was dropped, and why", "dropped", _dropped),
    ("Duplicates", "duplicates", duplicates_section),
    ("Languages", "languages", _languages),
    ("Sources", "sources", _sources),
    ("Personal data", "pii", _pii),
    ("Benchmark contamination", "contamination", _contamination),
    ("Settings", "settings", _settings),
]
