"""Parts of corpus reports, and what a reader sees of one."""

import io
from html.parser import HTMLParser
from typing import Any

from rich.console import Console

from datamodules.corpus.reporting.report import print_report

VOID = {"meta", "br", "input", "wbr"}


def sample(text: str = "one two three", **more: Any) -> dict[str, Any]:
    return {"id": "0" * 32, "source": "web", "bytes": len(text.encode("utf-8", "replace")), "text": text} | more


def stage(name: str, documents: tuple[int, int], text: tuple[int, int], **more: Any) -> dict[str, Any]:
    (documents_in, documents_out), (bytes_in, bytes_out) = documents, text
    counts = {"documents_in": documents_in, "documents_out": documents_out, "bytes_in": bytes_in}
    return {"name": name, **counts, "bytes_out": bytes_out, "cpu_seconds": 0.5, "bytes_worked_on": bytes_in} | more


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, well nested, and the code of style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.code: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.code.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def printed(report: dict[str, Any], width: int, terminal: bool = True) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, legacy_windows=False)
    print_report(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
