"""From a conversation to token ids: the one place where this is done, for training, chat, export and evaluation.

Ids of the parts are joined, never their texts: a prompt and an answer that are tokenised as one string can get other
ids than each alone (trl #5213), and a role's token that is written out in a message stays text.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from datamodules.text.conversation import Message
from datamodules.text.special_tokens import ASSISTANT, END
from datamodules.text.tokenizer import Tokenizer

TrainOn = Literal["assistant", "last", "all"]


class Rendered(NamedTuple):
    """The ids of a conversation, int64 [N], and which of them are to be predicted, bool [N]; never the first one."""

    ids: np.ndarray
    is_target: np.ndarray


def render(tokenizer: Tokenizer, messages: Sequence[Message], train_on: TrainOn = "assistant") -> Rendered:
    """One token as before every document; each turn is the token of its role, its text, and the end token.

    The end token after an answer is a target like the answer's text, or the model would never learn to stop; the token
    of a role is none, as it is never the model that writes it.

    Args:
        tokenizer: whose ids they are.
        messages: the turns, checked before.
        train_on: targets are all of the `assistant`'s turns, the `last` of them, or `all` turns.
    """
    (rendered,) = render_all(tokenizer, [messages], train_on)
    return rendered


def render_all(
    tokenizer: Tokenizer, conversations: Sequence[Sequence[Message]], train_on: TrainOn = "assistant"
) -> list[Rendered]:
    """The same for several conversations, whose texts are encoded together, on all cores."""
    texts = tokenizer.encode_batch([message.content for messages in conversations for message in messages])
    end, position, rendered = tokenizer.special[END], 0, []
    for messages in conversations:
        answers = [number for number, message in enumerate(messages) if message.role == "assistant"]
        wanted = {"assistant": answers, "last": answers[-1:], "all": range(len(messages))}[train_on]
        ids, targets = [np.array([tokenizer.begin_of_text])], [np.zeros(1, bool)]
        for number, message in enumerate(messages):
            content = texts[position]
            position += 1
            ids += [np.array([tokenizer.special[f"<|{message.role}|>"]]), content, np.array([end])]
            targets += [np.zeros(1, bool), np.full(len(content) + 1, number in wanted)]
        rendered.append(Rendered(np.concatenate(ids).astype(np.int64), np.concatenate(targets)))
    return rendered


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The ids after which the model writes the assistant's next turn; it ends that turn with the end token."""
    return [*render(tokenizer, messages).ids.tolist(), tokenizer.special[ASSISTANT]]
