import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.corpus.reading.readers import DocumentReader
from datamodules.corpus.reading.sources import Input
from datamodules.errors import DataError

MakeInput = Callable[[Path], Input]
PROSE = "A sentence of the article itself, long enough to be taken for what the page is about. " * 3
HTML = f"<html><body><nav>Home</nav><article><p>{PROSE}</p></article></body></html>".encode()


def record(kind: str, content: bytes, url: str = "http://a.example/", type_: str = "application/http") -> bytes:
    msgtype = f"; msgtype={kind}" if type_ == "application/http" else ""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2020-01-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\nContent-Type: {type_}{msgtype}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content + b"\r\n\r\n"


def response(body: bytes = HTML, status: int = 200, type_: str = "text/html", extra: str = "", **options: str) -> bytes:
    head = f"HTTP/1.1 {status} Yes\r\nContent-Type: {type_}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return record("response", head.encode() + body, **options)


def read(item: Input, **options: int) -> tuple[list[tuple[str, str]], dict[str, int]]:
    reader = DocumentReader([item], **options)
    pages = [
        (url, text)
        for batch in reader
        for url, text in zip(batch.column("url").to_pylist(), batch.column("text").to_pylist(), strict=True)
    ]
    counts = reader.counts
    assert counts.documents == len(pages)
    assert counts.records == counts.documents + sum(counts.not_documents.values())
    assert counts.bad_rows == 0
    return pages, counts.not_documents


def test_records_are_documents_or_counted_by_reason(tmp_path: Path, as_input: MakeInput) -> None:
    records = [
        record("warcinfo", b"software: test\r\n", type_="application/warc-fields"),
        record("request", b"GET / HTTP/1.1\r\n\r\n"),
        response(url="http://a.example/1"),
        response(type_="application/xhtml+xml; charset=utf-8", url="<http://a.example/2>"),
        response(
            "nur Text, größer".encode("latin-1"), type_="text/plain; charset=iso-8859-1", url="http://a.example/3"
        ),
        response(gzip.compress(HTML), extra="Content-Encoding: gzip\r\n", url="http://a.example/4"),
        response(status=404),
        response(b"\x89PNG", type_="image/png"),
        response(b""),
        response(b"<html><body></body></html>"),
        response(b"\x89PNG\0\0\0 called a page"),
        record("response", b"\x00\x01", type_="application/octet-stream"),
    ]
    reasons = {"warc_warcinfo": 1, "warc_request": 1, "http_status": 1, "not_html": 1, "empty": 1, "no_text": 1}
    reasons |= {"binary": 1}
    expected = [(f"http://a.example/{n}", "nur Text, größer" if n == 3 else PROSE.strip()) for n in (1, 2, 3, 4)]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    (tmp_path / "b.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    (tmp_path / "c.warc.gz").write_bytes(gzip.compress(b"".join(records)))
    for name in ("a.warc", "b.warc.gz", "c.warc.gz"):
        pages, counted = read(as_input(tmp_path / name))
        assert pages == expected
        assert counted == reasons | {"not_http": 1}


def test_conversions_of_a_wet_file(tmp_path: Path, as_input: MakeInput) -> None:
    data = b"".join(
        [
            record("warcinfo", b"software: test\r\n", type_="application/warc-fields"),
            record("conversion", "Zeile\nnoch eine – größere".encode(), "http://a.example/1", "text/plain"),
            record("conversion", b" \n", "http://a.example/2", "text/plain"),
        ]
    )
    (tmp_path / "a.warc.wet").write_bytes(data)
    (tmp_path / "a.wet.gz").write_bytes(gzip.compress(data))
    for name in ("a.warc.wet", "a.wet.gz"):
        pages, reasons = read(as_input(tmp_path / name))
        assert pages == [("http://a.example/1", "Zeile\nnoch eine – größere")]
        assert reasons == {"warc_warcinfo": 1, "empty": 1}


PAGES = [response(url=f"http://a.example/{number}") for number in range(10)]


@pytest.mark.parametrize("compressed", [False, True])
def test_reading_goes_on_behind_damage(tmp_path: Path, as_input: MakeInput, compressed: bool) -> None:
    parts = [gzip.compress(one) if compressed else one for one in PAGES]
    damaged = bytearray(b"".join(parts))
    start = sum(map(len, parts[:4]))
    damaged[start : start + 40] = b"\0" * 40
    path = tmp_path / ("a.warc.gz" if compressed else "a.warc")
    path.write_bytes(damaged)
    pages, reasons = read(as_input(path))
    assert [url[-1] for url, _ in pages] == list("012356789")
    assert reasons == {"damaged": 1}


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncation_keeps_the_records_before_it(tmp_path: Path, as_input: MakeInput, compressed: bool) -> None:
    parts = [gzip.compress(one) if compressed else one for one in PAGES[:3]]
    whole = b"".join(parts)
    path = tmp_path / ("a.warc.gz" if compressed else "a.warc")
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        pages, reasons = read(as_input(path))
        complete = sum(end >= sum(map(len, parts[:n])) for n in (1, 2, 3))
        assert complete <= len(pages) <= complete + 1  # the line ends behind a record may be missing
        assert set(reasons) <= {"damaged", "truncated"}
        assert sum(reasons.values()) <= 1


@pytest.mark.parametrize("data", [b"\0" * 5000, b"no archive at all\n" * 100, b"\x1f\x8b\x08" + b"x" * 100, HTML])
def test_what_is_no_archive_is_refused(tmp_path: Path, as_input: MakeInput, data: bytes) -> None:
    for name, content in (("a.warc", data), ("a.warc.gz", data), ("b.warc.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} is no web archive \(it holds no WARC record\); leave it out"):
            read(as_input(tmp_path / name))


def test_a_damaged_start_is_no_reason_to_refuse_the_rest(tmp_path: Path, as_input: MakeInput) -> None:
    (tmp_path / "a.warc").write_bytes(HTML + b"\n" + PAGES[0])
    assert [url for url, _ in read(as_input(tmp_path / "a.warc"))[0]] == ["http://a.example/0"]


@pytest.mark.parametrize("data", [b"", gzip.compress(b""), gzip.compress(PAGES[0])[:5], gzip.compress(PAGES[0])[:60]])
def test_an_archive_that_ends_before_its_first_record_does(tmp_path: Path, as_input: MakeInput, data: bytes) -> None:
    (tmp_path / "a.warc.gz").write_bytes(data)
    pages, reasons = read(as_input(tmp_path / "a.warc.gz"))
    assert pages == []
    assert set(reasons) <= {"damaged"}


def test_a_large_record_is_counted_and_not_read(tmp_path: Path, as_input: MakeInput) -> None:
    bomb = response(gzip.compress(b"<p>" + b"x" * 1_000_000), extra="Content-Encoding: gzip\r\n")
    (tmp_path / "a.warc").write_bytes(response(b"x" * 100_000) + bomb + PAGES[0])
    pages, reasons = read(as_input(tmp_path / "a.warc"), record_bytes=50_000)
    assert len(pages) == 1
    assert reasons == {"too_long": 2}


def test_real_archives(shared_data: Path, as_input: MakeInput) -> None:
    total = 0
    for path in sorted((shared_data / "warc").glob("*.warc.gz")):
        pages, reasons = read(as_input(path))
        total += len(pages)
        assert not set(reasons) & {"damaged", "truncated"}
        assert all(url.startswith("http") and text for url, text in pages)
    assert total > 30
    for path in sorted((shared_data / "warc" / "damaged").glob("*.warc*")):
        kept = {"example-digest.warc": 0, "example-resource.warc.gz": 0, "example-space-in-target-uri.warc.gz": 0}
        if path.suffix != ".bad":
            pages, reasons = read(as_input(path))
            assert len(pages) == kept.get(path.name, 0 if path.name == "post-test.warc.gz" else 1), (path.name, reasons)
