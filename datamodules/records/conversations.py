"""From a record's fields to a conversation, in each of the forms in which data sets write one.

| keys | known from |
|---|---|
| `messages`: objects with `role` and `content` | OpenAI, transformers |
| `conversations`: objects with `from` and `value` | ShareGPT |
| `prompt` and `completion` (or `response`): texts, or lists of messages | TRL |
| `instruction` and `output`, `input` and `system` where there are any | Alpaca |
"""

from collections.abc import Mapping
from typing import Any

from datamodules.errors import DataError
from datamodules.text.conversation import Conversation, Message, check_conversation

EXPECTED = "messages; conversations; prompt and completion; or instruction and output (beside them input, system)"
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
SHOWN_KEYS = 12


def conversation_of(record: Mapping[str, Any]) -> Conversation:
    """The conversation of a record, which ends with an answer of the assistant.

    Raises:
        DataError: its keys are of no known form, or it is no conversation; without the place, which the reader knows.
    """
    messages = _messages(record)
    check_conversation(messages)
    if messages[-1].role != "assistant":
        raise DataError("the conversation ends without an answer of the assistant; drop its last turn or the record")
    return messages


def prompt_of(record: Mapping[str, Any]) -> Conversation:
    """The turns of a record before the answer: its `prompt` (a text or messages), or `instruction` and `input`."""
    if record.get("prompt") is not None:
        messages = _turns(record["prompt"], "prompt", "user")
    elif record.get("instruction") is not None:
        messages = [Message("user", _alpaca_prompt(record))]
    else:
        raise missing_keys(record, "prompt, or instruction (beside it input, system)")
    return _with_system(record, messages)


def missing_keys(record: Mapping[str, Any], expected: str) -> DataError:
    """The error for a record of no known form: the keys that it has, and those that were expected."""
    names = [repr(name) for name in list(record)[:SHOWN_KEYS]]
    return DataError(f"has the keys {', '.join(names) or 'none'}; expected were {expected}")


def turns_of(value: Any, key: str) -> Conversation:
    """The messages of a list, in OpenAI's or ShareGPT's form. Raises DataError where it is none."""
    if not isinstance(value, list):
        raise DataError(f"{key!r} is {type(value).__name__}, not a list of messages")
    return [_message(item, key, number) for number, item in enumerate(value, 1)]


def text_of(value: Any, key: str) -> str:
    """A text, or the parts of one. Raises DataError where it is neither."""
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        value = "".join(str(part.get("text", "")) for part in value)
    if not isinstance(value, str):
        raise DataError(f"{key!r} is {type(value).__name__}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{key!r} holds half of a surrogate pair, which is no text") from error
    return value


def _messages(record: Mapping[str, Any]) -> Conversation:
    if record.get("messages") is not None:
        return turns_of(record["messages"], "messages")
    if record.get("conversations") is not None:
        return _with_system(record, turns_of(record["conversations"], "conversations"))
    for answer in ("completion", "response", "output"):
        if record.get(answer) is not None and (record.get("prompt") or record.get("instruction")) is not None:
            return [*prompt_of(record), *_turns(record[answer], answer, "assistant")]
    raise missing_keys(record, EXPECTED)


def _turns(value: Any, key: str, role: str) -> Conversation:
    """Messages as they are, or a text as one turn."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "type" not in value[0]:
        return turns_of(value, key)
    return [Message(role, text_of(value, key))]


def _alpaca_prompt(record: Mapping[str, Any]) -> str:
    instruction, context = text_of(record["instruction"], "instruction"), text_of(record.get("input") or "", "input")
    return f"{instruction}\n\n{context}" if context.strip() else instruction


def _with_system(record: Mapping[str, Any], messages: Conversation) -> Conversation:
    system = text_of(record.get("system") or "", "system")
    return [Message("system", system), *messages] if system.strip() else messages


def _message(item: Any, key: str, number: int) -> Message:
    if not isinstance(item, dict):
        raise DataError(f"message {number} of {key!r} is {type(item).__name__}, not an object with role and content")
    role = item.get("role", item.get("from"))
    content = item.get("content", item.get("value"))
    if not isinstance(role, str) or content is None:
        raise DataError(
            f"message {number} of {key!r} has the keys {', '.join(map(repr, item)) or 'none'}; expected were role and "
            "content, or from and value"
        )
    return Message(SHAREGPT_ROLES.get(role.lower(), role.lower()), text_of(content, f"{key}[{number - 1}]"))
