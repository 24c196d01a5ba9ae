"""Records of any kind from files and data sets: rows of fields, each with the place where it stands."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.corpus.reading import hub
from datamodules.corpus.reading.files import COMPRESSIONS, DAMAGED, open_range, printable, unreadable
from datamodules.digests import FileDigests
from datamodules.errors import DataError
from datamodules.records.tables import rows_of_csv, rows_of_tsv

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")
BATCH_ROWS = 1024


class Row(NamedTuple):
    """The fields of a record; `place` says in words where it stands: file and line."""

    fields: dict[str, Any]
    place: Callable[[], str]


def read_rows(sources: str | Sequence[str], columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The records of files, folders, globs and data sets, in their order.

    Args:
        sources: .json (an array of objects), .jsonl, .csv and .tsv, .parquet and .arrow files, the
            texts among them also with .gz or .zst; folders and globs of these; `hf:owner/name[/config][:split]`.
        columns: of .csv and .tsv files without a header, their names.

    Raises:
        DataError: there is nothing, or it cannot be read: file, line, and what to do.
    """
    for source in files_of(sources):
        if isinstance(source, Path):
            yield from _rows_of_file(source, columns)
        else:
            yield from _rows_of_hub(source)


def digests_of(sources: str | Sequence[str], files: FileDigests) -> dict[str, str]:
    """By source, what tells whether it has changed: for files a digest of the contents, for a data set its commit."""
    found = {}
    for source in files_of(sources):
        if isinstance(source, Path):
            try:
                found[str(source)] = files.digest(source)
            except OSError as error:
                raise unreadable(source, error) from error
        else:
            found[source] = files.remember(source, hub.revision(source, files.recall(source)))
    return found


def files_of(sources: str | Sequence[str]) -> list[Path | str]:
    """The files that `sources` name, and `hf:` names as they are."""
    found: list[Path | str] = []
    for source in [sources] if isinstance(sources, str) else sources:
        if source.startswith(hub.HUB):
            found.append(source)
            continue
        path = Path(source).expanduser()
        if path.is_dir():
            paths = [file for file in sorted(path.rglob("*")) if _suffix(file) in SUFFIXES]
        elif path.exists():
            paths = [path]
        else:
            paths = sorted(path.parent.glob(path.name)) if path.parent.is_dir() else []
        if not paths:
            raise DataError(f"there is no file {source!r} with records; name files, folders or hf:owner/name")
        for file in paths:
            if _suffix(file) not in SUFFIXES:
                raise DataError(f"{printable(file)} has an unknown extension; records can be {' '.join(SUFFIXES)}")
        found += paths
    if not found:
        raise DataError("no source of records is named; name files, folders or hf:owner/name")
    return found


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path).suffix.lower()


def _rows_of_file(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    suffix = _suffix(path)
    if suffix in (".parquet", ".arrow"):
        yield from _rows_of_columns(path)
        return
    try:
        with open_range(path, None) as file:
            text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{printable(path)} is not valid UTF-8 at byte {error.start}; convert it first") from error
    except DAMAGED as error:
        raise unreadable(path, error) from error
    if suffix in (".csv", ".tsv"):
        rows = (rows_of_csv if suffix == ".csv" else rows_of_tsv)(path, text, columns)
        yield from (Row(fields, place) for fields, place in rows)
    elif suffix == ".json" and text.lstrip().startswith("["):
        yield from _rows_of_array(path, text)
    else:
        yield from _rows_of_lines(path, text)


def _rows_of_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = partial("{} line {}".format, printable(path), number)
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place()} is not JSON ({error}); mend it there") from error
            yield _row(fields, place)


def _rows_of_array(path: Path, text: str) -> Iterator[Row]:
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{printable(path)} is not JSON ({error}); mend it there") from error
    for number, fields in enumerate(records):
        yield _row(fields, partial(_place_in_array, path, text, number))


def _place_in_array(path: Path, text: str, wanted: int) -> str:
    """Where an item of an array begins: looked for only when it is told of."""
    decoder, at = json.JSONDecoder(), text.index("[") + 1
    for number in range(wanted + 1):
        while text[at] in " \t\r\n,":
            at += 1
        if number < wanted:
            _, at = decoder.raw_decode(text, at)
    return f"{printable(path)} line {text.count(chr(10), 0, at) + 1}"


def _rows_of_columns(path: Path) -> Iterator[Row]:
    number = 0
    try:
        if _suffix(path) == ".parquet":
            batches = pq.ParquetFile(path).iter_batches(BATCH_ROWS)
        else:
            batches = iter(_open_arrow(path))
        for batch in batches:
            for fields in batch.to_pylist():
                number += 1
                yield Row(fields, partial("{} row {}".format, printable(path), number))
    except DAMAGED as error:
        raise unreadable(path, error) from error


def _open_arrow(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
        except pa.ArrowInvalid:
            source.seek(0)
            yield from pa.ipc.open_stream(source)


def _rows_of_hub(source: str) -> Iterator[Row]:
    folder = hub.local_folder(source)
    stream = hub.stream_saved(folder) if folder is not None and _is_saved(folder) else hub.stream_hub(source)
    rows = enumerate(stream, 1)
    while True:
        try:
            number, fields = next(rows)
        except StopIteration:
            return
        except Exception as error:  # the network, or a damaged file
            raise DataError(f"reading {source} failed ({' '.join(str(error).split())[:200]}); run again") from error
        yield Row(fields, partial("{} row {}".format, source, number))


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _row(fields: Any, place: Callable[[], str]) -> Row:
    if not isinstance(fields, dict):
        raise DataError(f"{place()} is no object with keys but {type(fields).__name__}; mend it there")
    return Row(fields, place)
