"""Web pages: the main text of HTML, by resiliparse."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.corpus.reading.files import SNIFFED_BYTES, fill, open_range, printable
from datamodules.corpus.reading.records import ReadOptions, Record, encodable
from datamodules.errors import DataError

# Boilerplate that the main-content heuristics of resiliparse leave in. On the 25 pages of the article extraction
# benchmark these raise the F1 of words from 0.892 to 0.905, and leaving the alternative texts of pictures out from
# 0.881 to 0.892; the title as a first line would lower it to 0.881. Forms stay: some sites put whole pages in one.
SKIPPED_ELEMENTS = ["header", "footer", "nav", "aside", "button"]

DEEPEST = 1000  # elements in elements, twice what browsers keep; the time of resiliparse grows with the square of it
MANY_TAGS = 20_000
WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # that of UTF-32-LE begins like the first
TAG = re.compile(rb"<[a-zA-Z!/]")
OPEN_TAG, SLASH = ord("<"), ord("/")


def read_html(path: Path, options: ReadOptions) -> Iterator[Record]:
    """The page of a file as one record; its key is 0."""
    with open_range(path, None) as file:
        data = fill(file, options.record_bytes + 1, path)
    if _is_binary(data, None):
        raise DataError(
            f"{printable(path)} looks binary (a NUL byte at byte {data.index(0)}), not like a web page; leave the file "
            "out, or give it the extension of what it is"
        )
    if len(data) > options.record_bytes:
        yield Record(0, None, "too_long")
    else:
        yield page(0, data)


def page(key: int, data: bytes, charset: str | None = None, url: str | None = None, plain: bool = False) -> Record:
    """The record of a page's bytes, or the reason why it is no document: empty, binary, no_text, too_deep or
    lone_surrogate.

    The encoding is `charset`, as the server says, else what the page says in its first 1,024 bytes, else it is
    detected; where the bytes are not valid in it, UTF-8 and Windows-1252 are tried. `plain` text is only decoded.
    """
    detect_encoding, bytes_to_str, tree_of, extract_plain_text = _resiliparse()
    if not data.strip():
        return Record(key, None, "empty", url=url)
    if _is_binary(data, charset):
        return Record(key, None, "binary", url=url)
    text = bytes_to_str(data, charset or detect_encoding(data, from_html_meta=not plain))
    replaced = text.count("\ufffd") - data.count("\ufffd".encode())
    if not plain:
        tree = tree_of(text)
        if _is_deep(data, tree):
            return Record(key, None, "too_deep", url=url)
        text = extract_plain_text(tree, main_content=True, alt_texts=False, skip_elements=SKIPPED_ELEMENTS)
    if not text.strip():
        return Record(key, None, "no_text", url=url)
    if not encodable(text):
        return Record(key, None, "lone_surrogate", url=url)
    return Record(key, text, url=url, replaced=max(0, replaced))


def _is_binary(data: bytes, charset: str | None) -> bool:
    """True for a NUL byte before the first tag; but UTF-16 and UTF-32, which hold many, can be declared."""
    wide = data.startswith(WIDE_MARKS) or (charset or "").lower().replace("_", "-").startswith(("utf-16", "utf-32"))
    nul = data.find(0, 0, SNIFFED_BYTES)
    return nul >= 0 and not wide and TAG.search(data, 0, nul) is None


def _resiliparse() -> tuple[Any, Any, Any, Any]:
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import bytes_to_str, detect_encoding
        from resiliparse.parse.html import HTMLTree
    except ImportError as error:
        raise DataError(
            "web pages need the package resiliparse; install it with: pip install 'labyrinth-llm[html]'"
        ) from error
    return detect_encoding, bytes_to_str, HTMLTree.parse, extract_plain_text


def _is_deep(data: bytes, tree: Any) -> bool:
    """True where elements stand in each other more than DEEPEST deep.

    Tags that are open at once, counted in the bytes, bound the depth of ordinary pages from above; only where they, or
    all tags (closing tags may close nothing), are many is the tree itself walked.
    """
    signs = np.frombuffer(data, dtype=np.uint8)
    behind = signs[np.flatnonzero(signs[:-1] == OPEN_TAG) + 1]
    opening = ((behind | 0x20) - np.uint8(ord("a"))) < 26  # wraps around below a
    open_at_once = np.cumsum(opening.astype(np.int32) - (behind == SLASH))
    if opening.sum() <= MANY_TAGS and open_at_once.max(initial=0) <= DEEPEST:
        return False
    node, depth = tree.document, 0
    while node is not None:
        if node.first_child is not None:
            node, depth = node.first_child, depth + 1
            if depth > DEEPEST:
                return True
            continue
        while node is not None and node.next is None:
            node, depth = node.parent, depth - 1
        node = node.next if node is not None else None
    return False
