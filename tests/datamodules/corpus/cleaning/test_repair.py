import sys

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datamodules.corpus.cleaning.repair import Repair, _fixer, signs
from datamodules.corpus.spans import documents_of, text_bytes
from datamodules.errors import DataError

PROSE = {
    "French": "L\u2019\u00e9t\u00e9 dernier, \u00e0 No\u00ebl, \u00ab \u00c7a va \u00bb, dit-elle",
    "German": "Gr\u00f6\u00dfe und \u00dcberma\u00df, \u201esch\u00f6n\u201c",
    "Polish": "Za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144",
    "Greek": "\u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u03ba\u03cc\u03c3\u03bc\u03b5",
    "Russian": "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440 \u2014 \u0434\u0430",
    "Chinese": "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "emoji": "hi \U0001f600 ok",
}
CODECS = ["latin-1", "cp1252", "cp1251", "cp1250", "cp1253", "iso8859-2", "mac_roman", "cp437"]


def batch_of(texts: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string())})


def repair(texts: list[str]) -> list[str]:
    return Repair().apply(batch_of(texts)).column("text").to_pylist()


def garbled(text: str, codec: str) -> str:
    """The text's UTF-8 read in another encoding, bytes without a character as Latin-1 has them."""
    out = ""
    for byte in text.encode():
        try:
            out += bytes([byte]).decode(codec)
        except UnicodeDecodeError:
            out += chr(byte)
    return out


@pytest.mark.parametrize("codec", ["latin-1", "cp1252"])
def test_what_was_read_in_the_wrong_encoding_is_made_good(codec: str) -> None:
    texts = [*PROSE.values(), "plain ASCII"]
    assert repair([garbled(text, codec) for text in texts]) == texts


@pytest.mark.parametrize("language", ["German", "Polish", "Greek", "Chinese", "emoji"])
def test_good_text_is_not_even_looked_at(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("given to ftfy")

    monkeypatch.setattr("datamodules.corpus.cleaning.repair._fixer", refuse)
    batch = batch_of([PROSE[language], "ASCII alone", ""])
    assert Repair().apply(batch) is batch


def test_other_glitches_stay() -> None:
    text = "&amp; \ufb01ne \u201ccurled\u201d \uff21 e\u0301 na\u00c3\u00afve"
    assert repair([text]) == [text.replace("\u00c3\u00af", "\u00ef")]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(min_codepoint=0x80), min_size=1), st.sampled_from(CODECS))))
def test_every_garbled_text_is_suspect(cases: list[tuple[str, str]]) -> None:
    texts = [garbled(text, codec) for text, codec in cases if text.isprintable()]
    data, offsets = text_bytes(pa.array(texts, pa.string()))
    assert set(documents_of(offsets, signs(data, offsets)).tolist()) == set(range(len(texts)))


PIECES = st.sampled_from(
    ["\u00c3", "\u00a9", " ", "\n", "a", "\u00e2\u20ac", "\u2122", "\ufffd", "\u0420", "\u2013", "\x92", "\u00f0"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(PIECES).map("".join)))
@example(["\u0420 \ufffd\ufffd", "\n\ufffd\ufffd\u0420 a"])
def test_whatever_ftfy_would_change_is_found_in_any_batch(texts: list[str]) -> None:
    fixed = [_fixer()(text) for text in texts]
    assert repair(texts) == fixed
    assert [one for text in texts for one in repair([text])] == fixed


def test_without_ftfy_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    _fixer.cache_clear()
    with pytest.raises(DataError, match=r"labyrinth-llm\[fix\]"):
        repair(["na\u00c3\u00afve"])
    _fixer.cache_clear()


def test_no_sign_goes_across_documents() -> None:
    assert not signs(*text_bytes(pa.array(["\u00c3", "\u00a9", "\u00e2\u20ac", "\u2122"], pa.string()))).size
    assert signs(*text_bytes(pa.array(["\u00c3\u00a9"], pa.string()))).tolist() == [0]
