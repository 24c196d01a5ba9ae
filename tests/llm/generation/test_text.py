"""Text in, text out: the prompt's last token is drawn again, and characters come whole."""

import pytest

from llm.generation import continue_text, stream_text
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


def write(tokenizer: ToyTokenizer, prompt: str) -> str:
    """With a model to which all tokens are as likely, so that greedy takes the lowest id that it may."""
    model = GPT(GPTConfig(vocab_size=8, context_length=8, n_layers=1, d_model=8, n_heads=1, zero_init_head=True))
    return "".join(continue_text(model, tokenizer, prompt, max_new_tokens=3, temperature=0))


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
