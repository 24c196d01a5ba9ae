"""Presets of quality rules, each threshold a setting; they read the columns of `features` and never the text."""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from datamodules.errors import DataError

Columns = Mapping[str, np.ndarray]
Rules = Mapping[str, Callable[[Columns], np.ndarray]]


def count(default: int) -> Any:
    """A threshold that is a whole number from 0."""
    return field(default=default, metadata={"type": int, "at_most": math.inf})


def fraction(default: float) -> Any:
    """A threshold from 0 to 1."""
    return field(default=default, metadata={"type": float, "at_most": 1.0})


def number(default: float) -> Any:
    """A threshold that is a number from 0, infinity included."""
    return field(default=default, metadata={"type": float, "at_most": math.inf})


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What presets share: a threshold `min_...` or `max_...` is a rule of that name; they apply in the order of fields.

    A value equal to the threshold passes. Raises DataError for a threshold of the wrong type or out of its range.
    """

    name: ClassVar[str]
    # What each rule compares with its threshold: a column, or the quotient of two (0 where the second one is 0).
    measures: ClassVar[Mapping[str, tuple[str, ...]]]

    def __post_init__(self) -> None:
        for threshold in fields(self):
            _check(f"{self.name}.{threshold.name}", getattr(self, threshold.name), **threshold.metadata)
        for lowest in fields(self):
            highest = lowest.name.replace("min_", "max_", 1)
            if lowest.name != highest and getattr(self, lowest.name) > getattr(self, highest, math.inf):
                raise DataError(
                    f"{self.name}.{lowest.name} is {getattr(self, lowest.name)} and {self.name}.{highest} is "
                    f"{getattr(self, highest)}, so no document could pass; the first must not be larger"
                )

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns of features that the rules read."""
        return tuple(dict.fromkeys(column for columns in self.measures.values() for column in columns))

    def reasons(self) -> list[str]:
        """Every rule, in order, as `failed` names it."""
        return [f"{self.name}.{threshold.name}" for threshold in fields(self)]

    def failed(self, features: pa.RecordBatch | pa.Table) -> pa.Array:
        """Of each row: null if it passes, or the first rule that it fails, such as "gopher_quality.min_words"."""
        columns = {name: features.column(name).to_numpy(zero_copy_only=False) for name in self.needs}
        rules = [threshold.name for threshold in fields(self)]
        first = np.full(features.num_rows, len(rules))
        for place, rule in reversed(list(enumerate(rules))):
            value, limit = _measured(columns, self.measures[rule]), getattr(self, rule)
            first[value < limit if rule.startswith("min_") else value > limit] = place
        names = pa.array([*self.reasons(), None], pa.string())
        return names.take(pa.array(first))


def _measured(columns: Columns, measure: tuple[str, ...]) -> np.ndarray:
    """float64: quotients of whole numbers, rounded once, so that a comparison is what Python's own would be."""
    value = columns[measure[0]].astype(np.float64)
    if len(measure) == 1:
        return value
    total = columns[measure[1]].astype(np.float64)
    return np.divide(value, total, out=np.zeros_like(value), where=total > 0)


@dataclass(frozen=True, kw_only=True)
class GopherQuality(Filter):
    """Gopher's quality rules (Rae et al. 2021, "Scaling Language Models", appendix A1.1).

    Words are what stands between white space. datatrove splits punctuation off with spaCy: "end." is two words there,
    of which one has no letter. So its rule on words with a letter also drops prose with much punctuation (9 % of the
    documents of benchmarks/corpus_filters.py, most of them with quoted speech), and it finds stop words before a
    comma; its count of words leaves out those of punctuation alone, ours does not. Lines are those with a word, theirs
    all.
    `min_letter_words` and `min_stop_words` suit English; the word lengths suit languages with spaces between words.
    """

    name: ClassVar[str] = "gopher_quality"
    measures: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "min_words": ("words",),
        "max_words": ("words",),
        "min_mean_word_length": ("word_characters", "words"),
        "max_mean_word_length": ("word_characters", "words"),
        "max_hash_signs": ("hash_signs", "words"),
        "max_ellipses": ("ellipses", "words"),
        "max_bullet_lines": ("bullet_lines", "lines"),
        "max_ellipsis_lines": ("ellipsis_lines", "lines"),
        "min_letter_words": ("letter_words", "words"),
        "min_stop_words": ("stop_words",),
    }

    min_words: int = count(50)
    max_words: int = count(100_000)
    min_mean_word_length: float = number(3.0)  # characters
    max_mean_word_length: float = number(10.0)
    max_hash_signs: float = number(0.1)  # per word
    max_ellipses: float = number(0.1)  # per word
    max_bullet_lines: float = fraction(0.9)  # of lines
    max_ellipsis_lines: float = fraction(0.3)  # of lines
    min_letter_words: float = fraction(0.8)  # of words
    min_stop_words: int = count(2)  # different ones of the eight


@dataclass(frozen=True, kw_only=True)
class GopherRepetition(Filter):
    """Gopher's repetition rules (Rae et al. 2021, appendix A1.1, table A1).

    Characters are divided by those of the whole text. A line or paragraph counts as repeated from its second time on,
    and the same words make the same line, however spaced; blank ones do not count, where datatrove takes the empty
    strings before the first and behind the last newline for two equal lines. Of n-grams of 5 to 10 words, those count
    that a reader from left to right has read before, none overlapping (see `repetition`).
    """

    name: ClassVar[str] = "gopher_repetition"
    measures: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "max_repeated_lines": ("repeated_lines", "lines"),
        "max_repeated_paragraphs": ("repeated_paragraphs", "paragraphs"),
        "max_repeated_line_characters": ("repeated_line_characters", "characters"),
        "max_repeated_paragraph_characters": ("repeated_paragraph_characters", "characters"),
        "max_top_2gram": ("top_2gram_characters", "characters"),
        "max_top_3gram": ("top_3gram_characters", "characters"),
        "max_top_4gram": ("top_4gram_characters", "characters"),
        "max_repeated_5gram": ("repeated_5gram_characters", "characters"),
        "max_repeated_6gram": ("repeated_6gram_characters", "characters"),
        "max_repeated_7gram": ("repeated_7gram_characters", "characters"),
        "max_repeated_8gram": ("repeated_8gram_characters", "characters"),
        "max_repeated_9gram": ("repeated_9gram_characters", "characters"),
        "max_repeated_10gram": ("repeated_10gram_characters", "characters"),
    }

    max_repeated_lines: float = fraction(0.30)
    max_repeated_paragraphs: float = fraction(0.30)
    max_repeated_line_characters: float = fraction(0.20)
    max_repeated_paragraph_characters: float = fraction(0.20)
    # The most frequent n-gram is counted overlaps included ("a a a" has "a a" twice), so it may exceed the text.
    max_top_2gram: float = number(0.20)
    max_top_3gram: float = number(0.18)
    max_top_4gram: float = number(0.16)
    max_repeated_5gram: float = fraction(0.15)
    max_repeated_6gram: float = fraction(0.14)
    max_repeated_7gram: float = fraction(0.13)
    max_repeated_8gram: float = fraction(0.12)
    max_repeated_9gram: float = fraction(0.11)
    max_repeated_10gram: float = fraction(0.10)


@dataclass(frozen=True, kw_only=True)
class C4(Filter):
    """C4's rules about whole pages (Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.2).

    The rules about lines change the text: the stage `C4Lines`, best run before the features are computed, as then only
    sentences of lines that stay are counted. The published code asks for 5 sentences, the paper's text for 3. Sentences
    are counted by a plain rule (see `features`), where the paper's code has NLTK's: "Mr. Smith" makes one more here.
    The paper's list of bad words is left out.
    """

    name: ClassVar[str] = "c4"
    measures: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "max_lorem_ipsum": ("lorem_ipsum",),
        "max_curly_brackets": ("curly_brackets",),
        "min_sentences": ("sentences",),
    }

    max_lorem_ipsum: int = count(0)
    max_curly_brackets: int = count(0)
    min_sentences: int = count(5)


@dataclass(frozen=True, kw_only=True)
class FineWeb(Filter):
    """FineWeb's own rules (Penedo et al. 2024, "The FineWeb Datasets", section 3.6; defaults of its published code).

    The paper's text has 0.1 for characters in repeated lines where the code has 0.01, and does not mention newlines.
    White space at the end of a line is not looked at: "end. " ends a sentence, in the published code it does not.
    That a line of 30 characters is short belongs to the feature, and is no setting.
    """

    name: ClassVar[str] = "fineweb"
    measures: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "min_ended_lines": ("ended_lines", "lines"),
        "max_short_lines": ("short_lines", "lines"),
        "max_repeated_line_characters": ("repeated_line_characters", "characters"),
        "max_newlines": ("newlines", "words"),
    }

    min_ended_lines: float = fraction(0.12)  # of lines: their last character ends a sentence
    max_short_lines: float = fraction(0.67)  # of lines: at most 30 characters
    max_repeated_line_characters: float = fraction(0.01)  # of characters
    max_newlines: float = number(0.3)  # per word


@dataclass(frozen=True, kw_only=True)
class Code(Filter):
    """Rules for source code, which the rules for prose would drop: few stop words, short lines, brackets, repetition.

    Line lengths as in Codex (Chen et al. 2021, section 3.1) and The Stack (Kocetkov et al. 2022); a quarter of letters
    as in StarCoder (Li et al. 2023, section 3.1); at most 100,000 lines as in StarCoder2 (Lozhkov et al. 2024).
    They catch minified and generated files, tables of data, and encoded binaries. Blank lines are not counted as lines.
    """

    name: ClassVar[str] = "code"
    measures: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "min_lines": ("lines",),
        "max_lines": ("lines",),
        "max_longest_line": ("longest_line",),
        "max_mean_line_length": ("characters", "lines"),
        "min_letters": ("letters", "characters"),
    }

    min_lines: int = count(1)
    max_lines: int = count(100_000)
    max_longest_line: int = count(1_000)  # characters
    max_mean_line_length: float = number(100.0)  # characters, newlines among them
    min_letters: float = fraction(0.25)  # of characters


PRESETS: Mapping[str, type[Filter]] = {
    preset.name: preset for preset in (C4, GopherQuality, GopherRepetition, FineWeb, Code)
}


def build_filters(spec: Mapping[str, Mapping[str, float]]) -> list[Filter]:
    """Presets by name with their changed thresholds, such as {"gopher_quality": {"min_words": 40}, "c4": {}}, in order.

    Raises DataError for a preset or threshold that there is not, a value of the wrong type, or one out of its range.
    """
    if not isinstance(spec, Mapping):
        raise DataError(f"filters must map names of presets to thresholds, such as {{c4: {{}}}}, but are {spec!r}")
    filters = []
    for name, thresholds in spec.items():
        if name not in PRESETS:
            raise DataError(f"filters.{name}: there is no such preset{_nearest(name, PRESETS)}")
        if not isinstance(thresholds, Mapping):
            raise DataError(
                f"filters.{name} must map thresholds to numbers ({{}} for the defaults), not {thresholds!r}"
            )
        known = [threshold.name for threshold in fields(PRESETS[name])]
        for threshold in thresholds:
            if threshold not in known:
                raise DataError(f"filters.{name}.{threshold}: there is no such threshold{_nearest(threshold, known)}")
        filters.append(PRESETS[name](**_whole(PRESETS[name], thresholds)))
    return filters


def _whole(preset: type[Filter], thresholds: Mapping[str, float]) -> dict[str, float]:
    """30.0 as 30 where the threshold is a whole number: a command line's parser knows one kind of number."""
    counts = {threshold.name for threshold in fields(preset) if threshold.metadata["type"] is int}
    return {
        name: int(value) if name in counts and isinstance(value, float) and value.is_integer() else value
        for name, value in thresholds.items()
    }


def _check(place: str, value: object, type: type, at_most: float) -> None:
    wanted = "a whole number" if type is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int if type is int else (int, float)):
        raise DataError(f"{place} must be {wanted}, not {value!r}")
    if not 0 <= value <= at_most:  # false for NaN, too
        limits = "from 0" if at_most == math.inf else f"from 0 to {at_most:g}"
        raise DataError(f"{place} must be {wanted} {limits}, not {value!r}")


def _nearest(name: object, known: Mapping[str, object] | list[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.0)
    return f"; the nearest is {near[0]}, of {', '.join(known)}"
