"""Rows of a benchmark's table: one that fails, or runs out of memory, says so and lets the others run."""

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

FAILED = "FAILED: "
Row = dict[str, Any]  # heading → text, or a number, which the JSON keeps in full


def attempt(work: Callable[[], Row]) -> Row:
    """What `work` returns; where it raises, a row whose note says what."""
    try:
        return work()
    except torch.OutOfMemoryError:
        note = "out of memory"
    except ImportError as error:
        note = f"not installed: {error}"
    except Exception as error:  # whatever it is: minutes on a GPU are too dear to lose the other rows by it
        note = f"{FAILED}{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]
    free_memory()  # here, where no exception holds the frames, and in them the tensors, of what failed
    return {"note": note}


def failed(rows: Sequence[Row]) -> bool:
    """Whether something is wrong with a row; what the memory does not hold, or is not installed, is no fault."""
    return any(row.get("note", "").startswith(FAILED) for row in rows)


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, work: Callable[[], object], repeats: int = 1) -> float:
    """Of one call of `work`, on the device's own work, over `repeats` calls without a pause."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def show(console: Console, title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table; their keys, in order of appearance, are its headings."""
    table = Table(title=title, title_justify="left")
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    for heading in headings:
        numbers = any(isinstance(row.get(heading), int | float) for row in rows)
        table.add_column(heading, justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(_text(row.get(heading, "")) for heading in headings))
    console.print(table)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
