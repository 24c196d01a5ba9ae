"""Inputs in, record batches of documents out, with counts that add up."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from datamodules.corpus.hub import rows_of, stream_hub, stream_saved
from datamodules.corpus.shards import DOCUMENTS
from datamodules.corpus.sources import Input
from datamodules.errors import DataError

EncodingErrors = Literal["replace", "strict"]

DAMAGED = (OSError, EOFError, zlib.error, pa.ArrowException)  # what the streams of damaged files raise

BATCH_BYTES = 8 << 20  # of text in one record batch
PIECE_BYTES = 16 << 20  # a longer text file is read as several documents of about this size, cut at line ends
LONGEST_BYTES = 1 << 30  # of one document: a batch of Arrow strings ends at 2 GiB
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SNIFFED_BYTES = 8000  # git calls a file binary if a NUL stands in its first 8,000 bytes; so do we
UNDECODABLE = 0.1  # share of undecodable bytes above which a file is no UTF-8 text with slips but something else
SETTLED_ROWS = 1000  # the share of bad rows is judged after this many rows, and at the end of each file


@dataclass
class ReadCounts:
    """What a reader has met: every row is a document or bad; `replaced` counts U+FFFD put for invalid UTF-8."""

    inputs: int = 0
    documents: int = 0
    bytes: int = 0
    bad_rows: int = 0
    replaced: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


class DocumentReader(Iterator[pa.RecordBatch]):
    """Reads inputs one after the other; each item is a batch of `id`, `text`, `source` with about 8 MiB of text.

    A text file is one document, a row of a table or of a JSON-lines file is one, a topic of `pydoc_data` is one.
    The id is the 128-bit hash of (source, shard, row) in hexadecimal digits. `counts` is up to date after each batch.

    Raises:
        DataError: for what cannot be read, with the file and the line or byte where it stands.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        *,
        text_field: str = "text",
        encoding_errors: EncodingErrors = "replace",
        max_bad_fraction: float = 0.01,
        piece_bytes: int = PIECE_BYTES,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self.inputs = inputs
        self.text_field = text_field
        self.encoding_errors = encoding_errors
        self.max_bad_fraction = max_bad_fraction
        self.piece_bytes = piece_bytes
        self.batch_bytes = batch_bytes
        self.counts = ReadCounts()
        self._batches = self._read()

    def __next__(self) -> pa.RecordBatch:
        return next(self._batches)

    def _read(self) -> Iterator[pa.RecordBatch]:
        ids: list[str] = []
        texts: list[str] = []
        sources: list[str] = []
        size = 0
        for item in self.inputs:
            self.counts.inputs += 1
            prefix = f"{item.source}\0{item.shard}\0"
            for row, text in self._rows(item):
                ids.append(xxhash.xxh3_128_hexdigest(f"{prefix}{row}".encode()))
                texts.append(text)
                sources.append(item.source)
                length = len(text) if text.isascii() else len(text.encode())
                if length > LONGEST_BYTES:
                    raise DataError(f"row {row + 1} of {item.name} has {length:,} bytes of text; cut it into documents")
                size += length
                self.counts.documents += 1
                self.counts.bytes += length
                if size >= self.batch_bytes:
                    yield pa.RecordBatch.from_arrays([ids, texts, sources], schema=DOCUMENTS)
                    ids, texts, sources, size = [], [], [], 0
        if ids:
            yield pa.RecordBatch.from_arrays([ids, texts, sources], schema=DOCUMENTS)

    def _rows(self, item: Input) -> Iterator[tuple[int, str]]:
        if item.format == "topics":
            return self._topics()
        if item.format == "hub":
            return self._checked(item.name, rows_of(item.source, stream_hub(item.source), self.text_field))
        assert item.path is not None
        match item.format:
            case "saved":
                rows = rows_of(str(item.path), stream_saved(item.path), self.text_field)
                return self._checked(str(item.path), rows)
            case "text":
                return self._text(item.path)
            case "jsonl":
                return self._checked(str(item.path), self._json_lines(item.path))
            case "parquet":
                return self._checked(str(item.path), self._parquet(item.path))
            case _:
                return self._checked(str(item.path), self._table(item.path, "\t" if item.format == "tsv" else ","))

    def _topics(self) -> Iterator[tuple[int, str]]:
        from pydoc_data.topics import topics

        return enumerate(topics[name] for name in sorted(topics))

    def _text(self, path: Path) -> Iterator[tuple[int, str]]:
        """The file, or its pieces where it is longer than `piece_bytes`; the row is the number of the piece."""
        offset, row, rest = 0, 0, b""
        with _open(path) as file:
            while True:
                block = _fill(file, self.piece_bytes - len(rest), path)
                data = rest + block
                last = len(data) < self.piece_bytes
                cut = len(data) if last else _cut(data)
                if row == 0 and b"\0" in data[:SNIFFED_BYTES]:
                    raise DataError(
                        f"{path} looks binary (a NUL byte at byte {data.index(0)}); sources takes UTF-8 text: "
                        "leave the file out or convert it"
                    )
                if cut or row == 0:
                    yield row, self._decode_file(data[:cut], path, offset)
                if last:
                    return
                rest = data[cut:]
                offset += cut
                row += 1

    def _decode_file(self, data: bytes, path: Path, offset: int) -> str:
        before = self.counts.replaced
        text = self._decode(data.removeprefix(BYTE_ORDER_MARK) if offset == 0 else data, path, offset)
        if (replaced := self.counts.replaced - before) > UNDECODABLE * len(data):
            raise DataError(
                f"{path} is not UTF-8 text ({replaced / len(data):.0%} of its bytes cannot be decoded); "
                "leave the file out or convert it to UTF-8"
            )
        return text

    def _decode(self, data: bytes, where: Path | str, offset: int) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            if self.encoding_errors == "strict":
                raise DataError(
                    f"{where} is not valid UTF-8 at byte {offset + error.start} ({error.reason}); "
                    "mend the file, or set encoding_errors to replace"
                ) from None
        text = data.decode(errors="replace")
        self.counts.replaced += text.count("\ufffd") - data.count("\ufffd".encode())
        return text

    def _checked(self, where: str, rows: Iterator[tuple[int, str | None, str]]) -> Iterator[tuple[int, str]]:
        """Count and skip the bad rows (text is None; the third item says why) up to the share that is allowed."""
        good = bad = 0
        first = ""
        for row, text, complaint in rows:
            if text is not None:
                good += 1
                yield row, text
                continue
            bad += 1
            self.counts.bad_rows += 1
            first = first or complaint
            if bad > self.max_bad_fraction * max(SETTLED_ROWS, good + bad):
                break
        if bad > self.max_bad_fraction * (good + bad):
            raise DataError(
                f"{where}: {bad} of the first {good + bad} rows cannot be used, the first of them {first}; "
                f"mend the file or raise max_bad_fraction (now {self.max_bad_fraction:g})"
            )

    def _json_lines(self, path: Path) -> Iterator[tuple[int, str | None, str]]:
        with _open(path) as file:
            for number, line in enumerate(_lines(file, path)):
                if not line.strip():
                    continue
                where = f"at line {number + 1}"
                try:
                    row = json.loads(self._decode(line, f"{path} line {number + 1}", 0))
                except ValueError as error:
                    yield number, None, f"{where} (not JSON: {error})"
                    continue
                yield number, *self._field(row, f"{path} line {number + 1}", where, first=number == 0)

    def _field(self, row: Any, name: str, where: str, *, first: bool) -> tuple[str | None, str]:
        if not isinstance(row, dict):
            return None, f"{where} (not an object with fields but {type(row).__name__})"
        if first:
            self._demand_field(list(row), name)
        text = row.get(self.text_field)
        if isinstance(text, str):
            return (text, "") if _encodable(text) else (None, f"{where} (a lone surrogate in {self.text_field!r})")
        kind = "missing" if text is None else type(text).__name__
        return None, f"{where} ({self.text_field!r} is {kind}, not text)"

    def _demand_field(self, fields: Sequence[str], name: str) -> None:
        if self.text_field not in fields:
            raise DataError(
                f"{name} has no field {self.text_field!r}, it has {', '.join(map(repr, fields)) or 'none'}; "
                "set text_field to one of them"
            )

    def _parquet(self, path: Path) -> Iterator[tuple[int, str | None, str]]:
        try:
            with pq.ParquetFile(path) as file:
                self._demand_field(file.schema_arrow.names, str(path))
                number = 0
                for batch in file.iter_batches(batch_size=256, columns=[self.text_field]):
                    for text in batch.column(0).to_pylist():
                        yield (
                            number,
                            *self._field({self.text_field: text}, str(path), f"at row {number + 1}", first=False),
                        )
                        number += 1
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{path} is not a readable parquet file ({reason}); make it anew or leave it out"
            ) from error

    def _table(self, path: Path, delimiter: str) -> Iterator[tuple[int, str | None, str]]:
        csv.field_size_limit(LONGEST_BYTES)  # the module's own 128 KiB are too few for documents; it has one for all
        with _open(path) as file:
            lines = (self._decode(line, path, 0) for line in _lines(file, path))
            rows = csv.reader(lines, delimiter=delimiter)
            try:
                header = [name.removeprefix("\ufeff") for name in next(rows, [])]
                self._demand_field(header, f"the header of {path}")
                column = header.index(self.text_field)
                for number, row in enumerate(rows):
                    if len(row) == len(header):
                        yield number, row[column], ""
                    elif row:
                        yield number, None, f"at line {rows.line_num} ({len(row)} columns instead of {len(header)})"
            except csv.Error as error:
                raise DataError(
                    f"{path} line {rows.line_num} is not a row ({error}); mend it or leave it out"
                ) from error


def _encodable(text: str) -> bool:
    """False for text with lone surrogates, which JSON can hold and UTF-8 cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _open(path: Path) -> IO[bytes]:
    try:
        match path.suffix.lower():
            case ".gz":
                return io.BufferedReader(gzip.GzipFile(path), 1 << 20)
            case ".zst":
                return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"), 1 << 20)
            case _:
                return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _fill(file: IO[bytes], size: int, path: Path) -> bytes:
    """Read `size` bytes, fewer only at the end of the file: compressed streams give less when asked once."""
    blocks = []
    try:
        while size > 0 and (block := file.read(size)):
            blocks.append(block)
            size -= len(block)
    except DAMAGED as error:
        raise _unreadable(path, error) from error
    return b"".join(blocks)


def _lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    while True:
        try:
            line = file.readline()
        except DAMAGED as error:
            raise _unreadable(path, error) from error
        if not line:
            return
        yield line


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DataError(f"cannot read {path} ({reason}); check the file and its access rights, or leave it out")


def _cut(data: bytes) -> int:
    """Where to end a piece: after its last line end, or where it has none, before its last character."""
    if line_end := data.rfind(b"\n") + 1:
        return line_end
    cut = len(data) - 1
    while cut > len(data) - 4 and data[cut] & 0xC0 == 0x80:  # 10xxxxxx continues a character
        cut -= 1
    return cut
