import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus.decontamination.benchmarks import Benchmark, load_benchmark
from datamodules.corpus.decontamination.overlap import Decontamination, common_grams
from datamodules.errors import DataError

QUESTION = "Which of the two old travellers, do you think, had walked further along the dusty road that day?"
SHORT = "The answer is written on the back of the card."
QUIZ = Benchmark("quiz", (QUESTION, SHORT, "Too short."))
FILLER = " ".join(f"filler{number} goes on." for number in range(60))


def batch_of(texts: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string()), "source": ["s"] * len(texts)})


def run(texts: list[str], *benchmarks: Benchmark, **options: Any) -> list[dict[str, Any]]:
    batch = Decontamination(benchmarks or (QUIZ,), **options).apply(batch_of(texts))
    batch.validate(full=True)
    return batch.to_pylist()


def test_case_and_punctuation_do_not_count_and_spans_are_given_back() -> None:
    text = f"\u00c9t\u00e9: {FILLER} \u201c" + QUESTION.upper().replace(",", " \u2014") + f"\u201d {FILLER}"
    [row] = run([text])
    [span] = row["contamination"]
    assert span["benchmark"] == "quiz"
    assert (
        text.encode()[span["start"] : span["end"]].decode()
        == span["text"]
        == QUESTION.upper().replace(",", " \u2014")[:-1]
    )
    assert row["contaminated"]
    assert row["text"] == text


def test_twelve_words_of_an_item_are_no_match_and_thirteen_are() -> None:
    words = QUESTION.split()
    rows = run([" ".join(words[:12]), " ".join(words[2:15]), "", "x " + " ".join(words[:12]) + " x"])
    assert [row["contaminated"] for row in rows] == [False, True, False, False]


def test_a_short_item_counts_as_a_whole_from_eight_words_on() -> None:
    rows = run([f"So: {SHORT} Yes.", SHORT, SHORT.replace("card", "cards"), "Too short."])
    assert [row["contaminated"] for row in rows] == [True, True, False, False]
    assert Decontamination((QUIZ,)).left_out == {"quiz": 1}


def test_eight_words_are_an_item_and_seven_are_none() -> None:
    eight, seven = "these are eight words in a short line", "these are seven words in one line"
    quiz = Benchmark("quiz", (eight, seven))
    assert [row["contaminated"] for row in run([f"So {eight}.", f"So {seven}."], quiz)] == [True, False]
    assert Decontamination((quiz,)).left_out == {"quiz": 1}


def test_an_n_gram_of_two_benchmarks_is_shown_for_each() -> None:
    [row] = run([f"{FILLER} {QUESTION}"], QUIZ, Benchmark("copy", (QUESTION + " More of it.",)))
    assert [span["benchmark"] for span in row["contamination"]] == ["quiz", "copy"]


def test_cut_takes_the_margin_in_whole_words() -> None:
    text = f"{FILLER}\n{QUESTION}\n{FILLER}"
    [row] = run([text], action="cut")
    assert not row["contaminated"]
    before, behind = row["text"].split("\n\n")
    assert text.startswith(before)
    assert text.endswith(behind)
    assert not (text[len(before)] + text[-len(behind) - 1]).isalnum()
    left = text.index(QUESTION) - len(before)
    assert 200 <= left <= 212
    assert 200 <= len(text) - len(behind) - text.index(QUESTION) - len(QUESTION) <= 212
    assert run([row["text"]])[0]["contamination"] == []
    [row] = run([text], action="cut", margin=0)
    assert row["text"] == f"{FILLER}\n\n? \n{FILLER}".replace("? \n", "?\n")


def test_cut_leaves_no_small_pieces_and_gives_up_on_many() -> None:
    [row] = run([f"A start. {QUESTION} {FILLER}"], action="cut", margin=0)
    assert row["text"] == "? " + FILLER
    [row] = run([QUESTION], action="cut")
    assert (row["text"], row["contaminated"]) == ("", True)
    many = " ".join([f"{QUESTION} {FILLER}"] * 4)
    assert [run([many], action="cut", max_pieces=most)[0]["contaminated"] for most in (3, 4)] == [True, False]


def test_cut_leaves_no_small_piece_at_the_end() -> None:
    [row] = run([f"{FILLER} {QUESTION} An end."], action="cut", margin=0)
    assert row["text"] == FILLER


@pytest.mark.parametrize(("length", "stays"), [(199, False), (200, True)])
def test_a_piece_of_the_least_size_stays(length: int, stays: bool) -> None:
    piece = "x" * (length - 1) + "\n"
    [row] = run([piece + QUESTION + "\n" + FILLER], action="cut", margin=0)
    assert row["text"].startswith("xxx") == stays
    assert row["text"].endswith(FILLER)
    inner = "!\n" + "x" * (length - 3) + "\n"  # with the mark of the question before
    [row] = run([f"{FILLER}\n{QUESTION[:-1]}{inner}{QUESTION}\n{FILLER}"], action="cut", margin=0)
    assert ("xxx" in row["text"]) == stays


def test_ten_pieces_are_the_most() -> None:
    many = [" ".join([f"{FILLER} {QUESTION}"] * count + [FILLER]) for count in (9, 10)]
    assert [row["contaminated"] for row in run(many, action="cut")] == [False, True]


@pytest.mark.parametrize("margin", [199, 200, 201])
def test_a_margin_that_ends_within_a_character_takes_or_leaves_all_of_it(margin: int) -> None:
    dashes = "\u2014" * 200
    [row] = run([f"{FILLER} {dashes}{QUESTION[:-1]}{dashes} {FILLER}"], action="cut", margin=margin)
    assert not row["contaminated"]
    assert set(row["text"]) <= set(FILLER) | {"\u2014", "\n"}


def test_just_the_share_that_is_asked_for_is_enough() -> None:
    words = QUESTION.split()[:13]
    [row] = run([" ".join(words + ["other"] * 13)], min_share=0.5)
    assert row["contaminated"]


def test_thresholds_are_of_one_benchmark_in_one_document() -> None:
    texts = [QUESTION, f"{QUESTION} {FILLER * 5}"]
    assert [row["contaminated"] for row in run(texts, min_share=0.5)] == [True, False]
    assert [row["contaminated"] for row in run(texts, min_matches=6)] == [True, True]
    assert [row["contaminated"] for row in run(texts, min_matches=7)] == [False, False]


def test_n_grams_of_many_documents_can_be_ignored() -> None:
    texts = [QUESTION] * 3 + [f"{SHORT} {FILLER}"] * 2
    stage = Decontamination((QUIZ,))
    parts = [stage.matched_grams(pa.array(some)) for some in (texts[:1], texts[1:4], texts[4:])]
    ignored = common_grams(parts, max_documents=2)
    assert len(ignored) == len(QUESTION.split()) - 12
    assert [row["contaminated"] for row in run(texts, ignored=ignored)] == [False] * 3 + [True] * 2
    assert len(common_grams(parts)) == len(common_grams([])) == 0


def test_settings_that_cannot_be() -> None:
    for options, message in (({"n": 1}, "n = 2 or more"), ({"action": "mark"}, "'remove' or 'cut'")):
        with pytest.raises(DataError, match=message):
            Decontamination((QUIZ,), **options)
    with pytest.raises(DataError, match="share a name"):
        Decontamination((QUIZ, QUIZ))


def test_without_benchmarks_or_documents() -> None:
    assert run([]) == []
    batch = Decontamination(()).apply(batch_of([QUESTION]))
    assert batch.column("contaminated").to_pylist() == [False]
    assert batch.column("contamination").to_pylist() == [[]]


def reference(text: str, benchmarks: tuple[Benchmark, ...], n: int) -> list[tuple[int, int, str]]:
    """Spans of bytes by a loop over every run of words."""
    places = [(match.group().lower(), match.start(), match.end()) for match in re.finditer(r"[a-z0-9]+", text, re.I)]
    spans = []
    for benchmark in benchmarks:
        wanted = set()
        for item in benchmark.texts:
            words = re.findall(r"[a-z0-9]+", item.lower())
            size = min(n, len(words))
            if size >= min(8, n):
                wanted |= {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}
        inside = [False] * len(places)
        linked = [False] * (len(places) + 1)  # between word i - 1 and i
        for size in {len(one) for one in wanted}:
            for at in range(len(places) - size + 1):
                if tuple(word for word, _, _ in places[at : at + size]) in wanted:
                    inside[at : at + size] = [True] * size
                    linked[at + 1 : at + size] = [True] * (size - 1)
        at = 0
        while at < len(places):
            end = at + 1
            while inside[at] and end < len(places) and inside[end]:
                end += 1  # runs that touch are one
            if inside[at]:
                spans.append((places[at][1], places[end - 1][2], benchmark.name))
            at = end
    return sorted(spans, key=lambda span: (span[0], [one.name for one in benchmarks].index(span[2])))


WORD_TEXTS = st.lists(st.sampled_from(["a", "B", "a.", "b,\n", "c"]), max_size=30).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(WORD_TEXTS, max_size=4),
    st.lists(WORD_TEXTS, max_size=3),
    st.lists(WORD_TEXTS, max_size=3),
    st.integers(2, 10),
)
def test_equals_the_loop_over_words_in_any_batches(texts: list[str], one: list[str], two: list[str], n: int) -> None:
    benchmarks = (Benchmark("one", tuple(one)), Benchmark("two", tuple(two)))
    rows = run(texts, *benchmarks, n=n)
    for row, text in zip(rows, texts, strict=True):
        spans = [(span["start"], span["end"], span["benchmark"]) for span in row["contamination"]]
        assert spans == reference(text, benchmarks, n)
    for action in ("remove", "cut"):
        options: dict[str, Any] = {"n": n, "action": action, "margin": 3, "min_piece": 4, "max_pieces": 3}
        assert run(texts, *benchmarks, **options) == [
            row for text in texts for row in run([text], *benchmarks, **options)
        ]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([QUESTION, FILLER, "\u2014\u201d", "\u4e2d\u6587\u4e2d", " ", SHORT]), max_size=8).map(
        "".join
    ),
    st.integers(0, 9),
)
def test_a_cut_never_parts_a_character_and_leaves_nothing_that_matches(text: str, margin: int) -> None:
    [row] = run([text], action="cut", margin=margin, min_piece=10)
    if not row["contaminated"]:
        assert run([row["text"]], action="cut")[0]["contamination"] == []
        kept = row["text"].replace("\n\n", "")
        assert len(kept) <= len(text)


def test_items_planted_in_novels_are_all_found(shared_data: Path) -> None:
    benchmarks = [
        load_benchmark(shared_data / "lambada" / "lambada_test.jsonl"),
        load_benchmark(shared_data / "blimp" / "adjunct_island.jsonl", fields=["sentence_good", "sentence_bad"]),
    ]
    novel = (shared_data / "novels" / "Burnett_Garden_1911.txt").read_text()
    chapters = [novel[at : at + 20_000] for at in range(0, 400_000, 20_000)]
    stage = Decontamination(benchmarks)
    clean = stage.apply(batch_of(chapters)).column("contaminated").to_pylist()
    assert not any(clean)
    planted = [
        [item for item in benchmark.texts if len(re.findall("[A-Za-z0-9]+", item)) >= 9][number * 7]
        for number, benchmark in enumerate([*benchmarks] * 5)
    ]
    texts = [
        chapter[:9000] + " " + item + " " + chapter[9000:] for chapter, item in zip(chapters, planted, strict=False)
    ]
    rows = run(texts + chapters[10:], *benchmarks)
    assert [row["contaminated"] for row in rows] == [True] * 10 + [False] * 10
    for number, (row, item) in enumerate(zip(rows, planted, strict=False)):
        assert {span["benchmark"] for span in row["contamination"]} >= {benchmarks[number % 2].name}
        assert re.findall(r"\w+", item)[0] in row["contamination"][0]["text"]
    cut = run(texts, *benchmarks, action="cut", margin=0)
    assert not any(row["contamination"] for row in run([row["text"] for row in cut], *benchmarks))
    assert all(19_000 < len(row["text"]) < 20_010 for row in cut)
    assert np.isclose(sum(len(row["text"]) for row in cut), 200_000, rtol=0.05)
    assert json.dumps(cut)
