"""`export` and `import` as a user runs them, and what their checkpoint is good for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from support.command_line import TINY, llm, write_texts

from datamodules.text.tokenizer import Tokenizer
from llm.__main__ import main
from llm.checkpoint import load_model, read_checkpoint
from llm.interop import hub
from llm.interop.huggingface import read_folder
from llm.model import GPT, GPTConfig

Saved = Callable[..., tuple[torch.nn.Module, Path]]


def test_in_out_and_in_again(saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    theirs, folder = saved("Llama", num_key_value_heads=2)
    checkpoint, out, again = (str(tmp_path / name) for name in ("model.ckpt", "out", "again.ckpt"))
    assert main(["import", "--from", str(folder), "--output", checkpoint]) == 0
    told = capsys.readouterr().out
    assert "LlamaForCausalLM, " in told
    assert "2 layers of width 48, context 64, 304 token ids" in told
    assert main(["export", "--checkpoint", checkpoint, "--to", "hf", "--output", out]) == 0
    assert "verified: read back, the weights are equal" in capsys.readouterr().out
    assert main(["import", "--from", out, "--output", again, "--dtype", "bf16"]) == 0
    a, b = (read_checkpoint(Path(path)) for path in (checkpoint, again))
    assert a["labyrinth"] == b["labyrinth"]
    assert all(torch.equal(value.bfloat16(), b["state_dict"][name]) for name, value in a["state_dict"].items())
    tokens = torch.arange(20)[None]
    back = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.inference_mode():
        torch.testing.assert_close(back(tokens).logits, theirs(tokens).logits)
    capsys.readouterr()
    assert main(["generate", "--checkpoint", checkpoint, "--prompt", "The cat", "--max_new_tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("The cat")


def test_a_run_begins_from_imported_weights(saved: Saved, tmp_path: Path):
    _, folder = saved("Qwen3", num_key_value_heads=2, head_dim=16)
    assert main(["import", "--from", str(folder), "--output", str(tmp_path / "model.ckpt")]) == 0
    write_texts(tmp_path)
    shape = [option for option in TINY if not option.startswith(("--model.gpt", "--data.vocab_size"))]
    start = ["--ckpt_path=model.ckpt", "--data.tokenizer=model.tokenizer.json", "--model.lr=1e-9"]
    done = llm("fit", *shape, *start, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    model, tokenizer = load_model(tmp_path / "runs" / "run" / "checkpoints" / "step-00000032.ckpt")
    wanted = read_folder(folder)
    assert model.config == wanted.config
    assert tokenizer.to_str() == wanted.tokenizer.to_str()
    # Trained on from those weights, with steps too small to show.
    torch.testing.assert_close(model.state_dict(), wanted.model().state_dict(), rtol=0, atol=1e-5)
    assert read_checkpoint(tmp_path / "runs" / "run" / "checkpoints" / "step-00000032.ckpt")["global_step"] == 32


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    return error


def test_what_is_there_is_never_overwritten(saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, folder = saved("Llama")
    (tmp_path / "model.ckpt").write_text("mine")
    error = refused(["import", "--from", str(folder), "--output", str(tmp_path / "model.ckpt")], capsys)
    assert "model.ckpt exists already" in error
    assert (tmp_path / "model.ckpt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ckpt", "theirs"]


def test_a_damaged_folder_leaves_no_checkpoint(saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, folder = saved("Llama")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    error = refused(["import", "--from", str(folder), "--output", str(tmp_path / "model.ckpt")], capsys)
    assert "not a whole safetensors file" in error
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere", "there is no such folder, and a name on the hub reads owner/name"),
        ("./a/b", "there is no such folder"),
        ("model.json", "is a file: give the folder"),
    ],
)
def test_a_source_that_is_not_there(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("model.json").write_text("{}")
    assert reason in refused(["import", "--from", source, "--output", "model.ckpt"], capsys)


def test_a_model_of_the_hub_comes_without_pickle_files(saved: Saved, monkeypatch: pytest.MonkeyPatch):
    _, folder = saved("Llama")
    asked = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **settings: asked.update(settings, name=name) or str(folder)
    )
    assert hub.find_folder("owner/name") == folder
    assert asked == {"name": "owner/name", "allow_patterns": hub.PATTERNS}
    assert not any(pattern.endswith(("bin", "pt", "*")) for pattern in hub.PATTERNS)


def test_a_hub_that_does_not_answer_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(name: str, **settings: object) -> str:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    error = refused(["import", "--from", "owner/name", "--output", str(tmp_path / "model.ckpt")], capsys)
    assert "the hub gives no model of that name (ConnectionError: no route)" in error


@pytest.mark.parametrize("key", ["relu2", "cap"])
def test_an_export_that_nothing_can_express_leaves_nothing(
    key: str, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fields = {"relu2": {"feedforward": "relu2"}, "cap": {"logit_soft_cap": 20.0}}[key]
    shape = {"vocab_size": 300, "context_length": 8, "n_layers": 1, "d_model": 16, "n_heads": 2, **fields}
    model = GPT(GPTConfig(**shape))
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    contents = {"format": 1, "gpt": model.config.to_dict(), "tokenizer": tokenizer.to_str(), "data_fingerprint": None}
    torch.save({"state_dict": weights, "labyrinth": contents}, tmp_path / "model.ckpt")
    out = str(tmp_path / "out")
    error = refused(["export", "--checkpoint", str(tmp_path / "model.ckpt"), "--to", "hf", "--output", out], capsys)
    assert next(iter(fields)) in error
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


def test_the_hyperparameters_open_the_same_shape(saved: Saved, tmp_path: Path):
    _, folder = saved("GPT2")
    assert main(["import", "--from", str(folder), "--output", str(tmp_path / "model.ckpt")]) == 0
    checkpoint = read_checkpoint(tmp_path / "model.ckpt")
    assert checkpoint["hyper_parameters"]["gpt"] == checkpoint["labyrinth"]["gpt"]
    json.dumps(checkpoint["hyper_parameters"])


def test_a_gguf_file(saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    _, folder = saved("Qwen3", num_key_value_heads=2, head_dim=16)
    checkpoint, out = str(tmp_path / "model.ckpt"), str(tmp_path / "out")
    assert main(["import", "--from", str(folder), "--output", checkpoint]) == 0
    export = ["export", "--checkpoint", checkpoint, "--output", out, "--dtype", "q8_0", "--to"]
    capsys.readouterr()
    assert "--dtype q8_0 goes with --to gguf alone" in refused([*export, "hf"], capsys)
    with monkeypatch.context() as without:
        without.setattr("importlib.util.find_spec", lambda name: None)
        assert "pip install 'labyrinth-llm[gguf]'" in refused([*export, "gguf"], capsys)
    assert not Path(out).exists()
    assert main([*export, "gguf"]) == 0
    told = capsys.readouterr().out
    assert "out: qwen3, " in told
    assert "in llama.cpp 200 strings' ids equal" in told
    assert [path.name for path in Path(out).iterdir()] == ["model-q8_0.gguf"]
