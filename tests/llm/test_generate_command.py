"""`generate` hands its options on as they were given."""

import io
from typing import Any

import pytest

from llm.commands.generate import main
from llm.errors import UserError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a writer that stands in for the model was asked for."""
    asked: dict[str, Any] = {}

    def write(model: str, tokenizer: str, prompt: str, **settings: Any) -> list[str]:
        asked.update(settings, model=model, tokenizer=tokenizer, prompt=prompt)
        return [" a", " time"]

    monkeypatch.setattr("llm.run.find_checkpoint", lambda path: f"found {path}")
    monkeypatch.setattr("llm.checkpoint.load_model", lambda path: (f"model of {path}", "tokenizer"))
    monkeypatch.setattr("llm.generation.continue_text", write)
    return asked


def test_every_option_reaches_the_sampling(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    options = ["--max_new_tokens", "7", "--temperature", "0.5", "--top_k", "3", "--top_p", "0.9", "--seed", "4"]
    options += ["--min_p", "0.1", "--repetition_penalty", "1.2", "--stop", "x", "--stop", "y"]
    assert main(["generate", "--checkpoint", "runs/a", "--prompt", "Once upon", *options]) == 0
    assert capsys.readouterr().out == "Once upon a time\n"
    assert asked == {
        "model": "model of found runs/a",
        "tokenizer": "tokenizer",
        "prompt": "Once upon",
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "stop": ["x", "y"],
        "seed": 4,
    }


def test_a_prompt_can_come_from_standard_input_and_top_k_be_off(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.stdin", io.StringIO("Once\nupon"))
    assert main(["generate", "--checkpoint", "a", "--prompt", "-", "--top_k", "0"]) == 0
    assert capsys.readouterr().out == "Once\nupon a time\n"
    assert (asked["prompt"], asked["top_k"], asked["seed"]) == ("Once\nupon", None, None)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # the second is what Python does in the C locale
def test_a_prompt_that_is_no_text_is_refused(errors: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8", errors=errors))
    with pytest.raises(UserError, match="the prompt from standard input is not valid UTF-8"):
        main(["generate", "--checkpoint", "a", "--prompt", "-"])
