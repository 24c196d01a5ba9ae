"""Web archives, WARC and WET, by fastwarc: pages and texts become documents, all other records are counted."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from datamodules.corpus.reading.files import BUFFER_BYTES, open_plain, printable
from datamodules.corpus.reading.records import ReadOptions, Record, decode
from datamodules.corpus.reading.web import page
from datamodules.errors import DataError

PAGES = frozenset({"text/html", "application/xhtml+xml"})
PLAIN = "text/plain"
GZIP_MEMBER = b"\x1f\x8b\x08"
RECORD_START = b"WARC/"
DAMAGED = (OSError, ValueError)  # what fastwarc raises for records that it cannot make sense of


def read_archive(path: Path, options: ReadOptions) -> Iterator[Record]:
    """The records of an archive; the key is the number of the record, from 0.

    Responses with status 200 that are HTML, XHTML or plain text, and the conversions of WET files, are documents with
    their URL. All others are counted by reason. Damage is never an error: a stretch of it counts as one record
    `damaged` (a record that ends early as `truncated`), and reading goes on at the next record that can be found. In a
    compressed archive this takes records compressed each for itself, as the standard asks for (ISO 28500, annex D).

    Raises:
        DataError: for a file that does not start like an archive and in which no record is found.
    """
    archive_iterator = _fastwarc()
    number = position = 0
    damaged = False  # the last record was; one stretch of damage counts once
    found: int | None = 0
    with open_plain(path) as file:
        while found is not None:
            file.seek(found)
            position = found
            try:
                for raw in archive_iterator(file, parse_http=False):
                    position = max(position, raw.stream_pos)
                    record = _record(number, raw, options)
                    damaged = record.reason == "damaged"
                    yield record
                    number += 1
                return
            except DAMAGED:
                pass
            if not damaged:
                yield Record(number, None, "damaged")
                number += 1
                damaged = True
            found = _next_record(file, position + 1)
        if number == 1 and not _starts_like_an_archive(file):
            raise DataError(
                f"{printable(path)} is no web archive (it holds no WARC record); leave it out, or give it the "
                "extension of what it is"
            )


def _fastwarc() -> Any:
    try:
        from fastwarc.warc import ArchiveIterator
    except ImportError as error:
        raise DataError(
            "web archives need the package fastwarc; install it with: pip install 'labyrinth-llm[html]'"
        ) from error
    return ArchiveIterator


def _record(number: int, raw: Any, options: ReadOptions) -> Record:
    if raw.headers.get("WARC-Type") is None or raw.headers.get("Content-Length") is None:
        return Record(number, None, "damaged")  # the head of a record that is cut off in it
    kind = str(raw.record_type)
    if kind not in ("response", "conversion"):
        return Record(number, None, f"warc_{kind}")
    try:
        length = raw.content_length
        if length > options.record_bytes:
            return Record(number, None, "too_long")
        raw.freeze()
        if raw.content_length < length:
            return Record(number, None, "truncated")
        url = raw.headers.get("WARC-Target-URI")
        if url is not None:  # some writers put it in angle brackets, which the standard's grammar once had
            url = url.strip().removeprefix("<").removesuffix(">").encode(errors="replace").decode()
        if kind == "conversion":
            text, replaced = decode(raw.reader.read(), "replace", str)
            if not text.strip():
                return Record(number, None, "empty", url=url)
            return Record(number, text, url=url, replaced=replaced)
        if not raw.is_http:
            return Record(number, None, "not_http", url=url)
        raw.parse_http(auto_decode="all")
        status = raw.http_headers.status_code
        if status != 200:
            return Record(number, None, "damaged" if status is None else "http_status", url=url)
        if (media := raw.http_content_type) not in PAGES and media != PLAIN:
            return Record(number, None, "not_html", url=url)
        data = raw.reader.read(options.record_bytes + 1)
        if len(data) > options.record_bytes:  # the payload may be compressed inside of the record
            return Record(number, None, "too_long", url=url)
        return page(number, data, raw.http_charset, url, plain=media == PLAIN)
    except DAMAGED:
        return Record(number, None, "damaged")


def _starts_like_an_archive(file: IO[bytes]) -> bool:
    """Whether the first bytes are those of a record, or so few that they might become one."""
    file.seek(0)
    head = file.read(4096)
    if GZIP_MEMBER.startswith(head[: len(GZIP_MEMBER)]):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, len(RECORD_START))
        except zlib.error:
            return False
    return RECORD_START.startswith(head[: len(RECORD_START)])


def _next_record(file: IO[bytes], position: int) -> int | None:
    """The next byte from `position` on where a record starts; None where no more is found."""
    file.seek(0)
    compressed = file.read(len(GZIP_MEMBER)) == GZIP_MEMBER
    wanted = GZIP_MEMBER if compressed else b"\n" + RECORD_START
    file.seek(position)
    block = file.read(BUFFER_BYTES)
    while len(block) >= len(wanted):
        at = block.find(wanted)
        while at >= 0:
            if not compressed:
                return position + at + 1
            if _starts_record(file, position + at):
                return position + at
            at = block.find(wanted, at + 1)
        keep = len(wanted) - 1
        position += len(block) - keep
        file.seek(position)
        block = file.read(BUFFER_BYTES)
    return None


def _starts_record(file: IO[bytes], position: int) -> bool:
    file.seek(position)
    try:
        return zlib.decompressobj(wbits=31).decompress(file.read(4096), 64).startswith(RECORD_START)
    except zlib.error:
        return False
