"""Settings of the curation are looked at when they are made, long before they are used."""

import math
from typing import Any

import pytest

from datamodules.corpus.cleaning.language import UNDETERMINED
from datamodules.corpus.curation import LANGUAGES, Curation
from datamodules.errors import DataError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"near_duplicates": 0}, "near_duplicates is 0"),
        ({"near_duplicates": 1.01}, "near_duplicates is 1.01"),
        ({"max_removed": 0}, "max_removed is 0"),
        ({"max_removed": 1.01}, "max_removed is 1.01"),
        ({"duplicate_lines_from": 1}, "duplicate_lines_from is 1"),
        ({"benchmark_words": 1}, "benchmark_words is 1"),
        ({"weights": {"a": 1, "b": -1}}, "the weight of b is -1"),
        ({"weights": {"a": math.inf}}, "the weight of a is inf"),
        ({"weights": {"a": math.nan}}, "the weight of a is nan"),
        ({"languages": []}, "languages is empty"),
        ({"languages": ["en", "xx"]}, "languages names 'xx'"),
        ({"languages": "en"}, "languages names 'e'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Curation(**settings)


def test_the_last_settings_that_can_be() -> None:
    Curation(near_duplicates=1, max_removed=1, duplicate_lines_from=2, benchmark_words=2, weights={"a": 0})
    Curation(near_duplicates=None, languages=["en", "und"])


def test_the_languages_are_those_of_the_model() -> None:
    langid = pytest.importorskip("py3langid.langid")
    model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    assert {*model.nb_classes, UNDETERMINED} == LANGUAGES
