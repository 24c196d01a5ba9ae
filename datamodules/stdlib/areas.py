"""Passages of the running Python's own library, and the area that each is from: a first task of classification."""

from collections.abc import Iterator
from typing import Any

from datamodules.corpus.reading.sources import stdlib_files
from datamodules.stdlib.functions import module_of, root

LEAST, MOST = 300, 600  # characters of a passage
MOST_OF_FILE = 12  # passages, so that a few long files do not stand for an area

# By area, the modules (and all below them) that belong to it. What is in none of them is left out.
AREAS: dict[str, tuple[str, ...]] = {
    "networking": (
        *("http", "urllib", "socket", "socketserver", "ssl", "smtplib", "ftplib", "imaplib", "poplib", "nntplib"),
        *("telnetlib", "xmlrpc", "wsgiref", "cgi", "cgitb", "selectors", "asyncore", "asynchat", "smtpd", "ipaddress"),
        *("webbrowser", "mailbox", "netrc"),
    ),
    "text and data formats": (
        *("email", "json", "html", "xml", "csv", "configparser", "string", "textwrap", "difflib", "re", "sre_parse"),
        *(
            "sre_compile",
            "codecs",
            "encodings",
            "plistlib",
            "quopri",
            "base64",
            "gettext",
            "locale",
            "tomllib",
            "shlex",
        ),
        *("pprint", "stringprep", "mimetypes", "uu", "binhex", "xdrlib", "tabnanny"),
    ),
    "concurrency": (
        *("asyncio", "threading", "concurrent", "multiprocessing", "queue", "subprocess", "sched", "_threading_local"),
        *("signal", "contextvars", "contextlib", "weakref", "_weakrefset", "sqlite3", "dbm", "shelve"),
    ),
    "numbers and time": (
        *(
            "decimal",
            "_pydecimal",
            "fractions",
            "numbers",
            "statistics",
            "random",
            "datetime",
            "_pydatetime",
            "calendar",
        ),
        *("_strptime", "zoneinfo", "colorsys", "bisect", "heapq", "hashlib", "hmac", "secrets", "uuid", "_pylong"),
    ),
    "files and system": (
        *("os", "posixpath", "ntpath", "genericpath", "pathlib", "shutil", "tempfile", "glob", "fnmatch", "filecmp"),
        *("zipfile", "tarfile", "gzip", "bz2", "lzma", "_compression", "io", "_pyio", "stat", "fileinput", "platform"),
        *(
            "getpass",
            "pty",
            "tty",
            "venv",
            "ensurepip",
            "sysconfig",
            "site",
            "logging",
            "argparse",
            "optparse",
            "getopt",
        ),
        *("zipapp", "sys", "_osx_support", "cmd", "pwd"),
    ),
    "language and compiler": (
        *(
            "ast",
            "dis",
            "inspect",
            "tokenize",
            "token",
            "importlib",
            "pkgutil",
            "runpy",
            "opcode",
            "symtable",
            "lib2to3",
        ),
        *("compileall", "py_compile", "pyclbr", "modulefinder", "code", "codeop", "types", "typing", "dataclasses"),
        *("enum", "abc", "_py_abc", "functools", "collections", "copy", "copyreg", "pickle", "pickletools", "operator"),
        *("reprlib", "keyword", "__future__", "linecache", "traceback", "warnings", "imp", "_collections_abc"),
        *("ctypes", "distutils", "graphlib", "annotationlib"),
    ),
    "user interface": ("tkinter", "idlelib", "turtle", "turtledemo", "curses", "_pyrepl", "rlcompleter", "readline"),
    "testing and debugging": (
        *("unittest", "doctest", "pdb", "bdb", "trace", "tracemalloc", "profile", "cProfile", "pstats", "timeit"),
        *("faulthandler", "pydoc"),
    ),
}
_AREA_OF = {name: area for area, names in AREAS.items() for name in names}


def passages() -> Iterator[dict[str, Any]]:
    """Each `text`, its `label` (an area), its `source` (file:line) and its `group`, the file that it is from.

    A passage is some whole lines of one file. Passages of a file stay together in a split, or a classifier would be
    asked what it has read.
    """
    for path in stdlib_files():
        area = _AREA_OF.get(module_of(path).partition(".")[0])
        if area is None:
            continue
        name = path.relative_to(root()).as_posix()
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        except (UnicodeDecodeError, OSError):
            continue
        found = list(_passages_of(lines))
        for number in range(0, len(found), max(1, -(-len(found) // MOST_OF_FILE))):
            line, text = found[number]
            yield {"text": text, "label": area, "source": f"{name}:{line}", "group": name}


def _passages_of(lines: list[str]) -> Iterator[tuple[int, str]]:
    """The first line's number and the text of each passage of a file."""
    begin, text = 1, ""
    for number, line in enumerate(lines, 1):
        if text and len(text) + len(line) > MOST:
            if len(text) >= LEAST:
                yield begin, text
            begin, text = number, ""
        text += line
    if len(text) >= LEAST:
        yield begin, text
