"""Text in, text out: the prompt's last token is drawn again, and characters come whole."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.errors import UserError
from llm.generation import TextStream, Written, continue_text, continue_texts, stream_text
from llm.model import GPT, GPTConfig


class ToyTokenizer:
    """Prompts are cut into bytes; longer tokens come from the model alone."""

    def __init__(self, *tokens: bytes, end_of_text: int) -> None:
        self.tokens = tokens
        self.end_of_text = end_of_text

    def encode_prompt(self, text: str) -> list[int]:
        return [self.end_of_text, *(self.tokens.index(bytes([byte])) for byte in text.encode())]

    def decode(self, ids: list[int]) -> str:
        return b"".join(self.tokens[i] for i in ids).decode(errors="replace")

    def starting_with(self, token: int) -> list[int]:
        return [i for i, text in enumerate(self.tokens) if text.startswith(self.tokens[token])]


def toy_model() -> GPT:
    """To it all tokens are as likely, so that greedy takes the lowest id that it may."""
    return GPT(GPTConfig(vocab_size=8, context_length=8, n_layers=1, d_model=8, n_heads=1, zero_init_head=True))


def write(tokenizer: ToyTokenizer, prompt: str) -> str:
    return "".join(continue_text(toy_model(), tokenizer, prompt, max_new_tokens=3, temperature=0))


def test_the_last_token_of_the_prompt_is_drawn_again_and_written_once():
    tokenizer = ToyTokenizer(b"c", b"ab", b"a", end_of_text=3)
    assert write(tokenizer, "a") == "bcc"
    assert write(tokenizer, "ca") == "bcc"
    assert write(tokenizer, "") == "ccc"


def test_a_token_that_ends_inside_a_character_is_kept_as_it_is():
    tokenizer = ToyTokenizer(b"c", b"\xa9x", b"\xa9", b"\xc3", end_of_text=4)
    assert write(tokenizer, "é") == "ccc"


def test_the_end_of_the_document_ends_the_text():
    tokenizer = ToyTokenizer(b"<end>", b"ab", b"a", end_of_text=0)
    assert write(tokenizer, "a") == "b"
    assert write(tokenizer, "") == ""


class Bytes:
    """Each id is a byte."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        ("aé€🙂b".encode(), ["a", "é", "€", "🙂", "b"]),
        ("a€".encode()[:-1], ["a", "\N{REPLACEMENT CHARACTER}"]),
        (b"\xff\xffab", ["\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}a", "b"]),
        (b"", []),
    ],
)
def test_characters_come_whole_and_broken_ones_hold_up_nothing(content: bytes, pieces: list[str]):
    assert list(stream_text(Bytes(), content)) == pieces


def test_a_token_may_end_one_character_and_begin_the_next():
    tokens = [b"\xe2", b"\x82", b"\xac\xe2", b"\xac"]
    toy = ToyTokenizer(*tokens, end_of_text=0)
    assert list(stream_text(toy, [0, 1, 2, 1, 3])) == ["€", "€"]
    assert "".join(stream_text(toy, [0, 1, 2, 1, 2, 1])) == toy.decode([0, 1, 2, 1, 2, 1])


LETTERS = ToyTokenizer(*(bytes([letter]) for letter in b"abcdefgh"), end_of_text=8)


@pytest.mark.parametrize(
    ("stop", "pieces", "stopped"),
    [
        ((), ["a", "b", "c", "a", "b", "d"], False),
        (("abd",), ["", "", "abc", "", "", ""], True),
        (("ca", "b"), ["a", "", "", "", "", ""], True),
        (("cab",), ["a", "b", "", "", "", ""], True),
        (("dx",), ["a", "b", "c", "a", "b", ""], False),
        (("bca", "abc"), ["", "", "", "", "", ""], True),
    ],
)
def test_a_stop_string_ends_the_text_and_no_part_of_it_is_given(
    stop: tuple[str, ...], pieces: list[str], stopped: bool
) -> None:
    stream = TextStream(LETTERS, stop)
    assert [stream.add("abcdefgh".index(letter)) for letter in "abcabd"] == pieces
    assert stream.stopped is stopped
    assert stream.end() == ("d" if stop == ("dx",) else "")


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_pieces_are_the_text_up_to_the_first_stop_string(text: str, stop: list[str]) -> None:
    stream = TextStream(LETTERS, stop)
    written = "".join([*(stream.add("ab".index(letter)) for letter in text), stream.end()])
    # The one that is complete first ends the text.
    ends = [(text.find(string) + len(string), text.find(string)) for string in stop if string in text]
    complete = min((end for end, _ in ends), default=None)
    expected = text if complete is None else text[: min(start for end, start in ends if end == complete)]
    assert written == expected


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UserError, match="a stop string is empty"):
        TextStream(LETTERS, [""])


def test_a_stop_string_is_not_looked_for_in_the_prompt() -> None:
    tokenizer = ToyTokenizer(b"c", b"ab", b"a", end_of_text=3)
    assert "".join(continue_text(toy_model(), tokenizer, "a", max_new_tokens=3, temperature=0, stop=["a"])) == "bcc"
    assert "".join(continue_text(toy_model(), tokenizer, "a", max_new_tokens=3, temperature=0, stop=["cc"])) == "b"


def test_texts_of_a_batch_are_those_written_alone() -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=9, context_length=16, n_layers=1, d_model=16, n_heads=2))
    with torch.no_grad():
        model.embedding.weight.mul_(50)
    prompts, settings = ["abc", "", "h", "abca"], {"max_new_tokens": 30, "temperature": 1.0, "stop": ["ab", "f"]}
    written = list(
        continue_texts(model, LETTERS, prompts, n_samples=2, batch_size=3, seed=5, logprobs=True, **settings)
    )
    assert sorted((number, sample) for number, sample, _ in written) == [(n, s) for n in range(4) for s in range(2)]
    for number, sample, result in written:
        alone = continue_text(model, LETTERS, prompts[number], seed=5 + sample, **settings)
        assert result.text == "".join(alone)
        assert "ab" not in result.text
        assert "f" not in result.text
        assert len(result.logprobs) == len(result.tokens)
    assert {result.finish_reason for _, _, result in written} == {"stop"}
    (no_text,) = continue_texts(model, LETTERS, ["a"], max_new_tokens=0)
    assert no_text == (0, 0, Written("", "length", [], []))
