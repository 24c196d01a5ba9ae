"""A conversation: what the model sees of it, and what becomes of its answers."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.fine_tuning import make_tokenizer, write_base

from datamodules.text.conversation import Message
from datamodules.text.rendering import render, render_prompt
from llm.checkpoint import load_model
from llm.errors import UserError
from llm.generation import terminal
from llm.generation.chat import Chat
from llm.generation.terminal import Commands, printable, talk
from llm.model import GPT

TOKENIZER = make_tokenizer()
END = TOKENIZER.special["<|end|>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GPT:
    return load_model(write_base(tmp_path_factory.mktemp("chat"), context_length=128))[0]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts that the model was given."""
    prompts: list[list[int]] = []
    plain = Chat._answer

    def answer(self: Chat, prompt: list[int]) -> Iterator[str]:
        prompts.append(prompt)
        return plain(self, prompt)

    monkeypatch.setattr(Chat, "_answer", answer)
    return prompts


def chat_of(model: GPT, **settings: Any) -> Chat:
    return Chat(model, TOKENIZER, **{"max_new_tokens": 6, "seed": 0, "top_k": 20, **settings})


def test_the_model_sees_the_conversation_as_in_training(model: GPT, seen: list[list[int]]):
    chat = chat_of(model, system="Be brief.")
    first = "".join(chat.say("12 and 34?"))
    second = "".join(chat.say("again"))
    told = [Message("system", "Be brief."), Message("user", "12 and 34?")]
    assert seen[0] == render_prompt(TOKENIZER, told)
    told += [Message("assistant", first), Message("user", "again")]
    assert seen[1] == render_prompt(TOKENIZER, told)
    assert seen[1].count(TOKENIZER.begin_of_text) == 1
    assert chat.messages == [*told, Message("assistant", second)]
    whole = render(TOKENIZER, chat.messages).ids.tolist()
    assert whole[: len(seen[1])] == seen[1]


def test_an_answer_ends_with_the_end_token_which_nobody_sees(model: GPT, monkeypatch: pytest.MonkeyPatch):
    head = model.head
    assert head is not None
    before = head.weight.detach().clone()
    with monkeypatch.context():
        head.weight.data[END] = 0
        chat = chat_of(model, temperature=0.0)
        "".join(chat.say("sum?"))
        assert chat.finish_reason == "length"
        hidden = model.hidden(torch.tensor([render_prompt(TOKENIZER, [Message("user", "sum?")])]))[0, -1]
        head.weight.data[END] = 100 * hidden
        chat = chat_of(model, temperature=0.0)
        assert "".join(chat.say("sum?")) == ""
        assert chat.finish_reason == "stop"
    head.weight.data.copy_(before)


def test_the_oldest_turns_leave_what_the_model_sees_and_the_system_message_stays(model: GPT, seen: list[list[int]]):
    chat = chat_of(model, system="Short.")
    for number in range(8):
        list(chat.say(f"question {number}, how much is it?"))
        assert len(seen[-1]) + 6 <= 128
    assert chat.forgotten > 0
    assert chat.forgotten % 2 == 0
    assert len(chat.messages) == 17
    text = TOKENIZER.decode(seen[-1])
    assert text.startswith("<|endoftext|><|system|>Short.<|end|><|user|>question ")
    assert "question 0" not in text
    assert text.endswith("question 7, how much is it?<|end|><|assistant|>")


def test_a_message_that_does_not_fit_is_refused_and_nothing_changes(model: GPT):
    chat = chat_of(model)
    list(chat.say("sum?"))
    before = list(chat.messages)
    with pytest.raises(
        UserError, match=r"the message is too long: .* has \d+ tokens, and beside room for 6 .* holds 122"
    ):
        chat.say("word " * 200)
    with pytest.raises(UserError, match="the message is empty"):
        chat.say("  ")
    assert chat.messages == before


def test_regenerate_gives_another_answer_to_the_same_question(model: GPT, seen: list[list[int]]):
    chat = chat_of(model, temperature=1.5, max_new_tokens=20)
    first = "".join(chat.say("sum?"))
    second = "".join(chat.regenerate())
    assert seen[0] == seen[1]
    assert first != second
    assert chat.messages == [Message("user", "sum?"), Message("assistant", second)]
    again = chat_of(model, temperature=1.5, max_new_tokens=20)
    assert "".join(again.say("sum?")) == first
    with pytest.raises(UserError, match="there is no answer yet"):
        chat_of(model).regenerate()


def test_an_answer_that_is_interrupted_stays_as_far_as_it_was_written(model: GPT):
    chat = chat_of(model, max_new_tokens=30)
    answer = chat.say("sum?")
    pieces = [next(answer) for _ in range(2)]
    answer.close()  # type: ignore[attr-defined]
    assert chat.messages[-1] == Message("assistant", "".join(pieces))


def test_saved_it_can_be_gone_on_with(model: GPT, tmp_path: Path):
    chat = chat_of(model, system="Short.")
    list(chat.say("sum?"))
    chat.save(tmp_path / "talk.json")
    other = chat_of(model)
    other.load(tmp_path / "talk.json")
    assert other.messages == chat.messages
    assert list(tmp_path.iterdir()) == [tmp_path / "talk.json"]
    (tmp_path / "bad.json").write_text(json.dumps({"messages": [{"role": "assistant", "content": "x"}]}))
    with pytest.raises(UserError, match=r"bad.json holds no conversation"):
        other.load(tmp_path / "bad.json")
    with pytest.raises(UserError, match="cannot read"):
        other.load(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot write"):
        chat.save(tmp_path / "no" / "folder.json")


def test_in_a_terminal(model: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(terminal, "keep_history", lambda: None)
    typed = iter(
        ["sum?", "first \\", "second", "/regenerate", f"/save {tmp_path / 'a.json'}", "/sav", "/save", "/reset"]
    )

    def read(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    chat = chat_of(model)
    talk(chat, read=read)
    out = capsys.readouterr().out
    assert "no command '/sav'; did you mean '/save'?" in out
    assert "/save wants the name of a file" in out
    assert "(cut at 6 tokens" in out
    saved = json.loads((tmp_path / "a.json").read_text())["messages"]
    assert [turn["content"] for turn in saved][::2] == ["sum?", "first \nsecond"]
    assert chat.messages == []


def test_every_word_of_the_help_is_known(model: GPT):
    from rich.console import Console

    chat = chat_of(model)
    commands = Commands(chat, [], Console(file=io.StringIO()))
    told = []
    for word in terminal.HELP:
        try:
            commands.run(word.split()[0])
        except (EOFError, UserError) as error:
            told.append(str(error))
    assert len(told) == 3  # /regenerate, /save and /exit
    assert not any("no command" in one for one in told)


def test_what_a_terminal_would_obey_is_not_passed_on():
    assert printable("a\x1b[31mb\tc\nd\re\x9bf\x07") == "a\ufffd[31mb\tc\nde\ufffdf\ufffd"
    assert printable("naïve 漢字 👩") == "naïve 漢字 👩"
