"""From a record's fields to answers of which one is better, in each of the forms in which data sets write them.

| keys | known from |
|---|---|
| `prompt`, `chosen`, `rejected`: texts, or lists of messages | TRL |
| `chosen`, `rejected`: whole conversations that begin alike | HH, UltraFeedback |
| `instruction`, `chosen`, `rejected`, `input` and `system` where there are any | Alpaca |
| `prompt` (or `instruction`), `completion`, `label`: an answer alone, good or not | KTO |
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from datamodules.errors import DataError
from datamodules.records.conversations import missing_keys, prompt_of, text_of, turns_of
from datamodules.text.conversation import Conversation, Message, check_conversation

EXPECTED = (
    "prompt (or instruction, or conversations that begin alike), chosen and rejected; or prompt, completion, label"
)


class Judged(NamedTuple):
    """A prompt and answers to it: one that is wanted, one that is not, or one of them alone."""

    prompt: Conversation
    chosen: Conversation | None
    rejected: Conversation | None


def judged_of(record: Mapping[str, Any]) -> Judged:
    """The answers of a record, each with its prompt a conversation.

    Raises:
        DataError: its keys are of no known form, a side is empty, or both are equal; without the place.
    """
    if "label" in record and record.get("chosen") is None:
        return _alone(record)
    if record.get("chosen") is None or record.get("rejected") is None:
        raise missing_keys(record, EXPECTED)
    chosen, rejected = (_side(record[name], name) for name in ("chosen", "rejected"))
    if record.get("prompt") is not None or record.get("instruction") is not None:
        prompt = prompt_of(record)
        chosen, rejected = (
            side[len(prompt) :] if side[: len(prompt)] == prompt else side for side in (chosen, rejected)
        )
    else:
        alike = 0
        while alike < min(len(chosen), len(rejected)) - 1 and chosen[alike] == rejected[alike]:
            alike += 1
        prompt, chosen, rejected = chosen[:alike], chosen[alike:], rejected[alike:]
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        _check(prompt, side, name)
    if chosen == rejected:
        raise DataError("chosen and rejected are equal, so neither is better; drop the record")
    return Judged(prompt, chosen, rejected)


def _alone(record: Mapping[str, Any]) -> Judged:
    label = record["label"]
    if not isinstance(label, bool) and label not in (0, 1, "true", "false", "True", "False"):
        raise DataError(f"'label' is {label!r}; it can be true or false")
    if record.get("completion") is None:
        raise missing_keys(record, EXPECTED)
    prompt, answer = prompt_of(record), _side(record["completion"], "completion")
    _check(prompt, answer, "completion")
    good = str(label).lower() in ("true", "1")
    return Judged(prompt, answer if good else None, None if good else answer)


def _side(value: Any, key: str) -> Conversation:
    if isinstance(value, list) and value and isinstance(value[0], dict) and "type" not in value[0]:
        return turns_of(value, key)
    return [Message("assistant", text_of(value, key))]


def _check(prompt: Conversation, side: Conversation, name: str) -> None:
    try:
        check_conversation([*prompt, *side])
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    if not side or side[-1].role != "assistant":
        raise DataError(f"{name} ends without an answer of the assistant")
