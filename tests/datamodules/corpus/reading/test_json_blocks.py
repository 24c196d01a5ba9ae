"""Lines of JSON parsed at once are what they are one by one, or are not parsed at once."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules.corpus.reading import rows
from datamodules.corpus.reading.json_blocks import MOST_BRACKETS, Block, parse_block
from datamodules.corpus.reading.records import ReadOptions

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.sampled_from(["text", "b", "te.xt", ""]), values, max_size=3)
good = st.builds(lambda text, rest: {**rest, "text": text}, st.text(max_size=30), objects)
good_lines = st.builds(json.dumps, good, ensure_ascii=st.booleans()).map(lambda line: line.encode(errors="replace"))
odd_lines = st.sampled_from(
    [
        b"",
        b"  \t",
        b"\x0c",
        b'{"text": "a"} {"text": "b"}',
        b'{"text": "a"} {"text":',
        b'"b"}',
        b'{"text": "a", "text": "b"}',
        b'{"text": "\\ud800"}',
        b'{"text": "\\ud83d\\ude00\\u0000"}',
        b'{"text": "a\tb"}',
        b'{"text": "\xff"}',
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": "a"}\r',
        b' {"text": "a"} ',
        b'{"text": "a", "n": NaN}',
        b'{"text": "a", "n": 01}',
        b'{"text": "a", "n": ' + b"1" * 5000 + b"}",
        b'{"text": "a", "n": ' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"text": "a", "n": {"text": "b"}}',
        b'{"te\\u0078t": "a"}',
        b'{"text": "a",}',
        b'{"text": "a"} x',
        b'{"text": 12}',
        b'{"text": null}',
        b'{"text": {"a": 1}}',
        b'{"other": "a"}',
        b'["text"]',
        b"{}",
        b"\xef\xbb\xbf" + b'{"text": "a"}',
    ]
)


def records(path: Path, field: str = "text") -> list[tuple[Any, ...]]:
    """(key, text, why there is none) of each line."""
    found: list[tuple[Any, ...]] = []
    for record in rows.read_json_lines(path, 0, None, ReadOptions(field, block_bytes=200)):
        if isinstance(record, Block):
            found += [(key, text, "") for key, text in zip(record.keys, record.texts.to_pylist(), strict=True)]
        else:
            found.append((record.key, record.text, record.reason))
    return found


@settings(deadline=None, max_examples=300)
@given(st.lists(good_lines | odd_lines, max_size=6), st.sampled_from(["text", "te.xt", "b"]))
@example([b'{"text": "a"} {"text":', b'"b"}'], "text")
@example([b'{"text": "a"}{"text": "b"}', b""], "text")
def test_at_once_and_one_by_one_are_the_same(lines: list[bytes], field: str) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes(b"\n".join(lines))
        at_once = records(path, field)
        patch.setattr(rows, "parse_block", lambda *_: None)
        assert at_once == records(path, field)


def test_ordinary_lines_are_parsed_at_once() -> None:
    lines = [json.dumps({"text": f"ü {n} \n\u0000😀", "meta": [{"n": n}]}).encode() + b"\n" for n in range(100)]
    lines[51] = lines[51].replace(b"\n", b"\r\n")
    block = parse_block(range(100), [*lines[:50], b"\r\n", *lines[51:]], "text")
    assert block is not None
    assert block.texts.to_pylist() == [f"ü {n} \n\u0000😀" for n in range(100) if n != 50]
    assert block.keys == [n for n in range(100) if n != 50]


def test_source_code_is_parsed_at_once_and_deep_nesting_is_not() -> None:
    code = json.dumps({"text": "{[" * (MOST_BRACKETS // 3)}).encode()
    assert parse_block(range(20), [code] * 20, "text") is not None
    deep = b'{"text": "a", "n": ' + b"[" * MOST_BRACKETS + b"]" * MOST_BRACKETS + b"}"
    assert parse_block(range(2), [code, deep], "text") is None
