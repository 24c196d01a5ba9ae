"""Presets of quality rules: their defaults, the first rule that fails, settings, and what they say of bad ones."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pytest

from datamodules.corpus.quality.features import FEATURES, Features
from datamodules.corpus.quality.filters import (
    C4,
    PRESETS,
    Code,
    Filter,
    FineWeb,
    GopherQuality,
    GopherRepetition,
    build_filters,
)
from datamodules.errors import DataError


def prose(sentences: int) -> str:
    """Lines of one sentence each, of two stop words and of words that do not come again."""
    lines = []
    for line in range(sentences):
        own = [word(10 * line + place) for place in range(10)]
        lines.append(" ".join([*own[: line % 9], "of", *own[line % 9 :], "the", word(10 * line + 10)]) + ".")
    return "\n".join(lines)


def word(number: int) -> str:
    return "".join("abcdefghij"[int(digit)] for digit in f"{number * 7919 + 10007:05}"[:6])


def judge(preset: Filter, *documents: str) -> list[str | None]:
    batch = Features().apply(pa.record_batch({"text": pa.array(documents, pa.string())}))
    return preset.failed(batch).to_pylist()


def rows(**columns: list[int]) -> pa.Table:
    """A table of features, those not named zero."""
    (n,) = {len(values) for values in columns.values()}
    zeros = {feature.name: [0] * n for feature in FEATURES}
    return pa.table({name: pa.array(values, pa.int32()) for name, values in (zeros | columns).items()})


def test_prose_passes_every_rule_for_prose():
    text = prose(20)
    for preset in (C4(), GopherQuality(), GopherRepetition(), FineWeb(), Code()):
        assert judge(preset, text) == [None]


@pytest.mark.parametrize(
    ("preset", "text", "rule"),
    [
        (GopherQuality(), "", "min_words"),
        (GopherQuality(), prose(3), "min_words"),
        (GopherQuality(max_words=60), prose(20), "max_words"),
        (GopherQuality(), "of to " * 40, "min_mean_word_length"),
        (GopherQuality(), "of the extraordinarily incomprehensibilities " * 40, "max_mean_word_length"),
        (GopherQuality(), prose(10) + " #so" * 20, "max_hash_signs"),
        (GopherQuality(), prose(10) + " so..." * 10 + " so…" * 10, "max_ellipses"),
        (GopherQuality(), "- " + prose(10).replace("\n", "\n - "), "max_bullet_lines"),
        (GopherQuality(), prose(10).replace(".\n", "...\n"), "max_ellipsis_lines"),
        (GopherQuality(), prose(10) + " 1234" * 60, "min_letter_words"),
        (GopherQuality(), " ".join(word(n) for n in range(60)), "min_stop_words"),
        (GopherRepetition(), prose(5) + "\n12" * 5, "max_repeated_lines"),
        (GopherRepetition(max_repeated_lines=1), prose(5) + "\n\nSo it is." * 4, "max_repeated_paragraphs"),
        (GopherRepetition(), f"{prose(6)}\n{prose(2)}", "max_repeated_line_characters"),
        (
            GopherRepetition(max_repeated_lines=1, max_repeated_line_characters=1),
            "\n\n".join([prose(4), "One", "Two", "Three", prose(4)]),
            "max_repeated_paragraph_characters",
        ),
        (GopherRepetition(), "go on " * 30 + prose(1), "max_top_2gram"),
        (GopherRepetition(max_top_2gram=1), "go on " * 30 + prose(1), "max_top_3gram"),
        (GopherRepetition(max_top_2gram=1, max_top_3gram=1), "go on " * 30 + prose(1), "max_top_4gram"),
        *(
            (
                GopherRepetition(**{f"max_repeated_{smaller}gram": 1 for smaller in range(5, n)}),
                " ".join(f"{prose(9)} {prose(3)}".split()),
                f"max_repeated_{n}gram",
            )
            for n in range(5, 11)
        ),
        (C4(), prose(10) + " Lorem IPSUM.", "max_lorem_ipsum"),
        (C4(), prose(10) + " {", "max_curly_brackets"),
        (C4(), prose(4), "min_sentences"),
        (FineWeb(), "", "min_ended_lines"),
        (FineWeb(), prose(10).replace(".", ";"), "min_ended_lines"),
        (FineWeb(), prose(3) + "\nIt is so here.\nIt was so.\nNot any more." * 3, "max_short_lines"),
        (FineWeb(), prose(10) + "\n" + prose(1), "max_repeated_line_characters"),
        (FineWeb(), prose(3) + "\n" * 20, "max_newlines"),
        (Code(), "\n\n", "min_lines"),
        (Code(), "x = 1\n" * 100_001, "max_lines"),
        (Code(), "x = 1\n" * 50 + "data = " + "1" * 1000, "max_longest_line"),
        (Code(), "value = " + "a" * 100, "max_mean_line_length"),
        (Code(), "1, 2, 3, 4\n" * 10, "min_letters"),
    ],
)
def test_each_rule_is_named(preset: Filter, text: str, rule: str):
    assert judge(preset, text) == [f"{preset.name}.{rule}"]


@pytest.mark.parametrize("preset", PRESETS.values())
def test_every_threshold_is_a_rule_in_order(preset: type[Filter]):
    thresholds = [field.name for field in fields(preset)]
    assert thresholds == list(preset.measures)
    assert all(threshold.startswith(("min_", "max_")) for threshold in thresholds)
    assert set(preset().needs) <= {feature.name for feature in FEATURES}


def test_thresholds_themselves_pass_and_the_first_rule_counts():
    # 10 of 100 and 3 of 30 are exactly 0.1, though neither quotient can be written in binary.
    features = rows(
        words=[100, 30, 100, 100],
        word_characters=[500, 150, 500, 200],
        hash_signs=[10, 3, 11, 11],
        letter_words=[80, 24, 80, 80],
        stop_words=[2, 2, 2, 0],
    )
    expected = [None, None, "gopher_quality.max_hash_signs", "gopher_quality.min_mean_word_length"]
    assert GopherQuality(min_words=30).failed(features).to_pylist() == expected
    assert GopherQuality(min_words=30).failed(features.to_batches()[0]).to_pylist() == expected
    assert GopherQuality(min_words=30).failed(features.slice(2)).to_pylist() == expected[2:]
    assert GopherQuality().failed(features.slice(0, 0)).type == pa.string()


def test_large_counts_are_exact():
    features = rows(lines=[2**24, 2**24 + 1], characters=[2**24] * 2, letters=[2**24] * 2)
    assert Code(max_lines=2**24).failed(features).to_pylist() == [None, "code.max_lines"]


def test_changed_thresholds_need_no_text():
    batch = Features().apply(pa.record_batch({"text": [prose(3), prose(30)]})).drop_columns("text")
    assert GopherQuality(min_words=10).failed(batch).to_pylist() == [None, None]
    assert GopherQuality(max_words=100).failed(batch).to_pylist()[1] == "gopher_quality.max_words"


def test_source_code_is_not_judged_as_prose():
    code = "".join(f"def {word(n)}(self):\n    return self.{word(n + 1)}[{n}]\n\n\n" for n in range(40))
    assert judge(Code(), code) == [None]
    assert judge(FineWeb(), code) == ["fineweb.min_ended_lines"]
    assert judge(GopherQuality(), code) == ["gopher_quality.min_stop_words"]


def test_build_filters_takes_presets_in_order():
    assert build_filters({"gopher_quality": {"min_words": 40, "max_hash_signs": 1}, "c4": {}}) == [
        GopherQuality(min_words=40, max_hash_signs=1.0),
        C4(),
    ]
    assert build_filters({"gopher_quality": {"max_mean_word_length": math.inf}})
    assert build_filters({}) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"gopher_qualty": {}},
            "filters.gopher_qualty: there is no such preset; the nearest is gopher_quality, of c4, ",
        ),
        ({"c4": {"min_sentence": 3}}, "filters.c4.min_sentence: .* nearest is min_sentences, of max_lorem_ipsum, "),
        ({"c4": {7: 3}}, "filters.c4.7: there is no such threshold"),
        ({"c4": {"min_sentences": "3"}}, "c4.min_sentences must be a whole number, not '3'"),
        ({"c4": {"min_sentences": 2.5}}, "c4.min_sentences must be a whole number, not 2.5"),
        ({"c4": {"min_sentences": True}}, "c4.min_sentences must be a whole number, not True"),
        ({"c4": {"min_sentences": -1}}, "c4.min_sentences must be a whole number from 0, not -1"),
        ({"fineweb": {"max_short_lines": 67}}, "fineweb.max_short_lines must be a number from 0 to 1, not 67"),
        ({"fineweb": {"max_short_lines": math.nan}}, "must be a number from 0 to 1, not nan"),
        ({"fineweb": {"max_newlines": None}}, "fineweb.max_newlines must be a number, not None"),
        ({"gopher_quality": {"min_words": 9, "max_words": 3}}, "gopher_quality.min_words is 9 and .*max_words is 3"),
        ({"gopher_quality": {"min_mean_word_length": 11}}, "no document could pass"),
        ({"c4": None}, "filters.c4 must map thresholds to numbers"),
        (["c4"], "filters must map names of presets"),
    ],
)
def test_wrong_settings_are_named(spec: Mapping[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        build_filters(spec)


def test_wrong_thresholds_are_named_without_a_spec_as_well():
    with pytest.raises(DataError, match=r"code\.min_letters must be a number from 0 to 1, not 2"):
        Code(min_letters=2)


def test_a_whole_number_may_be_written_as_a_float() -> None:
    (quality,) = build_filters({"gopher_quality": {"min_words": 30.0}})
    assert quality == GopherQuality(min_words=30)
    with pytest.raises(DataError, match=r"must be a whole number, not 30\.5"):
        build_filters({"gopher_quality": {"min_words": 30.5}})
