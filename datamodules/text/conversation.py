"""A conversation, and what makes it one."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from datamodules.errors import DataError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


class Message(NamedTuple):
    """One turn: who speaks, and what is said."""

    role: str
    content: str


Conversation = list[Message]


def check_conversation(messages: Sequence[Message]) -> None:
    """Raise DataError unless user and assistant take turns, the user first, after a system message if there is one.

    No turn of the user or the assistant may be empty, as an empty answer would teach to say nothing.
    """
    if not messages:
        raise DataError("the conversation has no messages")
    expected = "user"
    for number, message in enumerate(messages, 1):
        if message.role not in ROLES:
            raise DataError(f"message {number} has the role {message.role!r}; it can be {', '.join(ROLES)}")
        if message.role == "system":
            if number != 1:
                raise DataError(f"message {number} is the system's, which can be the first alone")
            continue
        if message.role != expected:
            if expected == "user" and all(before.role == "system" for before in messages[: number - 1]):
                raise DataError(f"the conversation starts with the {message.role}; the user comes first")
            raise DataError(
                f"messages {number - 1} and {number} are both the {message.role}'s; user and assistant take turns"
            )
        if not message.content.strip():
            raise DataError(f"message {number}, the {message.role}'s, is empty; give it a text or drop the record")
        expected = "assistant" if message.role == "user" else "user"
    if messages[-1].role == "system":
        raise DataError("the conversation has a system message alone")
