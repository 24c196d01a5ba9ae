"""Files of documents: cut at their size, counted in bytes, read back in their order."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.corpus.shards import DOCUMENTS, ShardWriter, read_batches, shards_of


def batch_of(*texts: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"id": text, "text": text, "source": "s"} for text in texts], DOCUMENTS)


def rows_of(folder: Path, split: str) -> list[list[str]]:
    return [pq.read_table(path).column("text").to_pylist() for path in shards_of(folder, split)]


def test_a_file_ends_with_the_batch_that_fills_it(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "train", shard_bytes=4) as writer:
        for text in ("aa", "bb", "c", "ddd", "eeeee", "f"):
            writer.write(batch_of(text))
    assert rows_of(tmp_path, "train") == [["aa", "bb"], ["c", "ddd"], ["eeeee"], ["f"]]
    assert [path.name for path in shards_of(tmp_path, "train")] == [f"train-{n:05}.parquet" for n in range(4)]


def test_documents_and_their_bytes_are_counted(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "train") as writer:
        writer.write(batch_of("\u00e9t\u00e9", "x"))
        writer.write(batch_of("", "yz"))
    assert writer.counts() == {"documents": 4, "bytes": 8}
    [path] = shards_of(tmp_path, "train")
    assert pq.read_metadata(path).row_group(0).column(1).compression == "ZSTD"


def test_nothing_written_is_no_file(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "validation") as writer:
        writer.write(batch_of())
    assert writer.counts() == {"documents": 0, "bytes": 0}
    assert not list(tmp_path.iterdir())


def test_a_file_is_whole_after_an_error_too(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path, "train") as writer:
            writer.write(batch_of("a", "b"))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert rows_of(tmp_path, "train") == [["a", "b"]]


def test_batches_come_back_in_order_and_of_one_split(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "train", shard_bytes=1) as train, ShardWriter(tmp_path, "validation") as validation:
        for number in range(12):
            train.write(batch_of(f"{number} a", f"{number} b"))
        validation.write(batch_of("other"))
        validation.write(batch_of("another"))
    batches = list(read_batches(shards_of(tmp_path, "train")))
    assert [text for batch in batches for text in batch.column("text").to_pylist()] == [
        f"{number} {letter}" for number in range(12) for letter in "ab"
    ]
    assert [len(batch) for batch in read_batches(shards_of(tmp_path, "validation"))] == [1, 1]
