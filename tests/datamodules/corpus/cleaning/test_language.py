import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from datamodules.corpus.cleaning.language import Language, _identifier, first_part
from datamodules.errors import DataError


def batch_of(texts: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string())})


def told(texts: list[str], **options: int) -> list[tuple[str, float]]:
    batch = Language(**options).apply(batch_of(texts))  # type: ignore[arg-type]
    assert batch.schema.field("language_score").type == pa.float32()
    return list(zip(batch.column("language").to_pylist(), batch.column("language_score").to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The old man walked slowly through the village and looked at the houses.", "en"),
        ("Der alte Mann ging langsam durch das Dorf und sah sich die H\u00e4user an.", "de"),
        ("Le vieil homme marchait lentement dans le village et regardait les maisons.", "fr"),
        (
            "\u042f \u043d\u0435 \u0437\u043d\u0430\u044e, \u0447\u0442\u043e \u0434\u0435\u043b\u0430\u0442\u044c",
            "ru",
        ),
        ("\u3053\u308c\u306f\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059\u3002", "ja"),
    ],
)
def test_languages(text: str, language: str) -> None:
    [(answer, score)] = told([text])
    assert answer == language
    assert 0.5 < score <= 1


def test_a_beginning_without_letters_is_undetermined() -> None:
    assert told(["", "12 + 30 = 42!", " \n", "\u2014 \U0001f600"]) == [("und", 0.0)] * 4
    assert told(["1" * 2000 + " and then some words"]) == [("und", 0.0)]
    assert told([]) == []


def test_only_the_beginning_counts() -> None:
    english = "This is a sentence of the English language. " * 30
    assert told([english + "Und das hier ist Deutsch, und zwar sehr viel davon. " * 200]) == told([english[:1024]])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=5), st.integers(1, 12))
def test_each_document_alone_gives_the_same(texts: list[str], size: int) -> None:
    assert told(texts, first_bytes=size) == [one for text in texts for one in told([text], first_bytes=size)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text()), st.integers(1, 12))
def test_the_first_part_has_whole_characters(texts: list[str], size: int) -> None:
    parts = first_part(pa.array(texts, pa.string()), size).to_pylist()
    assert parts == [text.encode()[:size].decode(errors="ignore") for text in texts]


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    _identifier.cache_clear()
    with pytest.raises(DataError, match=r"labyrinth-llm\[lang\]"):
        told(["text"])
    _identifier.cache_clear()


def test_the_model_is_loaded_once() -> None:
    told(["text"])
    model = _identifier()
    told(["another text"])
    assert _identifier() is model
    assert _identifier.cache_info().misses == 1


def test_a_text_cut_within_a_character_is_judged_without_it() -> None:
    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    text = "\u042f \u043d\u0435 \u0437\u043d\u0430\u044e \u3053\u308c\u306f \U00020000 word"
    for size in range(2, len(text.encode()) + 1):
        [(answer, score)] = told([text], first_bytes=size)
        expected = model.classify(text.encode()[:size].decode(errors="ignore"))
        assert (answer, score) == (expected[0], pytest.approx(expected[1], abs=2e-5))


def test_importing_the_stage_is_cheap() -> None:
    """Neither the model's package nor what the rest of the pipeline needs comes with it."""
    program = (
        "import sys, datamodules.corpus.cleaning.language\n"
        "assert not {'py3langid', 'scipy', 'daft', 'rich', 'datamodules.corpus.run'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
