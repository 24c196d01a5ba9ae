"""Inputs in, record batches of documents out, with counts that add up."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from datamodules.corpus.reading import hub
from datamodules.corpus.reading.archives import read_archive
from datamodules.corpus.reading.columns import read_arrow, read_parquet
from datamodules.corpus.reading.files import demand_unchanged, printable
from datamodules.corpus.reading.json_blocks import Block
from datamodules.corpus.reading.planning import Part, Shard
from datamodules.corpus.reading.records import PIECE_BYTES, RECORD_BYTES, EncodingErrors, ReadOptions, Record
from datamodules.corpus.reading.rows import read_json_lines, read_table
from datamodules.corpus.reading.sources import Input
from datamodules.corpus.reading.text_files import read_text
from datamodules.corpus.reading.web import read_html
from datamodules.corpus.shards import DOCUMENTS
from datamodules.errors import DataError

BATCH_BYTES = 4 << 20  # of text in one record batch
LONGEST_BYTES = 1 << 30  # of one document: a batch of Arrow strings ends at 2 GiB
SETTLED_ROWS = 1000  # the share of bad rows is judged after this many rows, and at the end of each part


@dataclass
class ReadCounts:
    """What a reader has met: records = documents + the sum of `not_documents`, a count for each reason.

    `bad_rows` are those of `not_documents` that `max_bad_fraction` limits, `replaced` counts U+FFFD put for invalid
    bytes, `bytes` are of text, and an input read in parts counts once.
    """

    inputs: int = 0
    records: int = 0
    documents: int = 0
    bytes: int = 0
    bad_rows: int = 0
    replaced: int = 0
    not_documents: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: "ReadCounts") -> "ReadCounts":
        one, two = self.to_dict(), other.to_dict()
        reasons = Counter(one.pop("not_documents")) + Counter(two.pop("not_documents"))
        return ReadCounts(**{key: one[key] + two[key] for key in one}, not_documents=dict(sorted(reasons.items())))

    def to_dict(self) -> dict[str, Any]:
        """JSON primitives; `ReadCounts(**counts)` is the way back."""
        return asdict(self)


class DocumentReader(Iterator[pa.RecordBatch]):
    """Reads a shard, or inputs one after the other; each item is a batch of DOCUMENTS with about 4 MiB of text.

    A text file is one document (a long one several), so is a row of a table or of a JSON-lines file, a web page, an
    archived page, a topic of `pydoc_data`. The id is the 128-bit hash of (source, shard, key) in hexadecimal digits;
    the key is the place in the input, so documents and ids do not depend on how inputs were made into shards.
    `url` is null but for archived pages. `counts` is up to date after each batch.

    The share of bad rows is limited in each part for itself, that is in each 256 MB or so of a file.

    Raises:
        DataError: for what cannot be read, with the file and the line or byte where it stands.
    """

    def __init__(
        self,
        inputs: Shard | Sequence[Input],
        *,
        text_field: str = "text",
        encoding_errors: EncodingErrors = "replace",
        max_bad_fraction: float = 0.01,
        piece_bytes: int = PIECE_BYTES,
        record_bytes: int = RECORD_BYTES,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self.parts = inputs.parts if isinstance(inputs, Shard) else tuple(Part(item) for item in inputs)
        self.options = ReadOptions(text_field, encoding_errors, piece_bytes, record_bytes, batch_bytes)
        self.max_bad_fraction = max_bad_fraction
        self.batch_bytes = batch_bytes
        self.counts = ReadCounts()
        self._batches = self._read()

    def __next__(self) -> pa.RecordBatch:
        return next(self._batches)

    def _read(self) -> Iterator[pa.RecordBatch]:
        columns: tuple[list[Any], ...] = ([], [], [], [])
        ids, texts, sources, urls = columns
        size = 0
        for part in self.parts:
            item = part.input
            self.counts.inputs += part.start == 0
            prefix = f"{item.source}\0{item.shard}\0"
            for record in self._checked(part):
                if isinstance(record, Block):
                    if ids:  # what was read before it comes before it
                        yield _batch(columns)
                        size = 0
                    yield self._documents(record, prefix, item.source)
                    continue
                text = record.text
                if text is None:
                    continue
                ids.append(xxhash.xxh3_128_hexdigest(f"{prefix}{record.key}".encode()))
                texts.append(text)
                sources.append(item.source)
                urls.append(record.url)
                length = len(text) if text.isascii() else len(text.encode())
                if length > LONGEST_BYTES:
                    raise DataError(f"a document of {part.name} has {length:,} bytes of text; cut it into several")
                size += length
                self.counts.documents += 1
                self.counts.bytes += length
                self.counts.replaced += record.replaced
                if size >= self.batch_bytes:
                    yield _batch(columns)
                    size = 0
        if ids:
            yield _batch(columns)

    def _documents(self, block: Block, prefix: str, source: str) -> pa.RecordBatch:
        n = len(block.keys)
        self.counts.documents += n
        self.counts.bytes += pc.sum(pc.binary_length(block.texts)).as_py() or 0
        ids = [xxhash.xxh3_128_hexdigest(f"{prefix}{key}".encode()) for key in block.keys]
        return pa.RecordBatch.from_arrays(
            [pa.array(ids, pa.string()), block.texts, pa.repeat(source, n), pa.nulls(n, pa.string())], schema=DOCUMENTS
        )

    def _checked(self, part: Part) -> Iterator[Record | Block]:
        """Count the records that are no documents; bad rows are let pass up to the share that is allowed."""
        reasons = self.counts.not_documents
        rows = bad = 0
        first: Record | None = None
        for record in _records(part, self.options):
            if isinstance(record, Block):
                self.counts.records += len(record.keys)
                rows += len(record.keys)
                yield record
                continue
            self.counts.records += 1
            rows += 1
            if record.text is None:
                reasons[record.reason] = reasons.get(record.reason, 0) + 1
            if record.complaint is not None:
                bad += 1
                self.counts.bad_rows += 1
                first = first or record
                if bad > self.max_bad_fraction * max(SETTLED_ROWS, rows):
                    break
            yield record
        if part.input.path is not None and part.input.state is not None:
            demand_unchanged(part.input.path, part.input.state)
        if first is not None and first.complaint is not None and bad > self.max_bad_fraction * rows:
            advice = "mend the file or raise max_bad_fraction"
            if first.reason == "missing_field":
                advice = "set text_field to a field that is there, mend the file or raise max_bad_fraction"
            raise DataError(
                f"{_where(part)}: {bad} of the first {rows} rows cannot be used, the first of them "
                f"{first.complaint()}; {advice} (now {self.max_bad_fraction:g})"
            )


def _batch(columns: tuple[list[Any], ...]) -> pa.RecordBatch:
    """The batch of what the columns hold; they are empty afterwards."""
    batch = pa.RecordBatch.from_arrays(list(columns), schema=DOCUMENTS)
    for column in columns:
        column.clear()
    return batch


def _where(part: Part) -> str:
    return part.input.source if part.input.path is None else printable(part.input.path)


def _records(part: Part, options: ReadOptions) -> Iterator[Record | Block]:
    item, start, end = part.input, part.start, part.end
    if item.format in ("hub", "saved"):
        return hub.read_rows(item.format, item.source, item.path, start, end, options.text_field)
    assert item.path is not None
    match item.format:
        case "topics":
            return _topics()
        case "text":
            return read_text(item.path, start, end, options)
        case "jsonl":
            return read_json_lines(item.path, start, end, options)
        case "parquet":
            return read_parquet(item.path, start, end, options)
        case "arrow":
            return read_arrow(item.path, start, end, options)
        case "html":
            return read_html(item.path, options)
        case "warc":
            return read_archive(item.path, options)
        case _:
            return read_table(item.path, "\t" if item.format == "tsv" else ",", options)


def _topics() -> Iterator[Record]:
    from pydoc_data.topics import topics

    return (Record(number, topics[name]) for number, name in enumerate(sorted(topics)))
