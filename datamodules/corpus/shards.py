"""Documents on disk: Parquet files, read and written a record batch at a time."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

DOCUMENTS = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("source", pa.string()), ("url", pa.string())]
)  # url is null for what was not fetched from one
SHARD_BYTES = 256 << 20  # of text in one file


class ShardWriter:
    """Writes the documents of a split into `split-00000.parquet`, `split-00001.parquet`, ..."""

    def __init__(self, folder: Path, split: str, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = folder
        self.split = split
        self.shard_bytes = shard_bytes
        self.documents = self.bytes = self.shards = self.in_shard = 0
        self.writer: pq.ParquetWriter | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch; it becomes one row group, so that reading needs no more memory than writing."""
        if len(batch) == 0:
            return
        if self.writer is None:
            path = self.folder / f"{self.split}-{self.shards:05}.parquet"
            self.writer = pq.ParquetWriter(path, DOCUMENTS, compression="zstd", use_dictionary=["source"])
            self.shards += 1
            self.in_shard = 0
        self.writer.write_batch(batch)
        size = pc.sum(pc.binary_length(batch.column("text"))).as_py()
        self.documents += len(batch)
        self.bytes += size
        self.in_shard += size
        if self.in_shard >= self.shard_bytes:
            self.close()

    def close(self) -> None:
        if self.writer is not None:
            writer, self.writer = self.writer, None
            writer.close()

    def counts(self) -> dict[str, int]:
        return {"documents": self.documents, "bytes": self.bytes}

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def shards_of(folder: Path, split: str) -> list[Path]:
    """The files of a split in a documents folder, in order."""
    return sorted(folder.glob(f"{split}-*.parquet"))


def read_batches(paths: list[Path]) -> Iterator[pa.RecordBatch]:
    """The record batches of several files, one row group (about 4 MiB of text) in memory at a time."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_batches()
