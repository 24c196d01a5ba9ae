import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus.cleaning.whitespace import Whitespace

SPACES = "\u00a0\u1680\u2000\u2005\u200a\u202f\u205f\u3000"
INVISIBLE = "\u00ad\u200b\u2060\ufeff"
TEXTS = st.lists(
    st.text(
        st.one_of(
            st.characters(codec="utf-8", exclude_characters="\r"), st.sampled_from("  \t\n\n\na" + SPACES + INVISIBLE)
        )
    )
)
JOINED = st.lists(st.text(st.sampled_from("a\u0646\u200c\u200d\u200b \n\U0001f469")))


def batch_of(texts: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string()), "source": ["s"] * len(texts)})


def clean(texts: list[str], **options: object) -> list[str]:
    cleaned = Whitespace(**options).apply(batch_of(texts))  # type: ignore[arg-type]
    cleaned.validate(full=True)
    return cleaned.column("text").to_pylist()


def reference(text: str) -> str:
    text = re.sub("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]", " ", text)
    text = re.sub("[\u2028\u2029]", "\n", text)
    text = re.sub("[\u00ad\u200b\u2060\ufeff]", "", text)
    text = re.sub("(^|[\x00-\x7f])[\u200c\u200d]+", r"\1", text)
    text = re.sub("[ \t]+(?=\n|\\Z)", "", text)
    return re.sub("\n{4,}", "\n\n\n", text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  indented \t\n\n\n\n\nend  ", "  indented\n\n\nend"),
        ("a\u00a0b\u2009c\u3000d\u2028e", "a b c d\ne"),
        ("\ufeffso\u00adft\u200b hy\u2060phen", "soft hyphen"),
        ("a\u200db \u200d\u200cc", "ab c"),
        ("\u0646\u200c\u0647 \U0001f469\u200d\U0001f680", "\u0646\u200c\u0647 \U0001f469\u200d\U0001f680"),
        ("two  spaces\tand a tab", "two  spaces\tand a tab"),
        ("\u2014 \u00e9\u4e2d", "\u2014 \u00e9\u4e2d"),
        (" \t ", ""),
        ("", ""),
    ],
)
def test_one_text(before: str, after: str) -> None:
    assert clean([before]) == [after]


def test_each_part_can_be_left_out() -> None:
    text = "a\u00a0\u200b \n\n\n\n\nb"
    assert clean([text], unicode_spaces=False, zero_width=False, trailing_blanks=False, max_blank_lines=None) == [text]
    assert clean([text], max_blank_lines=0) == ["a\nb"]
    assert clean([text], max_blank_lines=None, zero_width=False) == ["a \u200b\n\n\n\n\nb"]


@settings(max_examples=300, deadline=None)
@given(TEXTS | JOINED)
def test_equals_the_expressions_on_each_text_alone(texts: list[str]) -> None:
    assert clean(texts) == [reference(text) for text in texts]


@settings(max_examples=100, deadline=None)
@given(TEXTS | JOINED)
def test_twice_changes_nothing(texts: list[str]) -> None:
    once = clean(texts)
    assert clean(once) == once


def test_a_slice_and_an_empty_batch() -> None:
    assert Whitespace().apply(batch_of(["x ", "y\u00a0", "z "]).slice(1, 1)).column("text").to_pylist() == ["y"]
    assert clean([]) == []


def test_ascii_without_blanks_is_not_copied() -> None:
    batch = batch_of(["a b\n", "c\n\n\nd"])
    assert Whitespace().apply(batch) is batch


def test_blank_lines_of_two_documents_are_not_counted_together() -> None:
    texts = ["a\n\n", "\n\n\n", "\n\nb"]
    assert clean(texts) == texts
