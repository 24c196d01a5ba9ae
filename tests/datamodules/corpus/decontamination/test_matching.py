"""The stage that a worker builds from the files of benchmarks."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from datamodules.corpus.curation import Curation

ONE = "alpha beta gamma delta epsilon zeta eta theta iota kappa"
TWO = "one two three four five six seven eight nine ten"


def matched(tmp_path: Path, texts: list[str], **settings: Any) -> list[dict[str, Any]]:
    for name, text in (("one", ONE), ("two", TWO)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    paths = [str(tmp_path / name) for name in ("one.jsonl", "two.jsonl")]
    stage = Curation(benchmarks=paths, **settings).matching()
    assert stage is not None
    return stage.apply(pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string())})).to_pylist()


def test_every_file_and_the_number_of_words_count(tmp_path: Path) -> None:
    texts = [f"so {ONE[:22]} on", f"so {TWO[:23]} on", "nothing of it"]  # four and five words
    assert [row["contaminated"] for row in matched(tmp_path, texts, benchmark_words=4)] == [True, True, False]
    assert [row["contaminated"] for row in matched(tmp_path, texts, benchmark_words=5)] == [False, True, False]
    assert [row["contaminated"] for row in matched(tmp_path, texts)] == [False, False, False]


def test_cut_takes_the_words_out(tmp_path: Path) -> None:
    far = "something else entirely goes on here. " * 20
    [row] = matched(tmp_path, [f"{far}{ONE} {far}"], benchmark_action="cut")
    assert not row["contaminated"]
    assert "epsilon" not in row["text"]
    assert row["text"].startswith("something else")


def test_changed_contents_are_another_stage(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    stages = []
    for text in (ONE, TWO, ONE):
        path.write_text(text)
        stages.append(Curation(benchmarks=[str(path)]).matching())
    assert stages[0] == stages[2] != stages[1]
    for stage, hit in zip(stages[1:], (False, True), strict=True):
        path.write_text(TWO if stage == stages[1] else ONE)
        assert stage is not None
        batch = stage.apply(pa.RecordBatch.from_pydict({"text": pa.array([ONE], pa.string())}))
        assert batch.column("contaminated").to_pylist() == [hit]
