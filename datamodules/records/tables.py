"""The rows of .csv and .tsv files."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from datamodules.corpus.reading.files import printable
from datamodules.errors import DataError

Cells = tuple[int, list[str]]  # of a row, and the line where it begins
Rows = list[tuple[dict[str, str], Callable[[], str]]]  # fields, and the place in words


def rows_of_csv(path: Path, text: str, columns: Sequence[str] | None) -> Rows:
    """The rows of a table with commas and quotes (RFC 4180).

    Args:
        path: of the file, for what is told.
        text: of the file.
        columns: their names, where no header stands above them.

    Raises:
        DataError: a row cannot be read, or has more or fewer columns than the header: the line.
    """
    return _named(path, _quoted(path, text, ","), columns)


def rows_of_tsv(path: Path, text: str, columns: Sequence[str] | None) -> Rows:
    """As `rows_of_csv`, with tabs, and quotes as spreadsheets write them, or with no quotes at all, as the media type
    text/tab-separated-values says: where a file does not come out with quotes, its rows are its lines.
    """
    try:
        return _named(path, _quoted(path, text, "\t"), columns)
    except DataError:
        try:
            return _named(path, _lines(text), columns)
        except DataError:
            pass
        raise


def _quoted(path: Path, text: str, delimiter: str) -> Iterator[Cells]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # one limit for the whole process: only ever raised
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    try:
        for row in rows:
            if row:
                yield begins, row
            begins = rows.line_num + 1
    except csv.Error as error:
        raise DataError(f"{printable(path)} line {begins} is not a row ({error}); mend it there") from error


def _lines(text: str) -> Iterator[Cells]:
    for number, line in enumerate(text.split("\n"), 1):
        if line := line.removesuffix("\r"):
            yield number, line.split("\t")


def _named(path: Path, rows: Iterable[Cells], columns: Sequence[str] | None) -> Rows:
    found: Rows = []
    names = columns
    for line, cells in rows:
        if names is None:
            names = cells
            continue
        place = partial("{} line {}".format, printable(path), line)
        if len(cells) != len(names):
            expected = f"the header {len(names)}" if columns is None else f"{len(names)} are named"
            raise DataError(f"{place()} has {len(cells)} columns, and {expected}; mend it there")
        found.append((dict(zip(names, cells, strict=True)), place))
    return found
