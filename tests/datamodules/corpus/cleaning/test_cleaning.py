import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus.cleaning.unicode import Cleaning

CONTROLS = {chr(code) for code in [*range(0x20), 0x7F, *range(0x80, 0xA0)]} - {"\t", "\n"}


def clean(texts: list[str]) -> list[str]:
    batch = pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string()), "source": ["s"] * len(texts)})
    cleaned = Cleaning().apply(batch)
    assert cleaned.schema == batch.schema
    cleaned.validate(full=True)
    return cleaned.column("text").to_pylist()


def reference(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", "".join(character for character in text if character not in CONTROLS))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\r\nb\rc\n\r\nd\r", "a\nb\nc\n\nd\n"),
        ("tab\tand\x00nul\x1b[0m\x7f", "tab\tandnul[0m"),
        ("e\u0301 \u0085x\u009fy\u00a0", "\u00e9 xy\u00a0"),
        ("\ud55c\u1112\u1161\u11ab", "\ud55c\ud55c"),
        ("", ""),
    ],
)
def test_one_text(before: str, after: str) -> None:
    assert clean([before]) == [after]


def test_line_ends_do_not_join_across_documents() -> None:
    assert clean(["a\r", "\nb", "", "\r", "\n"]) == ["a\n", "\nb", "", "\n", "\n"]
    assert clean([]) == []


def test_a_slice_of_a_batch_is_cleaned_alone() -> None:
    batch = pa.RecordBatch.from_pydict({"text": ["x\r\n", "e\u0301\x00", "y\r"], "source": ["s"] * 3}).slice(1, 1)
    assert Cleaning().apply(batch).column("text").to_pylist() == ["\u00e9"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.text(
            alphabet=st.one_of(
                st.characters(exclude_categories=["Cs", "Cn"]), st.sampled_from("\r\n\t\x00\x80\u0301e\u00c2")
            )
        )
    )
)
def test_equals_the_plain_loop_over_characters(texts: list[str]) -> None:
    assert clean(texts) == [reference(text) for text in texts]


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once = clean([text])
    assert clean(once) == once
