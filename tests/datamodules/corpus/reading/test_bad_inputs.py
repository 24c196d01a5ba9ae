"""What users' files are really like: each is read, counted, or refused with one sentence that names the file."""

import contextlib
import gzip
import io
import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.corpus.curation import Curation
from datamodules.corpus.pipeline import Pipeline
from datamodules.corpus.reading.files import lines as lines_between
from datamodules.corpus.reading.planning import plan_shards
from datamodules.corpus.reading.readers import DocumentReader, ReadCounts
from datamodules.corpus.reading.sources import Input, resolve
from datamodules.corpus.shards import read_batches, shards_of
from datamodules.errors import DataError

MakeInput = Callable[[Path], Input]


def read(*inputs: Input, **options: Any) -> tuple[list[str], ReadCounts]:
    reader = DocumentReader(inputs, **options)
    texts = [text for batch in reader for text in batch.column("text").to_pylist()]
    counts = reader.counts
    assert counts.records == counts.documents + sum(counts.not_documents.values())
    assert counts.bad_rows <= sum(counts.not_documents.values())
    return texts, counts


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


LINES = lines(*({"text": f"{number} " + "x" * (number * 7919 % 100)} for number in range(500)))


def table_bytes(path: Path) -> bytes:
    table = pa.table({"text": [f"{number} " + "x" * (number * 7919 % 100) for number in range(500)]})
    match path.suffix:
        case ".parquet":
            pq.write_table(table, path, row_group_size=100)
        case ".feather":
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table, 100)
        case _:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, 100)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.txt.gz", "a.txt.zst", "a.csv.gz", "a.html.gz"])
def test_truncated_streams(tmp_path: Path, as_input: MakeInput, name: str) -> None:
    content = LINES if "csv" not in name else b"text\n" + LINES.replace(b'"', b"").replace(b",", b"")
    whole = gzip.compress(content) if name.endswith(".gz") else pa.Codec("zstd").compress(content, asbytes=True)
    for end in (len(whole) - 1, len(whole) // 2, 10):
        (tmp_path / name).write_bytes(whole[:end])
        with pytest.raises(DataError, match=rf"cannot read .*{name} \([^\n]+\); check the file[^\n]*$"):
            read(as_input(tmp_path / name), max_bad_fraction=0.99)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_truncated_and_damaged_tables(tmp_path: Path, as_input: MakeInput, name: str) -> None:
    path = tmp_path / name
    whole = table_bytes(path)
    message = rf"{name} is not a readable (parquet|Arrow) file \([^\n]+\); make it anew or leave it out$"
    for data in (whole[: len(whole) // 2], whole[:20], b"", b"no table" * 100):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            read(as_input(path))
        if name == "a.parquet" and len(data) > 100:
            with pytest.raises(DataError, match=message):
                plan_shards([as_input(path)], shard_bytes=100)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + b"\xff" * 200 + whole[middle + 200 :])
    with contextlib.suppress(DataError):  # no check sum, so it may go unseen; but nothing else may be raised
        read(as_input(path), max_bad_fraction=0.99)


@pytest.mark.parametrize("compressed", [False, True])
def test_one_endless_line_needs_little_memory(tmp_path: Path, as_input: MakeInput, compressed: bool) -> None:
    line = b"x" * 1_000_000
    opener: Any = gzip.open if compressed else open
    suffix = ".gz" if compressed else ""
    with opener(tmp_path / f"a.jsonl{suffix}", "wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(30):
            file.write(line)
        file.write(b'"}\n{"text": "behind"}\n')
    with opener(tmp_path / f"a.txt{suffix}", "wb") as file:
        for _ in range(30):
            file.write(line)
    tracemalloc.start()
    texts, counts = read(as_input(tmp_path / f"a.jsonl{suffix}"), record_bytes=2_000_000, max_bad_fraction=0.5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert texts == ["before", "behind"]
    assert counts.not_documents == {"line_too_long": 1}
    assert peak < 8e6
    texts, _ = read(as_input(tmp_path / f"a.txt{suffix}"), piece_bytes=2_000_000)
    assert [len(text) for text in texts] == [2_000_000] * 15
    with pytest.raises(DataError, match=r"line 2 \(longer than 2,000,000 bytes\)"):
        read(as_input(tmp_path / f"a.jsonl{suffix}"), record_bytes=2_000_000)


def test_the_ranges_over_an_endless_line_do_not_each_read_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 20_000_000 + b"\nlast\n")

    class Counting(io.BufferedReader):
        total = 0

        def readline(self, size: int | None = -1) -> bytes:
            line = super().readline(size)
            Counting.total += len(line)
            return line

    found = []
    with Counting(io.FileIO(path)) as file:
        for start in range(0, 20_000_006, 1_000_000):
            found += lines_between(file, path, 1000, start, min(start + 1_000_000, 20_000_006))
    assert found == [(0, None), (20_000_001, b"last\n")]
    assert Counting.total < 45_000_000  # a block past the end of each range; all of it 21 times would be 420 MB


def test_an_endless_line_of_csv(tmp_path: Path, as_input: MakeInput) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\none\n" + b"x" * 5000 + b"\ntwo\n")
    with pytest.raises(DataError, match=r"a\.csv line 3 is longer than 1,000 bytes; split it"):
        read(as_input(tmp_path / "a.csv"), record_bytes=1000)
    (tmp_path / "a.csv").write_bytes(b'text\none\n"never closed\n' + b"more\n" * 1000)
    with pytest.raises(DataError, match=r"a\.csv line 3 begins a row of over 1,000 bytes"):
        read(as_input(tmp_path / "a.csv"), record_bytes=1000)


@pytest.mark.parametrize("after", [0, 1, 500])
def test_a_quote_that_never_closes_does_not_swallow_rows(tmp_path: Path, as_input: MakeInput, after: int) -> None:
    closed = b'text,n\n"one\nstill one",1\n"two ""quoted""",2\n'
    (tmp_path / "a.csv").write_bytes(closed)
    assert read(as_input(tmp_path / "a.csv"))[0] == ["one\nstill one", 'two "quoted"']
    for end in (b'"open,3\n', b'"open,3', b'3,"open\n', b'"'):
        (tmp_path / "a.csv").write_bytes(closed + end + b"more,4\n" * after)
        with pytest.raises(
            DataError, match=r"a\.csv line 5 begins a row with a quote that never closes, so .*; mend it"
        ):
            read(as_input(tmp_path / "a.csv"), max_bad_fraction=0.99)


def test_what_stands_before_the_header_of_a_table(tmp_path: Path, as_input: MakeInput) -> None:
    for start in (b"\xef\xbb\xbf", b"\n\r\n", b"\xef\xbb\xbf\n", b""):
        for header in (b'"text","n"\r\n', b"text,n\r\n", b'n,"text"\r\n'):
            (tmp_path / "a.csv").write_bytes(start + header + b"one,one\r\n\r\ntwo,two\r\nbad\r\n")
            texts, counts = read(as_input(tmp_path / "a.csv"), max_bad_fraction=0.5)
            assert texts == ["one", "two"]
            assert counts.not_documents == {"column_count": 1}
            with pytest.raises(DataError, match=rf"at line {5 + start.count(10)} \(1 columns instead of 2\)"):
                read(as_input(tmp_path / "a.csv"))


def test_fields_are_named_in_one_short_sentence(tmp_path: Path, as_input: MakeInput) -> None:
    (tmp_path / "a.csv").write_text("x" * 1_000_000 + "".join(f",field {number}" for number in range(9999)) + "\n")
    (tmp_path / "a.jsonl").write_bytes(lines({"x" * 1_000_000: 1} | {f"field {number}": 1 for number in range(9999)}))
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(
            DataError, match=r"no field 'text', it has 'x{60}\.\.\.', 'field 0', .* and 9,980 more"
        ) as caught:
            read(as_input(tmp_path / name))
        assert len(str(caught.value)) < 1000


def test_mixed_types_and_missing_fields(tmp_path: Path, as_input: MakeInput) -> None:
    rows = [
        {"other": 1},
        {"text": "fine"},
        {"text": 7},
        {"text": None},
        ["text"],
        {"text": {"text": "x"}},
        {"text": ""},
    ]
    (tmp_path / "a.jsonl").write_bytes(lines(*rows) + b"[" * 100_000 + b"\n{\n\n")
    texts, counts = read(as_input(tmp_path / "a.jsonl"), max_bad_fraction=0.9)
    assert texts == ["fine", ""]
    assert counts.not_documents == {
        "missing_field": 1, "not_text": 2, "missing_text": 1, "not_an_object": 1, "not_json": 2
    }  # fmt: skip
    assert counts.bad_rows == 7
    with pytest.raises(DataError, match=r"line 1 \(no field 'text', it has 'other'\); set text_field to"):
        read(as_input(tmp_path / "a.jsonl"))


def test_nested_fields(tmp_path: Path, as_input: MakeInput) -> None:
    rows = [{"meta": {"text": "one", "n": 1}}, {"meta": {"text": "two", "n": 2}}]
    (tmp_path / "a.jsonl").write_bytes(lines(*rows, {"meta.text": "three"}, {"meta": "no object"}))
    texts, counts = read(as_input(tmp_path / "a.jsonl"), text_field="meta.text", max_bad_fraction=0.5)
    assert texts == ["one", "two", "three"]
    assert counts.not_documents == {"missing_field": 1}
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        assert read(as_input(tmp_path / name), text_field="meta.text")[0] == ["one", "two"]
        for missing in ("meta.body", "text.meta", "meta.text.deeper"):
            with pytest.raises(DataError, match=rf"{name} has no field '{missing}', it has 'meta'"):
                read(as_input(tmp_path / name), text_field=missing)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_columns_that_hold_no_text_or_invalid_text(tmp_path: Path, as_input: MakeInput, name: str) -> None:
    invalid = pa.StringArray.from_buffers(
        3, pa.py_buffer(b"\0\0\0\0\4\0\0\0\x08\0\0\0\x0c\0\0\0"), pa.py_buffer(b"finegr\xfcnlast")
    )
    table = pa.table({"text": invalid, "n": [1, 2, 3], "raw": [b"a", b"b", b"\xff"], "none": [None, "x", None]})
    if name == "a.parquet":
        pq.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(tmp_path / name, table.schema) as writer:
            writer.write_table(table)
    item = as_input(tmp_path / name)
    texts, counts = read(item)
    assert texts == ["fine", "gr\ufffdn", "last"]
    assert counts.replaced == 1
    with pytest.raises(DataError, match=rf"{name} at row 2.* is not valid UTF-8 at byte 2"):
        read(item, encoding_errors="strict")
    for field, kind in (("n", "int"), ("raw", "bytes")):
        with pytest.raises(DataError, match=rf"{name}: 3 of the first 3 rows .*row 1.*'{field}' is {kind}, not text"):
            read(item, text_field=field)
    assert read(item, text_field="none", max_bad_fraction=0.9)[1].not_documents == {"missing_text": 2}


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_two_columns_of_one_name(tmp_path: Path, as_input: MakeInput, name: str) -> None:
    inner = pa.StructArray.from_arrays([pa.array(["x"]), pa.array(["y"])], ["body", "body"])
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"]), pa.array(["fine"]), inner], [*"ttu", "meta"])
    if name == "a.parquet":
        pq.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(tmp_path / name, table.schema) as writer:
            writer.write_table(table)
    assert read(as_input(tmp_path / name), text_field="u")[0] == ["fine"]
    for field, wrong in (("t", "t"), ("meta.body", "body")):
        with pytest.raises(DataError, match=rf"{name} has 2 fields '{wrong}', and which is meant cannot be told; give"):
            read(as_input(tmp_path / name), text_field=field)


def test_ten_thousand_empty_documents_and_all_equal_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        lines({"text": ""}) * 10_000 + lines({"text": "the same text every time"}) * 10_000
    )
    source = [str(tmp_path / "a.jsonl")]
    with pytest.raises(DataError, match=r"duplicate removed 9,999 of 10,000 documents .* 'the same text every time'"):
        Pipeline(source, validation_fraction=0.0).prepare(tmp_path / "c")
    accepting = Curation(max_removed=1.0)
    artefact = Pipeline(source, validation_fraction=0.0, curation=accepting).prepare(tmp_path / "c")
    counts = artefact.manifest["counts"]
    assert counts["read"]["records"] == counts["read"]["documents"] == 20_000
    assert counts["dropped"] == {"empty": 10_000, "duplicate": 9_999}
    assert counts["kept"]["documents"] == 1


def test_odd_characters(tmp_path: Path, as_input: MakeInput) -> None:
    odd = [
        "NUL \0 in it",
        "עברית \u202eabc\u202c العربية",
        "zero\u200bwidth\u200d\ufeff",
        "\U0001f468\u200d\U0001f469",
        "\ufffe",
    ]
    (tmp_path / "a.jsonl").write_bytes(lines(*({"text": text} for text in odd), {"text": "lone \ud800"}))
    texts, counts = read(as_input(tmp_path / "a.jsonl"), max_bad_fraction=0.5)
    assert texts == odd
    assert counts.not_documents == {"lone_surrogate": 1}
    (tmp_path / "a.txt").write_bytes(b"x" * 8000 + b"\0" + "\u202eعربية\u200b".encode() + b"\xed\xa0\x80")
    texts, counts = read(as_input(tmp_path / "a.txt"))
    assert texts == ["x" * 8000 + "\0\u202eعربية\u200b\ufffd\ufffd\ufffd"]
    assert counts.replaced == 3


NAMES = [b"with spaces.txt", b"line\nend.txt", "größe-文.txt".encode(), "\u202ertl.txt".encode(), b"quote'\".txt"]


@pytest.mark.parametrize("name", [*NAMES, b"undecodable \xff\xfe.txt"])
def test_file_names(tmp_path: Path, name: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    path = folder / os.fsdecode(name)
    try:
        path.write_text("some text\n" * 50)
    except OSError:
        pytest.skip("this file system takes no such name")
    if sys.platform == "darwin":
        pytest.skip("names are normalised here")
    cache = tmp_path / "cache"
    artefact = Pipeline([str(folder)], validation_fraction=0.0).prepare(cache)
    (batch,) = read_batches(shards_of(artefact.folder, "train"))
    assert batch.column("text").to_pylist() == ["some text\n" * 50]
    assert Pipeline([str(folder)], validation_fraction=0.0).prepare(cache).reused
    (item,) = resolve(str(folder))
    assert item.name.isprintable()
    item.name.encode()
    path.unlink()
    with pytest.raises(DataError) as caught:
        read(item)
    assert str(caught.value).isprintable()
    str(caught.value).encode()


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()  # a folder under a file's name: refused by any user's rights
    with pytest.raises(DataError, match=r"cannot read .*a\.txt \(Is a directory\)"):
        read(Input("a.txt", "a.txt", "text", tmp_path / "a.txt"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv", "a.jsonl.gz", "a.parquet", "a.html", "a.warc"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        table_bytes(path)
    else:
        path.write_bytes({"a.jsonl.gz": gzip.compress(LINES), "a.warc": b""}.get(name, b"text\n" * 99))
    if name == "a.jsonl":
        path.write_bytes(LINES)
    (item,) = resolve(str(tmp_path))
    read(item)  # as long as it does not change, nothing is said
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(DataError, match=rf"{name} has changed while the corpus was read; run again when it no longer"):
        read(item)


def test_lines_that_are_cut_off_while_they_are_read_are_not_taken_for_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES * 20)
    for change, what in ((lambda: os.truncate(path, len(LINES)), "has changed"), (path.unlink, "was removed")):
        reader = DocumentReader(resolve(str(path)), batch_bytes=1000)
        next(reader)
        change()
        with pytest.raises(DataError, match=rf"a\.jsonl {what} while the corpus was read"):
            list(reader)


def test_a_byte_order_mark_before_json(tmp_path: Path, as_input: MakeInput) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines({"text": "one"}))
    assert read(as_input(tmp_path / "a.jsonl"))[0] == ["one"]
