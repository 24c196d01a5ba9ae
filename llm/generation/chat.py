"""A conversation with a model, without a terminal."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.text.conversation import Message, check_conversation
from datamodules.text.rendering import render_prompt
from datamodules.text.special_tokens import END
from datamodules.text.tokenizer import Tokenizer
from llm.errors import UserError
from llm.generation.engine import Engine
from llm.generation.stream import TextStream
from llm.model import GPT

LEAST_ROOM = 4  # of the context's tokens, this part is kept for the answer, or max_new_tokens if that is less


class Chat:
    """The turns of a conversation, and a model that writes the assistant's.

    The model sees the conversation rendered as in training. What does not fit in its context beside room for the
    answer is left out of what it sees, the oldest question with its answer first; the system message stays.

    Args:
        model: of which device and dtype it may be.
        tokenizer: the one that it was trained with.
        system: the system message; none where it is empty.
        max_new_tokens: the longest answer.
        seed: of the first answer's draws; each one after has the next. None takes random ones.
        sampling: fields of `Sampling`.

    Attributes:
        messages: the turns so far.
        forgotten: how many of the oldest turns the model did not see when it gave the last answer.
        finish_reason: `stop` where the model ended the last answer by itself, `length` where it was cut.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        system: str = "",
        max_new_tokens: int = 256,
        seed: int | None = None,
        **sampling: Any,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.seed, self.sampling = max_new_tokens, seed, sampling
        self.messages: list[Message] = [Message("system", system)] if system else []
        self.forgotten = 0
        self.finish_reason: str | None = None
        self._answers = 0

    def say(self, text: str) -> Iterator[str]:
        """Yield the answer to `text` as it is written; both become part of the conversation.

        An answer of which not all is asked for, as where the user interrupts it, stays as far as it was written.

        Raises:
            UserError: at the call, where `text` is empty or does not fit in the context; nothing has changed then.
        """
        messages = [*self.messages, Message("user", text)]
        if not text.strip():
            raise UserError("the message is empty: write something")
        prompt, forgotten = self._prompt(messages)
        self.messages, self.forgotten = messages, forgotten
        return self._answer(prompt)

    def regenerate(self) -> Iterator[str]:
        """Yield another answer in place of the last one. Raises UserError at the call where there is none."""
        if not self.messages or self.messages[-1].role != "assistant":
            raise UserError("there is no answer yet that could be written anew: ask something first")
        messages = self.messages[:-1]
        prompt, forgotten = self._prompt(messages)
        self.messages, self.forgotten = messages, forgotten
        return self._answer(prompt)

    def reset(self) -> None:
        """Begin anew; the system message stays."""
        self.messages = [message for message in self.messages if message.role == "system"]
        self.forgotten = 0

    def set_system(self, text: str) -> None:
        """Begin anew with another system message, or, where it is empty, with none."""
        self.messages = [Message("system", text)] if text.strip() else []
        self.forgotten = 0

    def save(self, path: Path) -> None:
        """Write the conversation as a record for training: JSON with `messages`. Raises UserError where it cannot."""
        record = {"messages": [message._asdict() for message in self.messages]}
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise UserError(f"cannot write {path}: {error.strerror or error}; choose another place") from error

    def load(self, path: Path) -> None:
        """Go on with a conversation that `save` wrote. Raises UserError where it is none."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            messages = [Message(str(turn["role"]), str(turn["content"])) for turn in record["messages"]]
            check_conversation(messages)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; name a conversation that /save wrote") from error
        except Exception as error:  # of many kinds: the file may hold anything
            raise UserError(f"{path} holds no conversation ({' '.join(str(error).split())[:200]})") from error
        self.messages = messages[:-1] if messages[-1].role == "user" else messages

    def _prompt(self, messages: list[Message]) -> tuple[list[int], int]:
        """The ids that the model sees of `messages`, and how many turns they leave out."""
        context = self.model.config.context_length
        room = max(1, min(self.max_new_tokens, context // LEAST_ROOM))
        system = [message for message in messages if message.role == "system"]
        turns = messages[len(system) :]
        for forgotten in range(0, len(turns), 2):
            ids = render_prompt(self.tokenizer, [*system, *turns[forgotten:]])
            if len(ids) + room <= context:
                return ids, forgotten
        raise UserError(
            f"the message is too long: with the system message it has {len(ids)} tokens, and beside room for {room} of "
            f"an answer the model's context of {context} holds {context - room}; shorten it"
        )

    def _answer(self, prompt: list[int]) -> Iterator[str]:
        most = min(self.max_new_tokens, self.model.config.context_length - len(prompt))
        stop = {self.tokenizer.special[END], self.tokenizer.end_of_text}
        engine = Engine.for_prompts(self.model, [prompt], most, stop_ids=stop, **self.sampling)
        seed = None if self.seed is None else self.seed + self._answers
        self._answers += 1
        (text,) = engine.submit(prompt, most, seed=seed)
        return self._written(engine, text)

    def _written(self, engine: Engine, text: Any) -> Iterator[str]:
        stream, written = TextStream(self.tokenizer), ""
        self.finish_reason = None
        try:
            while engine.step() and text.finish_reason != "stop":
                piece = stream.add(text.tokens[-1])
                written += piece
                if piece:
                    yield piece
            rest = stream.end()
            written += rest
            if rest:
                yield rest
        finally:
            self.finish_reason = text.finish_reason
            self.messages.append(Message("assistant", written))
