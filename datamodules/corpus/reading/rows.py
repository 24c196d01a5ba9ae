"""Rows of text: JSON lines, and tables with a header (csv, tsv)."""

import csv
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from datamodules.corpus.reading.files import line_number, lines, open_range, printable
from datamodules.corpus.reading.json_blocks import Block, parse_block
from datamodules.corpus.reading.records import ReadOptions, Record, bad, decode, demand_field, from_row
from datamodules.errors import DataError


def read_json_lines(path: Path, start: int, end: int | None, options: ReadOptions) -> Iterator[Record | Block]:
    """The lines that start in [start, end) bytes, blank ones left out; the key is the byte where a line starts.

    A line of over `record_bytes` is a bad row and is never held in memory.
    """
    with open_range(path, end) as file:
        offsets: list[int] = []
        block: list[bytes | None] = []
        size = 0
        for offset, line in lines(file, path, options.record_bytes, start, end):
            offsets.append(offset)
            block.append(line)
            size += len(line or b"")
            if size >= options.block_bytes:
                yield from _rows(path, offsets, block, options)
                offsets, block, size = [], [], 0
        if block:
            yield from _rows(path, offsets, block, options)


def _rows(path: Path, offsets: list[int], block: list[bytes | None], options: ReadOptions) -> Iterator[Record | Block]:
    """The records of some lines: all at once where that can be done, else one by one."""
    whole = [line for line in block if line is not None]
    if len(whole) == len(block) and (parsed := parse_block(offsets, whole, options.text_field)) is not None:
        yield parsed
        return
    for offset, line in zip(offsets, block, strict=True):
        place = partial(_line, path, offset)
        if line is None:
            yield bad(offset, "line_too_long", place, f"longer than {options.record_bytes:,} bytes")
            continue
        if not line.strip():
            continue
        where = partial(_whole_place, path, offset)
        text, replaced = decode(line, options.encoding_errors, where)
        try:
            row = json.loads(text.removeprefix("\ufeff") if offset == 0 else text, parse_int=_whole_number)
        except ValueError as error:
            yield bad(offset, "not_json", place, f"not JSON: {error}")
        except RecursionError:
            yield bad(offset, "not_json", place, "not JSON: nested too deep")
        else:
            yield from_row(row, offset, options.text_field, place, replaced=replaced)


def _whole_number(digits: str) -> int | float:
    """Python refuses to make an integer of thousands of digits; whoever writes one has no text there anyway."""
    return int(digits) if len(digits) < 1000 else float(digits)


def _line(path: Path, offset: int) -> str:
    return f"at line {line_number(path, offset)}"


def _whole_place(path: Path, offset: int) -> str:
    return f"{printable(path)} line {line_number(path, offset)}"


def read_table(path: Path, delimiter: str, options: ReadOptions) -> Iterator[Record]:
    """The rows below the header; the key is the number of the row from 0.

    The file is read whole from its start: a cell can hold line ends, so only a reader from the start knows where a
    row begins. For the same reason a line or a row of over `record_bytes` ends it with an error instead of one bad row.

    Raises:
        DataError: for a header without the text field, and where a row's end cannot be told.
    """
    # The module's own 128 KiB are too few. It has one limit for the whole process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), options.record_bytes))
    replaced = row_bytes = 0
    ended = False

    def decoded() -> Iterator[str]:
        nonlocal replaced, row_bytes, ended
        for offset, line in lines(file, path, options.record_bytes):
            if line is None:
                raise DataError(
                    f"{printable(path)} line {line_number(path, offset)} is longer than {options.record_bytes:,} "
                    "bytes; split it or leave the file out"
                )
            row_bytes += len(line)
            if row_bytes > options.record_bytes:
                raise DataError(
                    f"{printable(path)} line {begins} begins a row of over {options.record_bytes:,} bytes (a quote "
                    "that never closes?); mend it or leave the file out"
                )
            text, slips = decode(line, options.encoding_errors, partial(_whole_place, path, offset))
            replaced += slips
            yield text.removeprefix("\ufeff") if offset == 0 else text
        ended = True

    begins = 1  # the line where the row at hand does
    with open_range(path, None) as file:
        rows = csv.reader(decoded(), delimiter=delimiter)
        try:
            header: list[str] = next(filter(None, rows), [])  # blank lines are no rows
            demand_field(header, f"the header of {printable(path)}", options.text_field)
            column = header.index(options.text_field)
            if ended:
                raise _never_closed(path, begins)
            begins, row_bytes = rows.line_num + 1, 0
            for number, row in enumerate(rows):
                if ended:  # the reader asked for one more line to end this row, and there was none
                    raise _never_closed(path, begins)
                if len(row) == len(header):
                    yield Record(number, row[column], replaced=replaced)
                    replaced = 0
                elif row:
                    place = partial("at line {}".format, begins)
                    yield bad(number, "column_count", place, f"{len(row)} columns instead of {len(header)}")
                begins, row_bytes = rows.line_num + 1, 0
        except csv.Error as error:
            raise DataError(
                f"{printable(path)} line {begins} is not a row ({error}); mend it or leave it out"
            ) from error


def _never_closed(path: Path, line: int) -> DataError:
    return DataError(
        f"{printable(path)} line {line} begins a row with a quote that never closes, so the rows behind it cannot be "
        "told; mend it or leave the file out"
    )
