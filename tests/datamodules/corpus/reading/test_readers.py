import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.corpus.reading.readers import DocumentReader
from datamodules.corpus.reading.sources import Input, resolve
from datamodules.errors import DataError

MakeInput = Callable[[Path], Input]


def read(*inputs: Input, **options: Any) -> tuple[list[str], DocumentReader]:
    reader = DocumentReader(inputs, **options)
    return [text for batch in reader for text in batch.column("text").to_pylist()], reader


ROWS = ["first", "zweite – Zeile", 'third "quoted", with\nline end']


def write_rows(path: Path) -> None:
    lines = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(ROWS))
    match path.name.partition(".")[2]:
        case "jsonl" | "ndjson":
            path.write_text(lines)
        case "jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case "jsonl.zst":
            path.write_bytes(pa.Codec("zstd").compress(lines.encode(), asbytes=True))
        case "parquet":
            pq.write_table(pa.table({"id": range(3), "text": ROWS}), path)
        case "csv" | "tsv":
            with path.open("w", newline="") as file:
                writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
                writer.writerows([["id", "text"], *enumerate(ROWS)])


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.csv", "a.tsv"])
def test_a_row_is_a_document(tmp_path: Path, as_input: MakeInput, name: str) -> None:
    write_rows(tmp_path / name)
    texts, reader = read(as_input(tmp_path / name))
    assert texts == ROWS
    assert reader.counts.documents == 3
    assert reader.counts.bytes == sum(len(text.encode()) for text in ROWS)
    with pytest.raises(DataError, match=r"no field 'body', it has 'id', 'text'"):
        read(as_input(tmp_path / name), text_field="body")


def test_a_file_is_a_document_and_its_byte_order_mark_is_not_text(tmp_path: Path, as_input: MakeInput) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    (tmp_path / "b.md.gz").write_bytes(gzip.compress("drei ß".encode()) + gzip.compress(b" four"))
    texts, _ = read(as_input(tmp_path / "a.txt"), as_input(tmp_path / "b.md.gz"))
    assert texts == ["one\r\ntwo", "drei ß four"]


@pytest.mark.parametrize("text", ["line äöü €\n" * 500, "ohne Zeilenende €" * 500, "€" * 100 + "\n" + "x" * 999, ""])
def test_a_long_file_is_read_in_pieces_that_lose_nothing(tmp_path: Path, as_input: MakeInput, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    for piece_bytes in (64, 97, 4096, len(text.encode()) or 1):
        pieces, reader = read(as_input(tmp_path / "a.txt"), piece_bytes=piece_bytes)
        assert "".join(pieces) == text
        assert reader.counts.documents == len(pieces)
        assert reader.counts.replaced == 0
        if "\n" in text[:-1] and piece_bytes == 97:
            assert pieces[0].endswith("\n") or "\n" not in text[:97]


def test_ids_depend_on_source_shard_and_row_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "1"}\n{"text": "2"}\n')
    reader = DocumentReader(resolve(str(tmp_path)))
    ids = {name for batch in reader for name in batch.column("id").to_pylist()}
    assert len(ids) == 4
    shuffled = DocumentReader(resolve(str(tmp_path))[::-1])
    assert {name for batch in shuffled for name in batch.column("id").to_pylist()} == ids


def test_batches_are_bounded(tmp_path: Path, as_input: MakeInput) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "x" * 100}) + "\n" for _ in range(100)))
    batches = list(DocumentReader([as_input(tmp_path / "a.jsonl")], batch_bytes=1000))
    assert sum(len(batch) for batch in batches) == 100
    assert {len(batch) for batch in batches[:-1]} == {9}  # 1,000 bytes of lines, quotes and all


def test_invalid_utf8_is_replaced_and_counted_or_refused(tmp_path: Path, as_input: MakeInput) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one line\n" * 20 + b"gr\xfcn \xef\xbf\xbd\n" + b"line\n" * 20)
    texts, reader = read(as_input(path), piece_bytes=64)
    assert "".join(texts).count("\ufffd") == 2
    assert reader.counts.replaced == 1
    with pytest.raises(DataError, match=r"a\.txt is not valid UTF-8 at byte 182 \(invalid start byte\)"):
        read(as_input(path), piece_bytes=64, encoding_errors="strict")


def test_invalid_utf8_in_rows(tmp_path: Path, as_input: MakeInput) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"text": "gr\xfcn"}\n')
    texts, reader = read(as_input(path))
    assert texts == ["fine", "gr\ufffdn"]
    assert reader.counts.replaced == 1
    with pytest.raises(DataError, match=r"a\.jsonl line 2 is not valid UTF-8 at byte 12"):
        read(as_input(path), encoding_errors="strict")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF\x02\0\0\0", "looks binary .a NUL byte at byte 5."),
        ("dies ist kein UTF-8".encode("utf-16"), "looks binary"),
        ("Всё смешалось в доме".encode("cp1251"), "is not UTF-8 text"),
    ],
)
def test_a_binary_file_is_refused(tmp_path: Path, as_input: MakeInput, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(as_input(tmp_path / "a.txt"))


def bad_lines(path: Path, good: int, bad: int) -> None:
    path.write_text('{"text": "fine"}\n' * good + "{not json\n" * bad)


def test_bad_rows_are_counted_and_skipped_up_to_a_share(tmp_path: Path, as_input: MakeInput) -> None:
    path = tmp_path / "a.jsonl"
    bad_lines(path, 99, 1)
    texts, reader = read(as_input(path), max_bad_fraction=0.01)
    assert len(texts) == reader.counts.documents == 99
    assert reader.counts.bad_rows == 1
    bad_lines(path, 98, 2)
    with pytest.raises(
        DataError, match=r"a\.jsonl: 2 of the first 100 rows .* at line 99 \(not JSON: .*max_bad_fraction"
    ):
        read(as_input(path), max_bad_fraction=0.01)


def test_a_hopeless_file_stops_early(tmp_path: Path, as_input: MakeInput) -> None:
    bad_lines(tmp_path / "a.jsonl", 0, 5000)
    with pytest.raises(DataError, match="11 of the first 11 rows"):
        read(as_input(tmp_path / "a.jsonl"), max_bad_fraction=0.01)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[1, 2]", "not an object with fields but list"),
        ('{"text": 7}', "'text' is int, not text"),
        ('{"text": null}', "'text' is missing"),
        ('{"text": "\\ud800"}', "a lone surrogate"),
    ],
)
def test_rows_without_text_are_bad(tmp_path: Path, as_input: MakeInput, line: str, complaint: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    assert read(as_input(tmp_path / "a.jsonl"), max_bad_fraction=0.9)[1].counts.bad_rows == 1
    with pytest.raises(DataError, match=complaint):
        read(as_input(tmp_path / "a.jsonl"), max_bad_fraction=0.0)


def test_a_csv_row_of_another_width_is_bad(tmp_path: Path, as_input: MakeInput) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two,three\n")
    with pytest.raises(DataError, match=r"at line 3 \(3 columns instead of 2\)"):
        read(as_input(tmp_path / "a.csv"))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_damaged_file_is_named(tmp_path: Path, as_input: MakeInput, name: str) -> None:
    path = tmp_path / name
    write_rows(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=name):
        read(as_input(path), max_bad_fraction=0.99)
