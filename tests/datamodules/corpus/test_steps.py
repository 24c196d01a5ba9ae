"""The pipeline over shards: the same answer however it is done, and nothing done twice."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.artefacts import Artefact, Recipe
from datamodules.corpus.curation import Curation
from datamodules.corpus.duplicates.minhash import MinHash
from datamodules.corpus.engine import Engine
from datamodules.corpus.pipeline import Pipeline
from datamodules.corpus.shards import read_batches, shards_of
from datamodules.corpus.steps import ShardTask, Sign, run_steps
from datamodules.errors import DataError

WORDS = [f"{a}{b}" for a in ("ba", "ne", "ko", "ri", "tu") for b in ("lo", "mi", "sa", "xe")]
CURATION = {
    "filters": {"gopher_quality": {"min_words": 20, "min_stop_words": 0}},
    "duplicate_lines": "line",
    "pii": ["email"],
    "whitespace": True,
}


def prose(seed: int, length: int = 120) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + str(draw.randrange(50)) for _ in range(length))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Texts with exact and near duplicates, common lines, addresses, and some that are too short."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    texts = [prose(n) for n in range(300)]
    texts += texts[:20]
    texts += [text + " one more word" for text in texts[20:60]]
    texts += [
        f"{prose(1000 + n)}\nAll rights reserved by nobody in particular.\nwrite to a{n}@site.org" for n in range(30)
    ]
    texts += ["too short"] * 3 + ["", " "]
    random.Random(0).shuffle(texts)
    for part in range(6):
        lines = (json.dumps({"text": text}) + "\n" for text in texts[part::6])
        (folder / f"{part}.jsonl").write_text("".join(lines))
    return folder


def pipeline(corpus: Path, *, workers: int = 1, sources: list[str] | None = None, **changes: Any) -> Pipeline:
    return Pipeline(
        sources or str(corpus),
        curation=Curation(**{**CURATION, **changes}),  # type: ignore[arg-type]
        engine=Engine(workers=workers),
        shard_bytes=40_000,
    )


def report_of(artefact: Artefact) -> dict[str, Any]:
    return json.loads((artefact.folder / "report.json").read_text())


def test_counts_add_up_and_everything_is_reported(corpus: Path, tmp_path: Path) -> None:
    artefact = pipeline(corpus).prepare(tmp_path / "cache")
    report = report_of(artefact)
    dropped = {reason: told["documents"] for reason, told in report["dropped"].items()}
    assert dropped == {"empty": 2, "gopher_quality.min_words": 3, "duplicate": 20, "near_duplicate": 40}
    assert report["shards"] > 3
    assert report["read"]["documents"] == 395 == report["kept"]["documents"] + sum(dropped.values())
    assert report["pii"] == {"email": 30}
    assert report["lines"]["removed"] == 29
    assert report["duplicates"]["cluster_sizes"] == {"2": 60}
    assert all(pair["jaccard"] >= 0.8 for pair in report["duplicates"]["pairs"])
    written = [
        text
        for side in ("train", "validation")
        for batch in read_batches(shards_of(artefact.folder, side))
        for text in batch.column("text").to_pylist()
    ]
    assert len(written) == report["kept"]["documents"]
    assert sum("All rights reserved" in text for text in written) == 1
    assert sum("[EMAIL]" in text for text in written) == 30
    assert (artefact.folder / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_near_duplicates_never_straddle_the_split(corpus: Path, tmp_path: Path) -> None:
    kept = Pipeline(
        str(corpus), curation=Curation(near_duplicates=None), validation_fraction=0.3, engine=Engine(workers=1)
    ).prepare(tmp_path / "cache")
    together = Pipeline(
        str(corpus), curation=Curation(near_duplicates=1.0), validation_fraction=0.3, engine=Engine(workers=1)
    ).prepare(tmp_path / "cache")

    def straddling(artefact: Artefact) -> int:
        sides = [
            {
                text.removesuffix(" one more word")
                for batch in read_batches(shards_of(artefact.folder, side))
                for text in batch.column("text").to_pylist()
            }
            for side in ("train", "validation")
        ]
        return len(sides[0] & sides[1])

    assert straddling(kept) > 0
    assert straddling(together) == 0


def test_the_answer_depends_on_neither_workers_nor_order(corpus: Path, tmp_path: Path) -> None:
    digests = {
        pipeline(corpus, workers=workers).prepare(tmp_path / str(workers)).manifest["digest"] for workers in (1, 2)
    }
    files = sorted((str(path) for path in corpus.iterdir()), reverse=True)
    forth = pipeline(corpus, sources=sorted(files)).prepare(tmp_path / "forth").manifest["digest"]
    back = pipeline(corpus, sources=files).prepare(tmp_path / "back").manifest["digest"]
    assert len(digests) == 1
    assert back == forth


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="datamodules"):
        yield caplog


def test_only_what_lies_behind_a_change_is_done_again(
    corpus: Path, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    pipeline(corpus).prepare(cache)
    told.clear()
    looser = {"gopher_quality": {"min_words": 10, "min_stop_words": 0}}
    artefact = pipeline(corpus, filters=looser).prepare(cache)
    for step in ("read", "measure", "sign"):
        assert f"{step}: reused all" in told.text
    assert "min_words" in told.text
    assert artefact.manifest["digest"] == pipeline(corpus).prepare(cache).manifest["digest"]  # none has 10 to 20 words

    told.clear()
    pipeline(corpus, whitespace=False).prepare(cache)
    assert "read: reused" not in told.text
    assert "Whitespace" in told.text

    told.clear()
    more = {"text": prose(5000)}
    (corpus / "more.jsonl").write_text(json.dumps(more) + "\n")
    pipeline(corpus).prepare(cache)
    assert "reused" in next(line for line in told.text.splitlines() if "read: " in line)


def test_what_workers_were_at_when_another_failed_is_removed(tmp_path: Path) -> None:
    class Failing:
        def run(self, tasks: Any) -> Any:
            (tmp_path / ".sign-1.2.partial").mkdir()
            (tmp_path / ".sign-1.lock").touch()
            raise DataError("a file cannot be read")

    task = ShardTask(Recipe("read", 1, {}, {}), tmp_path, lambda folder: {})
    with pytest.raises(DataError, match="a file cannot be read"):
        run_steps({"read": [task]}, Failing(), lambda record: None)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_signatures_are_written_and_not_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A mapping ends the process when the disk is full (SIGBUS), and nobody is told why.
    monkeypatch.setattr(np, "memmap", lambda *_, **__: pytest.fail("mapped"))
    texts = [prose(n) for n in range(20)]
    table = pa.table({"text": texts, "size": [len(text) for text in texts]})
    pq.write_table(table, tmp_path / "documents.parquet")
    assert Sign(tmp_path / "documents.parquet", MinHash())(tmp_path)["documents"] == 20
    sketches = MinHash().sketch(pa.array(texts))
    assert (np.load(tmp_path / "keys.npy") == sketches.keys).all()
    assert (np.load(tmp_path / "signatures.npy") == sketches.signatures).all()


def test_a_disk_without_room_is_found_before_the_work(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datamodules.corpus import pipeline as module
    from datamodules.errors import DataError

    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match=r" has 0 MB free, .* make room, or choose another folder with cache_dir"):
        pipeline(corpus).prepare(tmp_path / "cache")
    assert not (tmp_path / "cache" / "work").exists()


PROGRAM = f"""
import sys
from pathlib import Path
from datamodules.corpus.curation import Curation
from datamodules.corpus.duplicates.minhash import MinHash
from datamodules.corpus.engine import Engine
from datamodules.corpus.pipeline import Pipeline
_, corpus, cache, workers = sys.argv
curation = Curation(**{CURATION!r})
made = Pipeline(corpus, curation=curation, engine=Engine(workers=int(workers)), shard_bytes=40_000).prepare(Path(cache))
print(made.manifest["digest"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "rounds"), [(1, 6), (2, 4)])
def test_killed_at_any_moment_it_goes_on_to_the_same_answer(
    corpus: Path, tmp_path: Path, workers: int, rounds: int
) -> None:
    expected = pipeline(corpus).prepare(tmp_path / "whole").manifest["digest"]

    def start(cache: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(corpus), str(cache), str(workers)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    began = time.monotonic()
    assert start(tmp_path / "timed").communicate()[0].strip() == expected
    length = time.monotonic() - began
    draw, kills = random.Random(workers), 0
    for number in range(rounds):
        cache = tmp_path / str(number)
        for _ in range(4):
            process = start(cache)
            try:
                process.wait(timeout=draw.uniform(0.2, 0.6) * length)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
            process.communicate()
        assert start(cache).communicate()[0].strip() == expected
        assert not [path for path in cache.rglob("*") if path.name.endswith((".partial", ".lock"))]
    print(f"{kills} kills")
    assert kills >= rounds
