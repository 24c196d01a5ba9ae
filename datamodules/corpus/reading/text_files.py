"""Plain text: a file is a document, a long one several, cut at places that do not depend on who reads which part."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.corpus.reading.files import SNIFFED_BYTES, fill, open_range, printable
from datamodules.corpus.reading.records import ReadOptions, Record, decode
from datamodules.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UNDECODABLE = 0.1  # share of undecodable bytes above which a file is no UTF-8 text with slips but something else


def read_text(path: Path, start: int, end: int | None, options: ReadOptions) -> Iterator[Record]:
    """The pieces of a file whose nominal start is in [start, end) bytes; the key is the byte where a piece starts.

    Nominal starts are the multiples of `piece_bytes`. A piece really starts at the first line that starts within a
    quarter of a piece behind its nominal start, or where there is none (a file of one endless line), at the first
    character. So the cuts depend on the bytes around them alone, and memory holds a piece and a quarter.
    """
    piece, window = options.piece_bytes, max(3, options.piece_bytes // 4)  # a character may continue for 3 bytes
    nominal = -(-start // piece) * piece
    with open_range(path, end) as file:
        begin, data = 0, b""
        if nominal:
            file.seek(nominal - 1)
            head = fill(file, window + 1, path)
            if len(head) <= 1:
                return
            cut = _line_start(head)
            begin, data = nominal - 1 + cut, head[cut:]
        while end is None or nominal < end:
            nominal += piece
            data += fill(file, nominal + window - begin - len(data), path)
            before = nominal - 1 - begin  # the byte before the next nominal start
            if before + 1 >= len(data):
                if data or begin == 0:
                    yield _piece(path, begin, data, options)
                return
            cut = before + _line_start(data[before : before + 1 + window])
            yield _piece(path, begin, data[:cut], options)
            begin, data = begin + cut, data[cut:]


def _piece(path: Path, begin: int, data: bytes, options: ReadOptions) -> Record:
    if begin == 0 and b"\0" in data[:SNIFFED_BYTES]:
        raise DataError(
            f"{printable(path)} looks binary (a NUL byte at byte {data.index(0)}); sources takes UTF-8 text: "
            "leave the file out or convert it"
        )
    body = data.removeprefix(BYTE_ORDER_MARK) if begin == 0 else data
    text, replaced = decode(body, options.encoding_errors, lambda: printable(path), begin + len(data) - len(body))
    if replaced > UNDECODABLE * len(data):
        raise DataError(
            f"{printable(path)} is not UTF-8 text ({replaced / len(data):.0%} of its bytes cannot be decoded); "
            "leave the file out or convert it to UTF-8"
        )
    return Record(begin, text, replaced=replaced)


def _line_start(window: bytes) -> int:
    """Where the first line starts behind the first byte; without a line end, where the first character does."""
    if line_end := window.find(b"\n") + 1:
        return line_end
    start = 1
    while start < min(4, len(window)) and window[start] & 0xC0 == 0x80:  # 10xxxxxx continues a character
        start += 1
    return start
