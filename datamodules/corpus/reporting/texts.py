"""Texts of unknown origin, made safe to show: nothing in them can act, hide, or turn the page around them.

What cannot be seen or changes what stands around it (control characters, zero-width characters, marks of writing
direction, halves of surrogate pairs) is shown by its code point instead.
"""

import difflib
import html
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from datamodules.corpus.reporting.numbers import count, numbered, size

# Line feed and tab stay, and so do the zero-width joiner and non-joiner, which spell words in many scripts.
# Unicode 16, section 23: control codes, layout and format controls, noncharacters; surrogates as in section 3.8.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)
# Words for comparison: Chinese and Japanese characters one by one, everything else between blanks.
IDEOGRAM = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
WORD = re.compile(f"[{IDEOGRAM}]|[^{IDEOGRAM}\\s]+")


def plain(text: str) -> str:
    """The text in one line for a terminal."""
    return UNSEEN.sub(_code_point, text.replace("\r\n", "\n")).replace("\n", " ").replace("\t", " ")


def _code_point(match: re.Match[str]) -> str:
    return f"<U+{ord(match[0]):04X}>"


def escaped(text: str) -> str:
    """The text as HTML, for between tags and within quoted attributes."""
    return html.escape(UNSEEN.sub(_code_point, text))


def shown(text: str) -> str:
    """The text as HTML to look at, what is unseen marked off by its own style."""
    parts, start = [], 0
    text = text.replace("\r\n", "\n")
    for match in UNSEEN.finditer(text):
        parts += [html.escape(text[start : match.start()]), f'<i class="unseen">U+{ord(match[0]):04X}</i>']
        start = match.end()
    return "".join([*parts, html.escape(text[start:])])


def is_cut(sample: dict[str, Any]) -> bool:
    """Whether the sample's text is only the beginning of the document's."""
    return len(sample["text"].encode("utf-8", "surrogatepass")) < sample.get("bytes", 0)


def sample_block(sample: dict[str, Any], text: str | None = None, label: str = "") -> str:
    """One sample: where it is from and its text. `text` is the text as HTML, where it has marks of its own."""
    facts = [f"<b>{escaped(label)}</b>"] if label else []
    if "source" in sample:
        facts.append(f"<bdi>{escaped(sample['source'])}</bdi>")
    if "bytes" in sample:
        facts.append(size(sample["bytes"]))
    if "id" in sample:
        facts.append(f"<code>{escaped(sample['id'])}</code>")
    end = '<span class="cut"> … (the document goes on)</span>' if is_cut(sample) else ""
    return (
        f'<div class="sample"><p class="facts">{" · ".join(facts)}</p>'
        f'<div class="text" dir="auto">{shown(sample["text"]) if text is None else text}{end}</div></div>'
    )


def marked_differences(one: dict[str, Any], other: dict[str, Any]) -> tuple[str, str]:
    """The two samples' texts as HTML, the words that differ marked in each.

    Where a sample is only the beginning of its document, nothing is known of what lies behind its end: its last word
    may be half a word, and what the other text has beyond it is no difference.
    """
    texts = one["text"], other["text"]
    spans = [[match.span() for match in WORD.finditer(text)] for text in texts]
    words = [[text[start:end] for start, end in found] for text, found in zip(texts, spans, strict=True)]
    changes = difflib.SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes()
    marks: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    cut = is_cut(one), is_cut(other)
    for kind, one_first, one_last, other_first, other_last in changes:
        if kind == "equal":
            continue
        at_end = one_last == len(words[0]) and other_last == len(words[1])
        both = min(one_last - one_first, other_last - other_first)
        for side, start, end in ((0, one_first, one_last), (1, other_first, other_last)):
            if at_end and cut[1 - side]:
                end = start + both - 1
            elif at_end and cut[side]:
                end -= 1
            if end > start:
                marks[side].append((spans[side][start][0], spans[side][end - 1][1]))
    return _with_marks(texts[0], marks[0]), _with_marks(texts[1], marks[1])


def _with_marks(text: str, marks: list[tuple[int, int]]) -> str:
    parts, done = [], 0
    for start, end in marks:
        parts += [shown(text[done:start]), f"<mark>{shown(text[start:end])}</mark>"]
        done = end
    return "".join([*parts, shown(text[done:])])


def unit(block: str) -> str:
    """A block that the page's search shows or hides as one."""
    return f'<div class="unit">{block}</div>'


def group(title: str, note: str, blocks: Sequence[str], available: int) -> str:
    """Samples to unfold. `title` and `note` are HTML; `available` tells how many samples the report has of it."""
    told = numbered(blocks, "sample") + (f" of {count(available)}" if available > len(blocks) else "")
    return (
        f'<details class="group"><summary>{title} <span class="note">{note} · {told}</span></summary>'
        f"{''.join(blocks)}</details>"
    )


class Budget:
    """How many bytes of HTML may still be spent on samples, so that a page of many samples stays light."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, block: str) -> bool:
        """Whether there is room for this block; if so, it is spent."""
        length = len(block.encode())
        if length > self.left:
            return False
        self.left -= length
        return True

    def within(self, blocks: Iterable[str]) -> list[str]:
        """The first of the blocks, as far as there is room; the rest is not even drawn."""
        return list(itertools.takewhile(self.take, blocks))
