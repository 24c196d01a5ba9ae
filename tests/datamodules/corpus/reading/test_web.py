import builtins
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpus.reading.readers import DocumentReader
from datamodules.corpus.reading.sources import Input
from datamodules.corpus.reading.web import DEEPEST, page
from datamodules.errors import DataError

PROSE = "A sentence of the article itself, long enough to be taken for what the page is about. " * 3
PAGE = f"""<!doctype html><html><head><title>Heading</title><style>p {{}}</style></head><body><nav><a>Home</a></nav>
<header>Site</header><article><p>{PROSE}</p><p>Ünd noch €in Absatz.</p><img alt="a picture"></article>
<script>run()</script><footer>Imprint</footer></body></html>"""


def test_the_main_text_of_a_page() -> None:
    text = page(0, PAGE.encode()).text
    assert text is not None
    assert text.startswith("A sentence of the article itself")
    assert text.endswith("Ünd noch €in Absatz.")
    for word in ("Home", "Site", "Heading", "picture", "run", "Imprint"):
        assert word not in text


@pytest.mark.parametrize("name", ["a.html", "b.htm.gz"])
def test_a_file_is_a_page(tmp_path: Path, as_input: Callable[[Path], Input], name: str) -> None:
    data = PAGE.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    reader = DocumentReader([as_input(tmp_path / name)])
    (batch,) = reader
    assert batch.column("text")[0].as_py().startswith("A sentence")
    assert batch.column("url").null_count == 1
    assert reader.counts.records == reader.counts.documents == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "iso-8859-15"])
@pytest.mark.parametrize("how", ["server", "meta"])
def test_encodings(encoding: str, how: str) -> None:
    html = (
        PAGE if how == "server" else PAGE.replace("<head>", f'<head><meta charset="{encoding.removesuffix("-sig")}">')
    )
    charset = encoding if how == "server" and not encoding.startswith("utf-8") else None
    record = page(0, html.encode(encoding), charset)
    assert record.text is not None
    assert record.text.endswith("Ünd noch €in Absatz.")
    assert record.replaced == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\0\0\0", "binary"),
        (b"PK\3\4\x14\0 <p> in some other file", "binary"),
        (b"<html><body><img src=a></body></html>", "no_text"),
        (b"<html><body>" + b"<div>" * (DEEPEST + 50) + b"deep", "too_deep"),
        (b"<html><body>" + b"</x><div>" * 25_000 + b"deep", "too_deep"),
    ],
)
def test_pages_that_are_no_documents(data: bytes, reason: str) -> None:
    record = page(0, data)
    assert (record.text, record.reason, record.complaint) == (None, reason, None)


@pytest.mark.parametrize(
    "body", ["<div>" * (DEEPEST // 2), "<br>" * 5000, "<p>line" * 30_000, "<li><b>x</b>" * 5000, "\0<\0>" * 99, "<" * 9]
)
def test_odd_pages_are_read_and_soon(body: str) -> None:
    start = time.process_time()
    record = page(0, f"<html><body><article>{PROSE}{body}".encode())
    assert record.text is not None
    assert PROSE.strip()[:60] in record.text
    assert time.process_time() - start < 3


def test_a_huge_page_is_counted(tmp_path: Path, as_input: Callable[[Path], Input]) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    reader = DocumentReader([as_input(tmp_path / "a.html")], record_bytes=100)
    assert list(reader) == []
    assert reader.counts.not_documents == {"too_long": 1}
    assert reader.counts.records == 1
    assert reader.counts.bad_rows == 0


def test_a_file_that_is_no_page_is_refused(tmp_path: Path, as_input: Callable[[Path], Input]) -> None:
    (tmp_path / "a.html").write_bytes(gzip.compress(PAGE.encode(), mtime=0))
    with pytest.raises(DataError, match=r"a\.html looks binary \(a NUL byte at byte 3\), not like a web page; leave"):
        list(DocumentReader([as_input(tmp_path / "a.html")]))


def test_what_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("resiliparse"):
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install 'labyrinth-llm\[html\]'"):
        page(0, PAGE.encode())


def test_quality_on_the_article_benchmark(shared_data: Path) -> None:
    """F1 of the words of each page as multisets, in the mean over the pages."""
    truth = json.loads((shared_data / "html" / "ground-truth.json").read_text())
    scores = []
    for name, expected in truth.items():
        record = page(0, gzip.decompress((shared_data / "html" / f"{name}.html.gz").read_bytes()))
        got, wanted = (Counter(re.findall(r"\w+", text)) for text in (record.text or "", expected["articleBody"]))
        scores.append(2 * (got & wanted).total() / (got.total() + wanted.total()))
    assert len(scores) == 25
    assert sum(scores) / 25 > 0.90
