"""The report of a corpus: its counts add up, its page is safe and whole, and each part is shown only where it is."""

import base64
import copy
import hashlib
import itertools
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
from support.reports import Page, printed, sample, stage

from datamodules.corpus.reporting.html import render
from datamodules.corpus.reporting.report import check, write_report
from datamodules.corpus.reporting.texts import UNSEEN
from datamodules.errors import DataError

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)"> & \' \u202e\x00\x1b[31m \ud800 \u05e9\u05dc '
PARTS = [
    *("read", "stages", "dropped", "duplicates", "languages", "kept_languages", "sources", "pii", "contamination"),
    *("lines", "kept", "split", "settings", "seconds", "cpu_seconds", "made", "fingerprint", "title"),
]


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "title": "documents-74f831eebd805225",
        "made": "2026-11-22T19:30:00",
        "fingerprint": "74f831eebd805225",
        "settings": {"near": {"bands": 14, "rows": 8}, "note": EVIL},
        "read": {
            "inputs": 3,
            "documents": 10_000,
            "bytes": 12_345_678,
            "not_documents": {"not_json": 3},
            "replaced": 12,
        },
        "stages": [
            stage("read", (10_000, 10_000), (12_500_000, 12_345_678)),
            stage("quality", (10_000, 9_880), (12_345_678, 12_000_000)),
            stage("near_duplicate", (9_880, 9_000), (12_000_000, 11_000_000)),
        ],
        "dropped": {
            "gopher_quality.min_words": {"documents": 120, "bytes": 345_678, "samples": [sample(EVIL)]},
            "near_duplicate": {"documents": 880, "bytes": 1_000_000, "samples": [sample("again and again")]},
        },
        "duplicates": {
            "cluster_sizes": {"2": 130, "3": 20, "17": 1},
            "largest": [{"documents": 17, "kept": 1, "samples": [sample("seventeen times"), sample(EVIL)]}],
            "pairs": [
                {"jaccard": 0.8, "removed": sample("one red hen"), "kept": sample("one blue hen")},
                {"jaccard": 1.0, "removed": sample(EVIL), "kept": sample("x")},
            ],
        },
        "languages": {"en": {"documents": 9_990, "bytes": 12_000_000}, "de": {"documents": 10, "bytes": 345_678}},
        "kept_languages": ["en"],
        "sources": {
            "web": {"documents": 9_000, "bytes": 9, "kept_documents": 8_500, "kept_bytes": 6, "epochs": 1.0},
            EVIL: {"documents": 1_000, "bytes": 3, "kept_documents": 500, "kept_bytes": 1, "epochs": 2.0},
        },
        "pii": {"email": 12, "ip": 3, "phone": 3},
        "contamination": {"lambada": {"documents": 3, "spans": 7, "samples": [{"id": "1" * 32, "text": EVIL}]}},
        "lines": {"removed": 123, "bytes": 4_567},
        "kept": {
            "train": {"documents": 8_500, "bytes": 10_400_000},
            "validation": {"documents": 500, "bytes": 600_000},
        },
        "split": {"by": "documents", "asked": 0.05, "share_of_bytes": 0.049},
        "seconds": 12.3,
        "cpu_seconds": 20.1,
    }


def test_counts_that_add_up_pass(report: dict[str, Any]) -> None:
    check(report)
    check({})
    check({"read": {"documents": 3, "bytes": 1}})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda r: r["dropped"]["near_duplicate"].update(documents=879),
            "10,000 .* 9,000 kept .* 999 dropped",
        ),
        (lambda r: r["kept"]["train"].update(documents=8_501), "10,000 .* 9,001 kept .* 1,000 dropped .* 10,001"),
        (lambda r: r["read"].update(documents=10_001), "read gave 10,001 documents, read took 10,000"),
        (
            lambda r: r["stages"][1].update(documents_out=9_881),
            "quality gave 9,881 .* near_duplicate took 9,880",
        ),
        (lambda r: r["stages"][2].update(documents_out=9_001), "near_duplicate gave 9,001 .* 9,000 are kept"),
    ],
)
def test_counts_that_do_not_add_up_are_refused_with_the_numbers(
    report: dict[str, Any], change: Any, told: str, tmp_path: Path
) -> None:
    change(report)
    with pytest.raises(ValueError, match=told):
        check(report)
    with pytest.raises(ValueError, match="does not add up"):
        write_report(report, tmp_path)
    assert not list(tmp_path.iterdir())


def test_documents_cut_into_head_and_tail_are_kept_once(report: dict[str, Any]) -> None:
    report["kept"] = {"train": {"documents": 9_000, "bytes": 10}, "validation": {"documents": 8_990, "bytes": 1}}
    report["split"]["by"] = "tails"
    check(report)
    report["kept"]["documents"] = 8_999  # where it is said, it is what counts
    with pytest.raises(ValueError, match="8,999 kept"):
        check(report)


def test_both_files_are_written_whole_and_the_same_each_time(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert json.loads(first["report.json"]) == report
    turned = {key: report[key] for key in reversed(report)}
    for key in ("dropped", "languages", "sources", "pii"):
        turned[key] = {name: report[key][name] for name in reversed(report[key])}
    write_report(turned, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(report, tmp_path)
    before = (tmp_path / "report.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot write .*report\.json: No space left"):
        write_report(report | {"title": "another"}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert (tmp_path / "report.json").read_bytes() == before
    with pytest.raises(DataError, match=r"cannot write .*absent.*No such file"):
        write_report(report, tmp_path / "absent")


def test_the_page_needs_nothing_but_itself(report: dict[str, Any]) -> None:
    page = Page(render(report))
    assert not {tag for tag, _ in page.elements} & {
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "audio",
        "video",
    }
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "action", "data", "poster", "xlink:href"} & attributes.keys(), tag
        assert attributes.get("href", "#").startswith("#"), tag  # type: ignore[union-attr]
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "url(" not in (attributes.get("style") or "")
    code = "".join(page.code)
    assert not re.search(r"https?:|//\w+\.|url\(|@import|fetch\(|XMLHttpRequest", code)
    bare = render({key: value for key, value in report.items() if key in ("read", "stages", "pii", "languages")})
    assert "http:" not in bare
    assert "https:" not in bare
    assert "src=" not in bare


def test_only_the_pages_own_script_may_run(report: dict[str, Any]) -> None:
    page = render(report)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [m["content"] for m in Page(page).all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_texts_from_outside_can_neither_act_nor_hide(report: dict[str, Any]) -> None:
    page = render(report)
    page.encode()  # no half of a surrogate pair is left
    assert len(Page(page).all("script")) == 1
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6
    assert not UNSEEN.search(page)
    assert '<i class="unseen">U+202E</i>' in page
    assert '<i class="unseen">U+0000</i>' in page
    assert 'dir="auto"' in page
    for key in ("title", "made", "fingerprint"):
        Page(render(report | {key: EVIL}))
    report["dropped"] = {EVIL: {"documents": 1_000, "bytes": 1, "samples": [sample(EVIL, source=EVIL, id=EVIL)]}}
    report["stages"][0]["name"] = EVIL
    report["languages"] = {EVIL: {"documents": 1, "bytes": 1}}
    report["kept_languages"] = [EVIL]
    report["pii"] = {EVIL: 1}
    report["contamination"] = {EVIL: {"documents": 1, "spans": 1, "samples": [sample(EVIL)]}}
    report["read"]["bad"] = {EVIL: 1}
    report["split"]["by"] = EVIL
    assert len(Page(render(report)).all("script")) == 1
    assert not Page(render(report)).all("img")
    assert not UNSEEN.search(printed(report, 80))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_absent_is_not_shown(report: dict[str, Any], part: str) -> None:
    del report[part]
    if part != "dropped":  # without it nothing was dropped, and then the counts do not add up
        check(report)
    page = Page(render(report))
    ids = {attributes["id"] for attributes in page.all("h2")}
    assert part not in ids
    for width in (80, 120):
        assert printed(report, width)
    if part in ("pii", "languages", "sources", "contamination", "dropped"):
        name = {"pii": "credit|email", "languages": "language ", "sources": "docs read", "dropped": "reason"}
        assert not re.search(name.get(part, "lambada"), printed(report, 120))


def test_an_empty_report_and_one_of_nothing_read() -> None:
    Page(render({}))
    assert "corpus report" in printed({}, 80)
    empty = {"documents": 0, "bytes": 0}
    nothing = {
        "read": {"inputs": 0, **empty},
        "stages": [stage("read", (0, 0), (0, 0), cpu_seconds=0.0)],
        "dropped": {"empty": {**empty, "samples": []}},
        "duplicates": {"cluster_sizes": {}, "largest": [], "pairs": []},
        "sources": {"web": {**empty, "kept_documents": 0, "kept_bytes": 0}},
        "languages": {"en": dict(empty)},
        "pii": {"email": 0},
        "contamination": {"lambada": {"documents": 0, "spans": 0}},
        "kept": {"train": dict(empty)},
        "cpu_seconds": 0.0,
        "seconds": 0.0,
    }
    check(nothing)
    Page(render(nothing))
    printed(nothing, 80)


def test_headings_are_in_order_and_tables_have_headers(report: dict[str, Any]) -> None:
    page = Page(render(report))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 6
    targets = {attributes.get("id") for _, attributes in page.elements}
    assert all((attributes["href"] or "")[1:] in targets for attributes in page.all("a"))


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, section 1.4.3: of two colours #rrggbb, 1 to 21."""
    luminance = []
    for colour in (one, other):
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        luminance.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(luminance) + 0.05) / (min(luminance) + 0.05)


def test_colours_can_be_told_apart_by_day_and_by_night() -> None:
    schemes = re.findall(r":root \{(.*?)\}", render({}), re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colour = dict(re.findall(r"--([\w-]+): (#\w{6});", scheme))
        for ground in ("page", "panel"):
            assert all(contrast(colour[name], colour[ground]) >= 4.5 for name in ("ink", "soft", "link", "unseen"))
        assert contrast(colour["ink"], colour["mark"]) >= 4.5
        assert contrast(colour["bar"], colour["track"]) >= 3
        assert contrast(colour["bar"], colour["page"]) >= 3


def test_figures_stand_beside_the_bars(report: dict[str, Any]) -> None:
    page = render(report)
    assert "10,000 read = 9,000 kept + 1,000 dropped." in page
    assert re.search(r'title="11,000,000 bytes"><div><span class="figure">11.0 MB</span>.{0,80}width:88\.00%', page)
    assert re.search(r'<span class="figure">880</span>.{0,80}width:100\.00%', page)
    assert re.search(r'<span class="figure">120</span>.{0,80}width:13\.64%', page)
    assert "24.7</td>" in page  # MB/s per core: 12,345,678 bytes worked on in 0.5 s
    assert page.index("near_duplicate</code>") < page.index("gopher_quality.min_words</code>")
    assert "Records that are no documents: 3 not json." in page


def test_a_report_of_very_much_stays_below_400_kb() -> None:
    source = random.Random(0)
    many = [sample("".join(source.choices("<&é字 x", k=400)), bytes=1000) for _ in range(20)]
    report = {
        "dropped": {f"rule_{n}": {"documents": n, "bytes": n, "samples": many} for n in range(300)},
        "duplicates": {
            "cluster_sizes": {str(n): n for n in range(2, 3000)},
            "largest": [{"documents": n, "kept": 1, "samples": many} for n in range(100)],
            "pairs": [{"jaccard": 0.9, "removed": a, "kept": b} for a in many for b in many],
        },
        "languages": {f"l{n}": {"documents": n, "bytes": n} for n in range(200)},
        "sources": {
            f"crawl {'w' * 100} {n}": {"documents": n, "bytes": n, "kept_documents": n, "kept_bytes": n}
            for n in range(2000)
        },
        "pii": {f"kind{n}": n for n in range(200)},
        "contamination": {f"b{n}": {"documents": n, "spans": n, "samples": many} for n in range(200)},
        "settings": {"sources": [f"/data/file-{n}.jsonl" for n in range(100_000)]},
    }
    page = render(report)
    assert len(page.encode()) < 400_000
    assert "(261 others)" in page
    assert "1 sample of 20" in page  # each of the reasons that are shown has at least its first sample
    assert "and 280 more in report.json" in printed(report, 80)


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(report: dict[str, Any], width: int) -> None:
    lines = printed(report, width).splitlines()
    assert max(map(len, lines)) <= width
    (quality,) = [line for line in lines if line.startswith("quality")]
    assert quality.split()[:5] == ["quality", "10,000", "9,880", "98.8", "%"]
    assert "12.3 MB" in quality
    assert "12.0 MB" in quality
    assert "24.7" in quality
    assert ("0.50 s" in quality) == (width == 120)
    assert any("██" in line for line in lines) == (width == 120)


@pytest.mark.parametrize("width", [80, 120])
def test_numbers_of_a_crawl_fit_as_well(report: dict[str, Any], width: int) -> None:
    big = 123_456_789_012
    report["stages"] = [stage("near_duplicate", (big, big - 1), (10**14, 10**14 - 1), cpu_seconds=1e8)]
    line = next(line for line in printed(report, width).splitlines() if line.startswith("near_dup"))
    assert len(line.rstrip()) <= width
    assert ("123 bn" if width == 80 else "123,456,789,012") in line
    assert "> 99.9 %" in line
    assert width == 80 or line.rstrip().endswith("27,778 h")


def test_without_a_terminal_it_is_plain_text_of_whole_lines(report: dict[str, Any]) -> None:
    text = printed(report, 40, terminal=False)
    assert not re.search("[─━│█▏]", text)
    assert not UNSEEN.search(text)
    line = next(line for line in text.splitlines() if line.startswith("near_dup"))
    assert line.split() == [
        "near_duplicate",
        "9,880",
        "9,000",
        "91.1",
        "%",
        "12.0",
        "MB",
        "11.0",
        "MB",
        "24.0",
        "91.7",
        "%",
        "0.50",
        "s",
    ]
    assert "10,000 read = 9,000 kept + 1,000 dropped" in text


def test_names_are_not_read_as_markup(report: dict[str, Any]) -> None:
    report["pii"] = {"[red]kind[/]": 3}
    assert "[red]kind[/]" in printed(report, 80)


def test_rendering_does_not_change_the_report(report: dict[str, Any]) -> None:
    before = copy.deepcopy(report)
    render(report)
    printed(report, 80)
    assert report == before
