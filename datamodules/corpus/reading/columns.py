"""Tables of columns: Parquet by row groups, Arrow IPC files (also Feather) and streams by record batches."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datamodules.corpus.reading.files import BUFFER_BYTES, DAMAGED, open_plain, printable
from datamodules.corpus.reading.records import ReadOptions, Record, decode, demand_field, from_value
from datamodules.errors import DataError

ARROW_FILE = b"ARROW1"  # the magic of the IPC file format; an IPC stream has none
BATCH_BYTES = 8 << 20  # of a row group are decoded at once
LARGEST_BATCH = 1024  # rows


def parquet_sizes(path: Path) -> list[int]:
    """The compressed bytes of each row group."""
    with _table(path, "parquet") as file, pq.ParquetFile(file) as table:
        groups = [table.metadata.row_group(group) for group in range(table.num_row_groups)]
        return [sum(group.column(n).total_compressed_size for n in range(group.num_columns)) for group in groups]


def arrow_batches(path: Path) -> int:
    """How many record batches of an Arrow file can be read each alone: 1 for a stream, which can be read only whole."""
    with _table(path, "Arrow") as file:
        return pa.ipc.open_file(file).num_record_batches if _is_file(file) else 1


def read_parquet(path: Path, start: int, end: int | None, options: ReadOptions) -> Iterator[Record]:
    """The rows of row groups [start, end); the key is the number of the row in the file, from 0."""
    with _table(path, "parquet") as file, pq.ParquetFile(file, buffer_size=BUFFER_BYTES) as table:
        names = _path_of(table.schema_arrow, path, options)
        number = sum(table.metadata.row_group(group).num_rows for group in range(start))
        for group in range(start, table.num_row_groups if end is None else end):
            about = table.metadata.row_group(group)
            row_bytes = about.total_byte_size // max(1, about.num_rows) + 1
            batch_size = max(1, min(LARGEST_BATCH, BATCH_BYTES // row_bytes))
            for batch in table.iter_batches(batch_size, row_groups=[group], columns=[options.text_field]):
                for value in _values(batch, names):
                    yield _record(value, number, partial("at row {}".format, number + 1), path, options)
                    number += 1


def read_arrow(path: Path, start: int, end: int | None, options: ReadOptions) -> Iterator[Record]:
    """The rows of record batches [start, end); the key is batch:row, so no part needs to know the batches before it.

    A record batch's text column is in memory at once. The file is not mapped: were it cut short meanwhile, that would
    end the process.
    """
    with _table(path, "Arrow") as file:
        opener = pa.ipc.open_file if _is_file(file) else pa.ipc.open_stream
        schema = opener(file).schema
        names = _path_of(schema, path, options)
        file.seek(0)
        reader = opener(file, options=pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(names[0])]))
        if opener is pa.ipc.open_file:
            numbers = range(start, reader.num_record_batches if end is None else end)
            batches: Iterable[tuple[int, pa.RecordBatch]] = ((number, reader.get_batch(number)) for number in numbers)
        else:
            batches = enumerate(reader)
        for number, batch in batches:
            for first in range(0, len(batch), LARGEST_BATCH):
                for row, value in enumerate(_values(batch.slice(first, LARGEST_BATCH), names), first):
                    place = partial("at row {1} of record batch {0}".format, number, row + 1)
                    yield _record(value, f"{number}:{row}", place, path, options)


@contextmanager
def _table(path: Path, kind: str) -> Iterator[IO[bytes]]:
    """The open file; what Arrow has to say about a damaged one becomes one sentence."""
    with open_plain(path) as file:
        try:
            yield file
        except DAMAGED as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"{printable(path)} is not a readable {kind} file ({reason}); make it anew or leave it out"
            ) from error


def _is_file(file: IO[bytes]) -> bool:
    magic = file.read(len(ARROW_FILE))
    file.seek(0)
    return magic == ARROW_FILE


def _path_of(schema: pa.Schema, path: Path, options: ReadOptions) -> list[str]:
    """The names from the top to the text column: one, or several where the field is nested in struct columns."""
    whole = options.text_field in schema.names
    names = [options.text_field] if whole else options.text_field.split(".")
    fields: Any = schema
    for name in names:
        found = fields.names.count(name) if isinstance(fields, pa.Schema | pa.StructType) else 0
        if found == 0:
            demand_field(schema.names, printable(path), options.text_field)
        if found > 1:
            raise DataError(
                f"{printable(path)} has {found} fields {name!r}, and which is meant cannot be told; "
                "give each its own name or leave the file out"
            )
        fields = fields.field(name).type
    return names


def _values(batch: pa.RecordBatch, names: list[str]) -> list[Any]:
    """The values as Python objects; text with invalid UTF-8 in it as bytes."""
    column = batch.column(names[0])
    for name in names[1:]:
        column = pc.struct_field(column, name)
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # writers do not check what they are given as text
        return [value if value is None else _text_or_bytes(value) for value in column.cast(pa.binary()).to_pylist()]


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _InvalidText(value)


class _InvalidText(bytes):
    """Bytes of a text column that are no UTF-8, as against those of a binary column."""


def _record(value: Any, key: int | str, place: Callable[[], str], path: Path, options: ReadOptions) -> Record:
    replaced = 0
    if isinstance(value, _InvalidText):
        value, replaced = decode(value, options.encoding_errors, lambda: f"{printable(path)} {place()}")
    return from_value(value, key, options.text_field, place, replaced=replaced)
