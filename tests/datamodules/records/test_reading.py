"""Records of every format and form, and the place of each that is wrong."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.errors import DataError
from datamodules.records.conversations import conversation_of
from datamodules.records.pairs import judged_of
from datamodules.records.reading import read_rows

ROWS = [{"instruction": f"say {n}", "output": f'"{n}", then\na new line'} for n in range(5)]


def write(folder: Path, name: str) -> Path:
    path = folder / name
    table = pa.Table.from_pylist(ROWS)
    if name.endswith(".json"):
        path.write_text(json.dumps(ROWS, indent=2))
    elif name.endswith(".lines.json") or ".jsonl" in name:
        text = "\n".join(map(json.dumps, ROWS))
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else b"\xef\xbb\xbf" + text.encode())
    elif name.endswith((".csv", ".tsv")):
        mark = "\t" if name.endswith("tsv") else ","
        quoted = ['"' + row["output"].replace('"', '""') + '"' for row in ROWS]
        lines = [mark.join([row["instruction"], text]) for row, text in zip(ROWS, quoted, strict=True)]
        path.write_text("\n".join([mark.join(["instruction", "output"]), *lines]) + "\n")
    elif name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=2)
    else:
        make = pa.ipc.new_file if "file" in name else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize(
    "name", ["a.json", "a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv", "a.parquet", "file.arrow", "stream.arrow"]
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str):
    assert [row.fields for row in read_rows(str(write(tmp_path, name)))] == ROWS


def test_lines_in_a_file_called_json(tmp_path: Path):
    (tmp_path / "a.json").write_text("\n".join(map(json.dumps, ROWS)))
    assert [row.fields for row in read_rows(str(tmp_path / "a.json"))] == ROWS


def test_folders_globs_and_saved_data_sets(tmp_path: Path):
    write(tmp_path, "a.jsonl")
    write(tmp_path, "b.csv")
    assert len(list(read_rows(str(tmp_path)))) == 10
    assert len(list(read_rows([str(tmp_path / "*.csv"), str(tmp_path / "a.jsonl")]))) == 10
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    rows = list(read_rows(f"hf:{tmp_path / 'saved'}"))
    assert [row.fields for row in rows] == ROWS
    assert rows[2].place().endswith("row 3")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.json", '[\n {"a": 1},\n {\n  "a": 2\n }, {"a": 3}\n]', ["line 2", "line 3", "line 5"]),
        ("a.jsonl", '{"a": 1}\n\n{"a": 2}\n', ["line 1", "line 3"]),
        ("a.csv", 'a,b\n1,"x\ny"\n2,z\n', ["line 2", "line 4"]),
    ],
)
def test_each_row_knows_its_line(tmp_path: Path, name: str, content: str, place: list[str]):
    (tmp_path / name).write_text(content)
    assert [row.place() for row in read_rows(str(tmp_path / name))] == [f"{tmp_path / name} {line}" for line in place]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', r"a.jsonl line 2 is not JSON"),
        ("a.json", b'[{"a": 1}, ', r"a.json is not JSON"),
        ("a.json", b"[1]", r"a.json line 1 is no object with keys but int"),
        ("a.jsonl", b'{"a": "\xff"}', r"a.jsonl is not valid UTF-8 at byte 7"),
        ("a.csv", b"a,b\n1,2,3\n", r"a.csv line 2 has 3 columns, and the header 2"),
        ("a.csv", b'a,b\n1,"2\n', r"a.csv line 2 is not a row"),
        ("a.parquet", b"PAR1", r"cannot read .*a.parquet"),
        ("a.jsonl.gz", b"not gzip", r"cannot read .*a.jsonl.gz"),
        ("a.txt", b"text", r"a.txt has an unknown extension"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: bytes, told: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        list(read_rows(str(tmp_path / name)))


def test_a_tsv_with_quotes_or_without(tmp_path: Path):
    (tmp_path / "plain.tsv").write_text('a\tb\r\nham\t"Hi" she said\nspam\t"never closed\n')
    assert [tuple(row.fields.values()) for row in read_rows(str(tmp_path / "plain.tsv"))] == [
        ("ham", '"Hi" she said'),
        ("spam", '"never closed'),
    ]
    (tmp_path / "quoted.tsv").write_text('a\tb\nham\t"two\nlines, ""quoted"""\n')
    assert [row.fields["b"] for row in read_rows(str(tmp_path / "quoted.tsv"))] == ['two\nlines, "quoted"']
    (tmp_path / "wrong.tsv").write_text('a\tb\nham\t"x" y\n1\n')
    with pytest.raises(DataError, match=r"wrong.tsv line 2 is not a row"):
        list(read_rows(str(tmp_path / "wrong.tsv")))


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_columns_of_a_table_without_a_header(tmp_path: Path, name: str, separator: str):
    (tmp_path / name).write_text(f"ham{separator}one\nspam{separator}two\n")
    rows = list(read_rows(str(tmp_path / name), columns=["label", "text"]))
    assert [row.fields for row in rows] == [{"label": "ham", "text": "one"}, {"label": "spam", "text": "two"}]
    assert rows[0].place().endswith("line 1")
    with pytest.raises(DataError, match=r"line 1 has 2 columns, and 3 are named; mend it there"):
        list(read_rows(str(tmp_path / name), columns=["label", "text", "date"]))


def test_sms_spam_is_read_whole(tmp_path: Path, shared_data: Path):
    messages = (shared_data / "sms-spam" / "SMSSpamCollection").read_bytes()
    (tmp_path / "sms.tsv").write_bytes(messages)
    rows = list(read_rows(str(tmp_path / "sms.tsv"), columns=["label", "text"]))
    assert [f"{row.fields['label']}\t{row.fields['text']}" for row in rows] == messages.decode().splitlines()


def test_a_table_leaves_the_tables_of_others_readable(tmp_path: Path):
    (tmp_path / "long.csv").write_text("a\n" + "x" * 200_000 + "\n")
    (tmp_path / "short.csv").write_text("a\n1\n")
    assert len(list(read_rows([str(tmp_path / "long.csv"), str(tmp_path / "short.csv")]))) == 2
    assert list(csv.reader(["y" * 200_000])) == [["y" * 200_000]]


def test_a_source_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"there is no file '.*none.jsonl' with records"):
        list(read_rows(str(tmp_path / "none.jsonl")))


TURNS = [("user", "a"), ("assistant", "b")]


@pytest.mark.parametrize(
    ("record", "turns"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, TURNS),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, TURNS),
        ({"prompt": "a", "completion": "b"}, TURNS),
        ({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}, TURNS),
        ({"prompt": "a", "response": "b", "system": "s"}, [("system", "s"), *TURNS]),
        ({"instruction": "a", "output": "b"}, TURNS),
        ({"instruction": "a", "input": "x", "output": "b"}, [("user", "a\n\nx"), ("assistant", "b")]),
        ({"instruction": "a", "input": "", "output": "b"}, TURNS),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a"}]},
                    {"role": "assistant", "content": "b"},
                ]
            },
            TURNS,
        ),
    ],
)
def test_every_form_of_a_conversation(record: dict[str, Any], turns: list[tuple[str, str]]):
    assert [tuple(message) for message in conversation_of(record)] == turns


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"text": "a", "id": 1}, r"has the keys 'text', 'id'; expected were messages; conversations; prompt and compl"),
        ({"messages": "a"}, "'messages' is str, not a list of messages"),
        ({"messages": [{"role": "user"}]}, r"message 1 of 'messages' has the keys 'role'; expected were role and cont"),
        ({"messages": [{"role": "user", "content": 3}]}, r"'messages\[0\]' is int, not a text"),
        ({"prompt": "a", "completion": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_what_is_no_conversation_tells_what_was_expected(record: dict[str, Any], told: str):
    with pytest.raises(DataError, match=told):
        conversation_of(record)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "p", "chosen": "c", "rejected": "r"},
        {"instruction": "p", "chosen": "c", "rejected": "r", "output": "c"},
        {
            side: [{"role": "user", "content": "p"}, {"role": "assistant", "content": text}]
            for side, text in (("chosen", "c"), ("rejected", "r"))
        },
        {
            "prompt": "p",
            "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}],
            "rejected": [{"role": "assistant", "content": "r"}],
        },
    ],
)
def test_every_form_of_a_pair(record: dict[str, Any]):
    prompt, chosen, rejected = judged_of(record)
    assert [turn.content for side in (prompt, chosen, rejected) for turn in side or ()] == ["p", "c", "r"]


def test_single_answers():
    for label, side in ((True, 1), ("false", 2), (1, 1)):
        judged = judged_of({"prompt": "p", "completion": "c", "label": label})
        assert judged[side] is not None
        assert judged[3 - side] is None
