"""The texts of benchmarks that training data must not hold, read from files."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.errors import DataError

ROWS, WHOLE, PROSE = (".jsonl", ".ndjson"), (".json",), (".txt", ".md")


@dataclass(frozen=True)
class Benchmark:
    """A benchmark by its name, and the different texts of its items: questions, answers, passages."""

    name: str
    texts: tuple[str, ...] = field(repr=False)


def load_benchmark(path: str | Path, name: str | None = None, fields: Sequence[str] = ()) -> Benchmark:
    """Read a benchmark; without a name it has its file's.

    jsonl and json: every string of every row, also inside of lists and objects; with `fields` only what stands under
    these keys of a row. txt and md: every paragraph, that is up to a blank line.

    Raises:
        DataError: for a file that is not there, cannot be read, holds no text or not the fields.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (*ROWS, *WHOLE, *PROSE):
        raise DataError(f"benchmark {path}: the ending {kind!r} is unknown; give jsonl, json or txt")
    if path.exists() and not path.is_file():
        raise DataError(f"benchmark {path} is no file but a folder, pipe or device; give jsonl, json or txt")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"benchmark {path} cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise DataError(f"benchmark {path} is not UTF-8 at byte {error.start}; convert it") from None
    if kind in PROSE:
        texts = re.split(r"\n\s*\n", text)
    else:
        rows = _rows(path, text)
        for one in fields:
            if rows and not any(isinstance(row, dict) and one in row for row in rows):
                keys = sorted({key for row in rows[:10] if isinstance(row, dict) for key in row})
                raise DataError(
                    f"benchmark {path} has no field {one!r}; its rows have {', '.join(keys) or 'no fields'}"
                )
        chosen = (
            [[row[one] for one in fields if one in row] for row in rows if isinstance(row, dict)] if fields else rows
        )
        texts = list(_strings(chosen))
    # JSON can hold lone surrogates, which are no text; a question mark is no part of a word.
    encodable = (one.encode(errors="replace").decode() for one in texts)
    kept = tuple(dict.fromkeys(stripped for one in encodable if (stripped := one.strip())))
    if not kept:
        raise DataError(f"benchmark {path} holds no text; give a file with text, or leave it out")
    return Benchmark(name or path.stem, kept)


def _rows(path: Path, text: str) -> list[Any]:
    if path.suffix.lower() in WHOLE:
        whole = _parsed(path, text, 1) if text.strip() else []
        return whole if isinstance(whole, list) else [whole]
    return [_parsed(path, line, number) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _parsed(path: Path, text: str, line: int) -> Any:
    """The JSON of a text that begins in this line of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line += error.lineno - 1
        reason = error.msg
    except RecursionError:
        reason = "nested too deep"
    except ValueError as error:  # a number of thousands of digits
        reason = str(error)
    raise DataError(f"benchmark {path}, line {line}: not JSON ({reason}); mend it there")


def _strings(value: Any) -> Iterator[str]:
    """The strings in a value of JSON, in order; without recursion, however deep it is nested."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            waiting.extend(reversed(one))
        elif isinstance(one, dict):
            waiting.extend(reversed(one.values()))
