"""A run's steps use what belongs to them: each setting counts, and what was made under another is not taken."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpus.curation import Curation
from datamodules.corpus.duplicates.minhash import MinHash
from datamodules.corpus.engine import Engine
from datamodules.corpus.pipeline import Pipeline
from datamodules.corpus.run import link_all
from datamodules.corpus.shards import read_batches, shards_of
from datamodules.errors import DataError

MENU, NOTICE = "Home and news and contact", "All rights reserved by us"
QUESTION = "which of the two travellers, do you think, wrote to anna@site.org about the road that day"
FILLER = " ".join(f"filler{number} goes on." for number in range(60))

Made = tuple[dict[str, Any], list[str], list[str]]
Make = Callable[..., Made]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Write texts, make their documents in one cache, and return the report and the texts of both sides."""

    def make(texts: list[str], fraction: float = 0.0, text_field: str = "text", **curation: Any) -> Made:
        rows = [{"text": text, "other": text.upper(), "number": n} for n, text in enumerate(texts)]
        (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        folder = (
            Pipeline(
                str(tmp_path / "texts.jsonl"),
                text_field=text_field,
                validation_fraction=fraction,
                curation=Curation(**curation),
                engine=Engine(workers=1),
            )
            .prepare(tmp_path / "cache")
            .folder
        )
        sides = [
            [text for batch in read_batches(shards_of(folder, side)) for text in batch.column("text").to_pylist()]
            for side in ("train", "validation")
        ]
        return json.loads((folder / "report.json").read_text()), sides[0], sides[1]

    return make


def benchmark(tmp_path: Path, text: str = QUESTION) -> list[str]:
    path = tmp_path / "quiz.jsonl"
    path.write_text(json.dumps({"question": text}) + "\n")
    return [str(path)]


def test_another_setting_of_the_reader_reads_again(made: Make) -> None:
    assert made(["one", "two"])[1] == ["one", "two"]
    assert made(["one", "two"], text_field="other")[1] == ["ONE", "TWO"]


def test_another_cleaning_reads_again(made: Make) -> None:
    assert made(["one  ", "two"])[1] == ["one  ", "two"]
    assert made(["one  ", "two"], whitespace=True)[1] == ["one", "two"]


def test_another_fraction_cuts_the_tails_again(made: Make) -> None:
    text = "".join(f"line {number:03}\n" for number in range(100))
    for fraction, lines in ((0.1, 10), (0.2, 20)):
        report, train, validation = made([text], fraction)
        assert [len(side[0].splitlines()) for side in (train, validation)] == [100 - lines, lines]
        assert report["split"] == {"by": "tails", "asked": fraction, "share_of_bytes": fraction}
        assert report["kept"]["documents"] == 1


def test_other_settings_of_minhash_sign_again(made: Make) -> None:
    words = [f"word{number}" for number in range(400)]
    half = [" ".join(words), " ".join([*words[:270], *(f"new{number}" for number in range(130))])]
    for minhash, kept in ((MinHash(), 2), (MinHash(bands=40, rows=2), 1)):
        assert len(made(half, near_duplicates=0.4, minhash=minhash)[1]) == kept


def test_lines_are_dropped_from_as_many_documents_on_as_is_asked(made: Make) -> None:
    texts = [f"{MENU}\n{NOTICE}\n\nfirst of all", f"{MENU}\n{NOTICE}\n\nsecond of all", f"{MENU}\n\nthird of all"]
    for start, menus, notices in ((2, 1, 1), (3, 1, 2), (4, 3, 2)):
        report, train, _ = made(texts, duplicate_lines="line", duplicate_lines_from=start)
        assert [sum(line in text for text in train) for line in (MENU, NOTICE)] == [menus, notices]
        assert report.get("lines", {}).get("removed") == 5 - menus - notices
    # The first two share a paragraph, the third has one that is another.
    _, train, _ = made(texts, duplicate_lines="paragraph", duplicate_lines_from=2)
    assert [sum(line in text for text in train) for line in (MENU, NOTICE)] == [2, 1]
    assert train[2] == texts[2]
    assert made(texts)[1] == texts


def test_lines_are_counted_in_the_documents_that_are_kept(made: Make) -> None:
    texts = [f"{MENU}\nshort", f"{MENU}\n{FILLER}", "something else entirely"]
    rules = {"gopher_quality": {"min_words": 20, "min_stop_words": 0, "max_words": 1000}}
    _, train, _ = made(texts, filters=rules, duplicate_lines="line", duplicate_lines_from=2)
    assert train == [texts[1]]


def test_lines_of_each_shard_are_counted_by_its_own_decisions(tmp_path: Path) -> None:
    # The first document of the first shard is dropped, and the second of the second.
    shards = [["short " + MENU, f"{FILLER}\n{MENU}"], [f"{FILLER} more\n{MENU}", f"short {MENU}\n{MENU}"]]
    for number, texts in enumerate(shards):
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rules = {"gopher_quality": {"min_words": 20, "min_stop_words": 0, "max_words": 1000}}
    curation = Curation(near_duplicates=None, filters=rules, duplicate_lines="line", duplicate_lines_from=2)
    sources = [str(tmp_path / f"{number}.jsonl") for number in range(2)]
    pipeline = Pipeline(sources, validation_fraction=0.0, curation=curation, engine=Engine(workers=1), shard_bytes=100)
    folder = pipeline.prepare(tmp_path / "cache").folder
    report = json.loads((folder / "report.json").read_text())
    assert report["shards"] > 1
    assert report["kept"]["documents"] == 2
    assert report["lines"]["removed"] == 1


def test_a_document_of_which_nothing_is_left_is_counted(made: Make) -> None:
    texts = [MENU, MENU + "\n", f"{MENU}\nwith a text of its own"]
    report, train, _ = made(texts, duplicate_lines="line", duplicate_lines_from=2)
    emptied = report["dropped"].get("emptied", {"documents": 0})["documents"]
    assert report["kept"]["documents"] == len(train) == 3 - emptied
    assert emptied == 3 - len(train) > 0
    assert report["dropped"]["emptied"]["bytes"] > 0
    assert report["stages"][-1]["documents_out"] == len(train)


def test_texts_of_benchmarks_are_removed_or_cut_before_anything_is_replaced(made: Make, tmp_path: Path) -> None:
    texts = [f"{FILLER} {QUESTION} {FILLER}", "write to bob@site.org", QUESTION + " is a question"]
    report, train, _ = made(texts, benchmarks=benchmark(tmp_path), pii=["email"])
    assert train == ["write to [EMAIL]"]
    assert report["dropped"]["contaminated"]["documents"] == 2
    assert report["contamination"]["quiz"]["documents"] == 2
    assert "measure" not in report["steps"]
    report, train, _ = made(texts, benchmarks=benchmark(tmp_path), pii=["email"], benchmark_action="cut")
    assert len(train) == 2
    assert train[0].startswith("filler0 goes on.")
    assert "travellers" not in train[0]
    assert report["pii"] == {"email": 1}
    assert report["contamination"]["quiz"]["documents"] == 2
    assert made(texts, pii=["email"])[1][0].count("travellers") == 1


def test_another_benchmark_in_the_same_file_is_looked_for_again(made: Make, tmp_path: Path) -> None:
    texts = [QUESTION, FILLER, "another text"]
    assert made(texts, benchmarks=benchmark(tmp_path))[1] == texts[1:]
    assert made(texts, benchmarks=benchmark(tmp_path, FILLER))[1] == [texts[0], texts[2]]


def test_languages_and_sources_are_reported(made: Make) -> None:
    texts = ["The old man walked slowly through the village.", "Der alte Mann ging langsam durch das Dorf."]
    report, train, _ = made(texts, languages=["de"], weights={"texts.jsonl": 1})
    assert train == texts[1:]
    assert report["kept_languages"] == ["de"]
    assert {name: told["kept_documents"] for name, told in report["languages"].items()} == {"de": 1, "en": 0}
    assert report["sources"]["texts.jsonl"]["epochs"] == 1


def test_the_report_follows_bytes_and_work_through_the_stages(made: Make) -> None:
    texts = [f"{FILLER} {number} and a@b{number}.org too." for number in range(3)] + [FILLER, FILLER, "short"]
    report, train, _ = made(texts, filters={"c4": {}, "fineweb": {}}, pii=["email"])
    assert report["dropped"]["near_duplicate"]["documents"] == 3
    stages = {stage["name"]: stage for stage in report["stages"]}
    for before, after in zip(report["stages"], report["stages"][1:], strict=False):
        assert before["bytes_out"] == after["bytes_in"]
        assert before["documents_out"] == after["documents_in"]
    assert stages["write"]["bytes_out"] == sum(len(text.encode()) for text in train)
    with_work = {name for name, stage in stages.items() if "cpu_seconds" in stage}
    assert with_work == {"read", "c4", "near_duplicate", "write"}
    assert set(report["steps"]) == {"read", "measure", "sign", "write"}


def test_other_documents_have_another_digest(made: Make) -> None:
    assert made(["one", "two"])[0]["digest"] != made(["one", "three"])[0]["digest"]


def test_too_many_near_duplicates_are_told_with_the_text_of_one(made: Make) -> None:
    with pytest.raises(DataError, match=r"near_duplicate removed 119 of 120 documents .*'filler0 goes on"):
        made([f"{FILLER * 3} number {number}" for number in range(120)])


def test_validation_alone_is_no_corpus(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text("the same text")
    pipeline = Pipeline(
        str(tmp_path / "train.txt"), validation_sources=str(tmp_path / "validation.txt"), engine=Engine(workers=1)
    )
    with pytest.raises(DataError, match="no text for training: of 2 documents 1 were dropped as in_validation"):
        pipeline.prepare(tmp_path / "cache")


@pytest.mark.parametrize("linked", [True, False])
def test_files_of_all_shards_get_one_row_of_numbers(
    linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not linked:

        def refuse(source: Path, target: Path) -> None:
            raise OSError("another disk")

        monkeypatch.setattr(os, "link", refuse)
    for shard in ("one", "two"):
        (tmp_path / shard).mkdir()
        for name in ("train-00000", "train-00001", "validation-00000"):
            (tmp_path / shard / f"{name}.parquet").write_text(f"{shard} {name}")
    (tmp_path / "all").mkdir()
    link_all(tmp_path / "all", [tmp_path / "one", tmp_path / "two"])
    assert {path.name: path.read_text() for path in sorted((tmp_path / "all").iterdir())} == {
        "train-00000.parquet": "one train-00000",
        "train-00001.parquet": "one train-00001",
        "train-00002.parquet": "two train-00000",
        "train-00003.parquet": "two train-00001",
        "validation-00000.parquet": "one validation-00000",
        "validation-00001.parquet": "two validation-00000",
    }
