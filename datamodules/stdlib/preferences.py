"""Right and wrong answers about the running Python's own library: pairs that need no network."""

import random
from collections.abc import Iterator
from typing import Any

from datamodules.stdlib.instructions import SEED, instructions

WAYS = ("other", "repeats", "runs_on", "cut")
CUT_FROM = 12  # characters of an answer below which it is not cut off


def preferences() -> Iterator[dict[str, Any]]:
    """Pairs: `prompt` (messages), `chosen`, `rejected`, with their `source` (file:line) and `group` (what it is about).

    The right answer is preferred to that of another question of the same kind, to the question said again, to itself
    with a question behind it, and to itself cut off in the middle.
    """
    last: dict[int, str] = {}  # by the kind of question, the answer to the one before
    for number, record in enumerate(instructions()):
        turns = record["messages"]
        first = 1 if turns[0]["role"] == "system" else 0
        question, right = turns[first]["content"], turns[first + 1]["content"]
        draw = random.Random(f"{SEED} pair {number} {record['group']}")
        kind = _kind(right)
        wrong = {
            "other": last.get(kind, ""),
            "repeats": question,
            "runs_on": f"{right} {question}",
            "cut": right[: len(right) // 2].rstrip() if len(right) >= CUT_FROM else "",
        }
        last[kind] = right
        ways = [way for way in WAYS if wrong[way].strip() and wrong[way] != right]
        yield {
            "prompt": turns[: first + 1],
            "chosen": right,
            "rejected": wrong[draw.choice(ways)],
            "source": record["source"],
            "group": record["group"],
        }


def _kind(answer: str) -> int:
    """A signature, a name, or a sentence."""
    return 0 if answer.endswith(")") and "(" in answer else 1 if " " not in answer else 2
