"""Questions and answers about the running Python's own library: a first data set that needs no network."""

import random
from collections.abc import Iterator
from typing import Any

from datamodules.stdlib.functions import Documented, documented

SEED = 0  # of the wordings; fixed, so that all runs share one data set
SYSTEM = ("You answer questions about Python's library.", "Answer briefly.", "You are a helpful assistant.")
WITH_SYSTEM, WITH_SECOND_TURN = 0.1, 0.15  # shares of the conversations

PURPOSE = (
    "What does {name} do?",
    "What is {name} for?",
    "Explain {call} in one sentence.",
    "What does {call} do?",
    "Describe the {kind} {name}.",
)
SIGNATURE = (
    "What is the signature of {name}?",
    "How is {name} called?",
    "Which arguments does {name} take?",
    "Show the signature of the {kind} {name}.",
)
WHICH = (
    "Which {kind} does this: {summary}",
    'Which {kind} of {module} is documented as "{summary}"',
    "Name the {kind} of the module {module} that does this: {summary}",
)
AND_SIGNATURE = ("And its signature?", "How is it called?", "Which arguments does it take?")
AND_PURPOSE = ("And what does it do?", "What is it for?")


def instructions() -> Iterator[dict[str, Any]]:
    """Conversations (`messages`), each with its `source` (file:line) and its `group`, the name that it is about.

    Of each function, method and class: what it does; how it is called, where that is written; and which it is that
    does this. Some have a system message, some a second question.
    """
    for one in documented():
        draw = random.Random(f"{SEED} {one.name}")
        for question, answer, more in _facts(one, draw):
            turns = [("user", question), ("assistant", answer)]
            if more and draw.random() < WITH_SECOND_TURN:
                turns += [("user", more[0]), ("assistant", more[1])]
            if draw.random() < WITH_SYSTEM:
                turns.insert(0, ("system", draw.choice(SYSTEM)))
            messages = [{"role": role, "content": content} for role, content in turns]
            yield {"messages": messages, "source": one.source, "group": one.name}


def _facts(one: Documented, draw: random.Random) -> Iterator[tuple[str, str, tuple[str, str] | None]]:
    """Question, answer, and what could be asked after it."""
    words = {
        "name": one.name,
        "kind": one.kind,
        "module": one.module,
        "summary": one.summary,
        "call": f"{one.name}{one.signature[one.signature.index('(') :]}" if one.signature else one.name,
    }
    signature = f"{one.signature}" if one.signature else ""
    after = (draw.choice(AND_SIGNATURE), signature) if signature else None
    yield draw.choice(PURPOSE).format(**words), one.summary, after
    if signature:
        yield draw.choice(SIGNATURE).format(**words), signature, (draw.choice(AND_PURPOSE), one.summary)
    yield draw.choice(WHICH).format(**words), one.name, after
