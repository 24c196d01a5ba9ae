"""What is done to documents on their way, as settings: one place from which stages and fingerprints are made."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from datamodules.corpus.cleaning.language import Language
from datamodules.corpus.cleaning.pii import PII, Kind
from datamodules.corpus.cleaning.repair import Repair
from datamodules.corpus.cleaning.unicode import Cleaning
from datamodules.corpus.cleaning.whitespace import Whitespace
from datamodules.corpus.decontamination.benchmarks import load_benchmark
from datamodules.corpus.decontamination.matching import MatchBenchmarks
from datamodules.corpus.decontamination.overlap import Action
from datamodules.corpus.duplicates.lines import Unit
from datamodules.corpus.duplicates.minhash import MinHash
from datamodules.corpus.quality.c4_lines import C4Lines
from datamodules.corpus.quality.filters import Filter, build_filters
from datamodules.corpus.steps import Stage
from datamodules.errors import DataError

# What the model of py3langid tells apart: ISO 639-1, or 639-3 where that has none; `und`: the beginning has no letter.
_CODES = """
ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr fuv fy
ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko ku ky la lb lg
lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru rw sa sdh se si sk sl
sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk und ur uz uzs vec vi vo wa wuu xh yo yue zh zu zxx
"""
LANGUAGES = frozenset(_CODES.split())


@dataclass(frozen=True)
class Curation:
    """What happens to documents besides Unicode NFC, control characters and exact duplicates, which always happen.

    Args:
        repair: undo mojibake by ftfy (extra `[fix]`).
        whitespace: one kind of space, no invisible characters, no trailing blanks; not for source code.
        c4_lines: drop lines that are no sentences, as C4 does; for web pages.
        languages: keep documents in these languages alone (ISO 639-1, such as `[en, de]`; extra `[lang]`).
        filters: presets of quality rules with changed thresholds, such as `{gopher_quality: {min_words: 40}, c4: {}}`;
            of `c4`, `gopher_quality`, `gopher_repetition`, `fineweb` and `code`.
        near_duplicates: drop all but one of documents whose word n-grams have at least this Jaccard similarity; null
            leaves them, and lets them stand on both sides of the split.
        minhash: how near-duplicates are looked for.
        duplicate_lines: drop each `line` or `paragraph` that stands in several documents from all but one of them.
        duplicate_lines_from: number of documents from which on a line counts as such.
        benchmarks: files (jsonl, json, txt) of texts that must not be trained on.
        benchmark_words: so many words in a row that a document shares with one of them count as contamination.
        benchmark_action: `remove` such documents, or `cut` the shared words out of them.
        pii: kinds of personal data to replace by placeholders: `email`, `ip`, `phone`, `credit_card`, `iban`, `key`.
        max_removed: share of the documents that one kind of duplicate may remove before it is an error.
        weights: share of the text of train that each source is to have, by its name; empty leaves them as they are.
    """

    repair: bool = False
    whitespace: bool = False
    c4_lines: bool = False
    languages: list[str] | None = None
    filters: dict[str, dict[str, float]] = field(default_factory=dict)
    near_duplicates: float | None = 0.8
    minhash: MinHash = field(default_factory=MinHash)
    duplicate_lines: Unit | None = None
    duplicate_lines_from: int = 3
    benchmarks: list[str] = field(default_factory=list)
    benchmark_words: int = 13
    benchmark_action: Action = "remove"
    pii: list[Kind] = field(default_factory=list)
    max_removed: float = 0.95
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
            raise DataError(f"near_duplicates is {self.near_duplicates}; it can be above 0 up to 1, or null for none")
        if not 0 < self.max_removed <= 1:
            raise DataError(f"max_removed is {self.max_removed}; it can be above 0 up to 1")
        if self.languages is not None:
            self._check_languages(self.languages)
        if self.duplicate_lines_from < 2:
            raise DataError(f"duplicate_lines_from is {self.duplicate_lines_from}; it can be 2 or more")
        if self.benchmark_words < 2:
            raise DataError(f"benchmark_words is {self.benchmark_words}; it can be 2 or more")
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise DataError(f"the weight of {name} is {weight}; it can be 0 or more")
        self.finishing()
        self.quality()  # refuses unknown presets and thresholds at once

    @staticmethod
    def _check_languages(languages: list[str]) -> None:
        if not languages:
            raise DataError("languages is empty, so no document would be kept; name some, or give null to keep all")
        for name in languages:
            if name not in LANGUAGES:
                raise DataError(
                    f"languages names {name!r}, which cannot be told; give codes of ISO 639-1 such as en, de or zh"
                )

    def quality(self) -> list[Filter]:
        """The filters, in the order in which they are applied."""
        return build_filters(self.filters)

    def cleaning(self) -> tuple[Stage, ...]:
        """What is applied while a shard is read."""
        stages: list[Stage] = [Repair()] if self.repair else []
        stages.append(Cleaning())
        if self.whitespace:
            stages.append(Whitespace())
        if self.c4_lines:
            stages.append(C4Lines())
        if self.languages is not None:
            stages.append(Language())
        return tuple(stages)

    def matching(self) -> MatchBenchmarks | None:
        """What finds the text of benchmarks in documents; raises DataError for a file that cannot be used."""
        if not self.benchmarks:
            return None
        for path in self.benchmarks:
            load_benchmark(path)
        digests = tuple(xxhash.xxh3_128_hexdigest(Path(path).read_bytes()) for path in self.benchmarks)
        return MatchBenchmarks(tuple(self.benchmarks), digests, self.benchmark_words, self.benchmark_action)

    def finishing(self) -> tuple[Stage, ...]:
        """What is applied to the documents that are kept, as they are written."""
        return (PII(tuple(self.pii)),) if self.pii else ()


def identity(stages: Stage | tuple[Stage, ...]) -> Any:
    """What the output of stages depends on besides their input, as JSON primitives: their classes and settings."""
    if isinstance(stages, tuple):
        return [identity(stage) for stage in stages]
    settings = asdict(stages)  # type: ignore[call-overload]
    # A file that a stage reads lies in an artefact, whose folder's name says what it is.
    return {
        type(stages).__name__: {
            key: value.parent.name if isinstance(value, Path) else value for key, value in settings.items()
        }
    }
