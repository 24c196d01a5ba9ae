"""Files of a run that have a JSON object a line, and go on after a resume without gaps or doubles."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Records:
    """Lines of JSON in a file, each with the optimizer step that it is of.

    The lines that are there are whole at every moment, but for the last one of a run that was killed, which counts as
    not written. Numbers that JSON does not have are written as words: "nan", "inf", "-inf".

    Args:
        path: of the file; it is made with its first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Add a line; where it cannot be written, as on a full disk, it warns, and training goes on."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(record))
        except OSError as error:
            log.warning("%s: a line could not be written (%s); training goes on without it", self.path, error.strerror)

    def read(self) -> list[dict[str, Any]]:
        """The whole lines, the earliest first."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def rewind(self, step: int, keep: Callable[[dict[str, Any]], bool] = lambda record: False) -> None:
        """Drop the lines at and after `step`, which a resumed run will write again, but for those to `keep`."""
        if not self.path.is_file():
            return
        kept = [record for record in self.read() if record["step"] < step or keep(record)]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
        temporary.replace(self.path)


def _line(record: dict[str, Any]) -> str:
    return json.dumps({key: _plain(value) for key, value in record.items()}) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
