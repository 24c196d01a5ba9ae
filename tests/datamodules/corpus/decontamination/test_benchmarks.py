import json
import os
from pathlib import Path

import pytest

from datamodules.corpus.decontamination.benchmarks import load_benchmark
from datamodules.errors import DataError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_string_of_every_row(tmp_path: Path) -> None:
    rows = [
        {"question": "q1", "choices": {"text": ["a", " b "], "label": [1, 2]}},
        {"question": "q2", "more": None},
        "bare",
    ]
    jsonl = write(tmp_path / "quiz.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    benchmark = load_benchmark(jsonl)
    assert (benchmark.name, benchmark.texts) == ("quiz", ("q1", "a", "b", "q2", "bare"))
    assert load_benchmark(write(tmp_path / "quiz.json", json.dumps(rows))).texts == benchmark.texts
    assert load_benchmark(jsonl, fields=["choices"]).texts == ("a", "b")
    assert load_benchmark(jsonl, name="other").name == "other"


def test_paragraphs_of_text_and_texts_once(tmp_path: Path) -> None:
    path = write(tmp_path / "passages.txt", "one\ntwo\n \nthree\n\n\none\ntwo\n")
    assert load_benchmark(path).texts == ("one\ntwo", "three")


def test_the_ending_may_be_in_capitals_and_one_object_is_one_row(tmp_path: Path) -> None:
    assert load_benchmark(write(tmp_path / "QUIZ.JSON", '{"question": "q"}')).texts == ("q",)


def test_a_line_of_jsonl_ends_at_a_newline_alone(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    path.write_text('{"question": "one\u2028two\u0085three"}\n{"question": "four"}\n', encoding="utf-8")
    assert load_benchmark(path).texts == ("one\u2028two\u0085three", "four")


def test_deep_nesting(tmp_path: Path) -> None:
    path = write(tmp_path / "deep.json", "[" * 900 + '"x"' + "]" * 900)
    assert load_benchmark(path).texts == ("x",)


@pytest.mark.parametrize(
    ("name", "text", "fields", "message"),
    [
        ("empty.jsonl", "", [], "holds no text"),
        ("empty.json", "", [], "holds no text"),
        ("blank.txt", " \n\n", [], "holds no text"),
        ("numbers.jsonl", '{"a": 1}\n', [], "holds no text"),
        ("bad.jsonl", '{"a": "x"}\n{"a": \n', [], "bad.jsonl, line 2: not JSON"),
        ("bad.json", '[\n"x",]', [], "bad.json, line 2: not JSON"),
        ("deep.json", "[" * 100_000, [], "deep.json, line 1: not JSON .nested too deep."),
        ("deep.jsonl", "[]\n" + "[" * 100_000 + "\n", [], "deep.jsonl, line 2: not JSON .nested too deep."),
        ("number.jsonl", "9" * 10_000, [], "number.jsonl, line 1: not JSON .*digits"),
        ("named.jsonl", '{"text": "x"}\n', ["question"], "no field 'question'; its rows have text"),
        ("table.csv", "a,b", [], "'.csv' is unknown"),
    ],
)
def test_one_sentence_says_what_is_wrong(tmp_path: Path, name: str, text: str, fields: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_benchmark(write(tmp_path / name, text), fields=fields)


def test_a_byte_order_mark_and_lone_surrogates_are_no_text(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json"):
        path = write(tmp_path / name, '\ufeff{"a": "lone \\ud800 one", "b": "pair \\ud83d\\ude00"}')
        assert load_benchmark(path).texts == ("lone ? one", "pair \U0001f600")
    assert load_benchmark(write(tmp_path / "a.txt", "\ufeffone")).texts == ("one",)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    for name in ("folder.txt", "pipe.txt"):
        with pytest.raises(DataError, match=f"{name} is no file but a folder, pipe or device"):
            load_benchmark(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        load_benchmark(tmp_path / "nowhere.jsonl")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="not UTF-8 at byte 3"):
        load_benchmark(tmp_path / "latin.txt")
