"""`generate` hands its options on as they were given."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from llm.commands.generate import main
from llm.errors import UserError
from llm.generation import Written


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a writer that stands in for the model was asked for."""
    asked: dict[str, Any] = {}

    def write(model: str, tokenizer: str, prompt: str, **settings: Any) -> list[str]:
        asked.update(settings, model=model, tokenizer=tokenizer, prompt=prompt)
        return [" a", " time"]

    monkeypatch.setattr(
        "llm.adapted_model.open_with_adapters", lambda path, adapters: (f"model of {path}", "tokenizer", [])
    )
    monkeypatch.setattr("llm.model.fuse_projections", lambda model: asked.update(fused=model))
    monkeypatch.setattr("llm.generation.continue_text", write)
    return asked


def test_every_option_reaches_the_sampling(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    options = ["--max_new_tokens", "7", "--temperature", "0.5", "--top_k", "3", "--top_p", "0.9", "--seed", "4"]
    options += ["--min_p", "0.1", "--repetition_penalty", "1.2", "--stop", "x", "--stop", "y"]
    assert main(["generate", "--checkpoint", "runs/a", "--prompt", "Once upon", *options]) == 0
    assert capsys.readouterr().out == "Once upon a time\n"
    assert asked == {
        "model": "model of runs/a",
        "fused": "model of runs/a",
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


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]) -> dict[str, Any]:
    """What the writer of several texts was asked for."""

    def write(model: str, tokenizer: str, prompts: list[str], **settings: Any) -> list[tuple[int, int, Written]]:
        asked.update(settings, prompts=prompts)
        return [(len(prompts) - 1, 1, Written("é\n", "stop", [5, 6], [-0.5, -0.25]))]

    monkeypatch.setattr("llm.generation.continue_texts", write)
    return asked


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("prompts.txt", "Once\n\nupon a\N{LINE SEPARATOR}time\n", ["Once", "upon a\N{LINE SEPARATOR}time"]),
        ("prompts.jsonl", '{"prompt": "two\\nlines", "id": 1}\n\n{"prompt": ""}\n', ["two\nlines", ""]),
    ],
)
def test_a_file_of_prompts_gives_json_lines(
    name: str,
    content: str,
    prompts: list[str],
    batch: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert main(["generate", "--checkpoint", "a", "--prompts", str(tmp_path / name), "--batch_size", "4"]) == 0
    line, _ = capsys.readouterr().out.split("\n")
    row = {"prompt": prompts[-1], "number": 1, "sample": 1, "text": "é\n", "finish_reason": "stop", "n_tokens": 2}
    assert json.loads(line) == row
    assert (batch["prompts"], batch["n_samples"], batch["batch_size"]) == (prompts, 1, 4)


@pytest.mark.parametrize("options", [["--n_samples", "3"], ["--logprobs"]])
def test_several_texts_of_one_prompt_and_log_probabilities_are_json_lines_too(
    options: list[str], batch: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    assert main(["generate", "--checkpoint", "a", "--prompt", "Once", *options]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["prompt"] == "Once"
    assert row.get("logprobs") == ([-0.5, -0.25] if options == ["--logprobs"] else None)
    assert row.get("tokens") == ([5, 6] if options == ["--logprobs"] else None)
    assert batch["n_samples"] == (3 if options != ["--logprobs"] else 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt"\n', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n', "a.jsonl, line 1 has no text in a field 'prompt'"),
        ("a.jsonl", b'["x"]\n', "a.jsonl, line 1 has no text in a field 'prompt'"),
        ("a.jsonl", b'{"prompt": "\\ud800"}\n', "line 1: the prompt holds half of a surrogate pair"),
        ("a.txt", b"\n\n", "a.txt holds no prompt"),
        ("a.txt", b"caf\xe9\n", "a.txt is not valid UTF-8 at byte 3"),
        ("folder", None, "folder cannot be read"),
        ("nowhere.txt", None, "nowhere.txt cannot be read"),
    ],
)
def test_a_file_without_prompts_is_refused(name: str, content: bytes | None, message: str, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        main(["generate", "--checkpoint", "a", "--prompts", str(tmp_path / name)])


def test_one_prompt_or_a_file_of_them(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "--checkpoint", "a", "--prompt", "x", "--prompts", "y"])
    assert "not allowed with argument" in capsys.readouterr().err
