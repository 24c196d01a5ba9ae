import hashlib
import json
import random
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datamodules.artefacts import Artefact
from datamodules.corpus.pipeline import Pipeline
from datamodules.corpus.shards import ShardWriter, read_batches, shards_of
from datamodules.errors import DataError


def prepare(cache: Path, *sources: Path, **options: Any) -> Artefact:
    return Pipeline([str(source) for source in sources], **options).prepare(cache)


def documents(artefact: Artefact, split: str) -> list[str]:
    return [
        text for batch in read_batches(shards_of(artefact.folder, split)) for text in batch.column("text").to_pylist()
    ]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def unique_texts(n: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() * 4 for number in range(n)]


def counts_add_up(artefact: Artefact) -> None:
    counts = artefact.manifest["counts"]
    assert counts["read"]["documents"] == counts["kept"]["documents"] + sum(counts["dropped"].values())
    for split in ("train", "validation"):
        kept = documents(artefact, split)
        assert counts["kept"][split] == {"documents": len(kept), "bytes": sum(len(text.encode()) for text in kept)}


def test_counts_add_up_and_duplicates_are_found_after_cleaning(tmp_path: Path) -> None:
    texts = [*unique_texts(500), "twice\r\n", "twice\n", "e\u0301", "\u00e9", "", " \n\t ", "\x00"]
    source = write_jsonl(tmp_path / "a.jsonl", texts)
    with source.open("a") as file:
        file.write("not json\n")
    artefact = prepare(tmp_path / "cache", source)
    counts = artefact.manifest["counts"]
    assert counts["read"]["documents"] == 507
    assert counts["read"]["bad_rows"] == 1
    assert counts["dropped"] == {"empty": 3, "duplicate": 2}
    counts_add_up(artefact)
    kept = documents(artefact, "train") + documents(artefact, "validation")
    assert Counter(kept) == Counter([*texts[:500], "twice\n", "\u00e9"])
    assert not list(artefact.folder.glob(".*"))


def test_the_split_depends_on_neither_order_nor_names(tmp_path: Path) -> None:
    texts = [*unique_texts(400), *unique_texts(100)]
    sides = []
    for trial in range(3):
        random.Random(trial).shuffle(texts)
        folder = tmp_path / f"trial{trial}"
        folder.mkdir()
        for number in range(3):
            write_jsonl(folder / f"{trial}{number}.jsonl", texts[number::3])
        artefact = prepare(tmp_path / "cache", folder)
        assert artefact.manifest["split"]["by"] == "documents"
        sides.append((set(documents(artefact, "train")), set(documents(artefact, "validation"))))
        assert artefact.manifest["counts"]["dropped"]["duplicate"] == 100
    assert sides[0] == sides[1] == sides[2]
    train, validation = sides[0]
    assert not train & validation
    assert 0.025 < len(validation) / 400 < 0.1


def test_few_long_documents_are_split_at_their_tails(tmp_path: Path) -> None:
    text = "".join(f"line number {number}\n" for number in range(2000))
    (tmp_path / "one.txt").write_text(text)
    artefact = prepare(tmp_path / "cache", tmp_path / "one.txt", validation_fraction=0.1)
    assert artefact.manifest["split"]["by"] == "tails"
    assert artefact.manifest["split"]["share_of_bytes"] == pytest.approx(0.1, abs=0.001)
    (train,), (validation,) = documents(artefact, "train"), documents(artefact, "validation")
    assert train + validation == text
    assert train.endswith("\n")
    counts_add_up(artefact)


def test_no_validation_at_all(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", unique_texts(50))
    artefact = prepare(tmp_path / "cache", source, validation_fraction=0.0)
    assert len(documents(artefact, "train")) == 50
    assert documents(artefact, "validation") == []


def test_own_validation_texts_leave_the_train_split(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", [*unique_texts(20), "shared\r\n", "also shared"])
    validation = write_jsonl(tmp_path / "validation.jsonl", ["shared\n", "also shared", "also shared", "own"])
    artefact = prepare(tmp_path / "cache", train, validation_sources=[str(validation)])
    assert sorted(documents(artefact, "validation")) == ["also shared", "own", "shared\n"]
    assert sorted(documents(artefact, "train")) == sorted(unique_texts(20))
    assert artefact.manifest["counts"]["dropped"] == {"duplicate": 1, "in_validation": 2}
    assert artefact.manifest["split"]["by"] == "sources"
    counts_add_up(artefact)


def test_one_changed_byte_makes_the_documents_anew_and_the_log_names_the_file(
    tmp_path: Path, texts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "datamodules")
    first = prepare(tmp_path / "cache", texts)
    assert "there is none yet" in caplog.text
    assert prepare(tmp_path / "cache", texts).reused
    changed = texts / "007.txt"
    changed.write_text("T" + changed.read_text()[1:])
    (texts / "008.txt").rename(texts / "new.txt")
    caplog.clear()
    second = prepare(tmp_path / "cache", texts)
    assert not second.reused
    assert second.folder != first.folder
    assert "changed: train: texts/007.txt" in second.reason
    assert "new: train: texts/new.txt" in second.reason
    assert "gone: train: texts/008.txt" in second.reason
    assert second.reason in caplog.text


def test_a_changed_setting_is_named(tmp_path: Path, texts: Path) -> None:
    prepare(tmp_path / "cache", texts)
    again = prepare(tmp_path / "cache", texts, validation_fraction=0.2)
    assert again.reason.endswith("validation_fraction 0.05 -> 0.2")


def test_a_moved_corpus_is_the_same_corpus(tmp_path: Path, texts: Path) -> None:
    first = prepare(tmp_path / "cache", texts)
    (tmp_path / "elsewhere").mkdir()
    moved = texts.rename(tmp_path / "elsewhere" / "texts")
    assert prepare(tmp_path / "cache", moved).folder == first.folder


def test_a_corpus_of_blanks_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["", " ", "\n"])
    with pytest.raises(DataError, match="no text for training: of 3 documents 3 were dropped as empty"):
        prepare(tmp_path / "cache", source)
    assert not list((tmp_path / "cache").glob("*documents*"))


@pytest.mark.parametrize(
    "options", [{"validation_fraction": 1.0}, {"validation_fraction": -0.1}, {"max_bad_fraction": 2}]
)
def test_settings_out_of_range(tmp_path: Path, texts: Path, options: dict[str, float]) -> None:
    with pytest.raises(DataError, match="it can be 0 up to"):
        prepare(tmp_path / "cache", texts, **options)


def test_shards_are_cut_at_their_size(tmp_path: Path, texts: Path) -> None:
    artefact = prepare(tmp_path / "cache", texts, validation_fraction=0.0)
    (shard,) = shards_of(artefact.folder, "train")
    batch = pq.read_table(shard).combine_chunks().to_batches()[0]
    with ShardWriter(tmp_path, "train", shard_bytes=10_000) as writer:
        for row in range(len(batch)):
            writer.write(batch.slice(row, 1))
    shards = shards_of(tmp_path, "train")
    assert len(shards) > 5
    assert pq.read_table(shards).num_rows == writer.documents == 60


def test_one_large_file_needs_little_memory(tmp_path: Path) -> None:
    line = "all work and no play makes a dull corpus\n"
    with (tmp_path / "big.txt").open("w") as file:
        for number in range(100):
            file.write(f"{number}\n" + line * 20_000)  # 82 MB in all
    tracemalloc.start()
    artefact = prepare(tmp_path / "cache", tmp_path / "big.txt")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert artefact.manifest["counts"]["read"]["documents"] > 4
    assert peak < 200e6  # Python's own; Arrow's buffers hold one batch
