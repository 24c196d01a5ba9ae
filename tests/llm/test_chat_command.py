"""`chat` in a pipe, and beside adapters."""

import json
from pathlib import Path

import pytest
import torch
from support.command_line import assert_one_sentence, llm
from support.fine_tuning import write_base

from llm.adapted_model import open_with_adapters
from llm.adapters import NAME, weights_digest
from llm.checkpoint import load_model
from llm.errors import UserError
from llm.interop.peft_files import write_adapter
from llm.model.adapters import adapter_weights, add_adapter, use_adapter
from llm.model.lora import LoRA


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and two adapters of it: `one.ckpt`, and `two`, a folder of PEFT."""
    folder = tmp_path_factory.mktemp("chat")
    path = write_base(folder)
    for seed, name in ((1, "one"), (2, "two")):
        model, _ = load_model(path)
        lora = LoRA(rank=2)
        add_adapter(model, NAME, lora, seed=seed)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_b" in parameter_name:
                    parameter.normal_(generator=torch.Generator().manual_seed(seed))
        weights = adapter_weights(model, NAME)
        torch.save({f"model.{n}": t for n, t in model.state_dict().items()}, folder / f"{name}.whole")
        if name == "two":
            write_adapter(folder / name, model.config, lora, weights)
            continue
        contents = torch.load(path, weights_only=True)["labyrinth"]
        told = {
            "lora": lora.to_dict(),
            "base": str(path),
            "base_digest": weights_digest(load_model(path)[0].state_dict()),
        }
        state = {f"model.{n}": t for n, t in model.state_dict().items() if ".adapters." in n}
        torch.save({"state_dict": state, "labyrinth": {**contents, "adapter": told}}, folder / "one.ckpt")
    return folder


def logits(folder: Path, name: str) -> torch.Tensor:
    """Of a model beside which only the adapter `name` was ever put."""
    model, _ = load_model(folder / "base.ckpt")
    add_adapter(model, NAME, LoRA(rank=2))
    saved = torch.load(folder / f"{name}.whole", weights_only=True)
    model.load_state_dict({n.removeprefix("model."): t for n, t in saved.items()})
    return model(torch.arange(20)[None])


def test_several_adapters_share_a_model(folder: Path):
    given = [str(folder / "one.ckpt"), f"second={folder / 'two'}"]
    model, _, names = open_with_adapters(str(folder / "base.ckpt"), given)
    assert names == ["one", "second"]
    tokens = torch.arange(20)[None]
    for name, its in (("one", "one"), ("second", "two")):
        use_adapter(model, name)
        assert torch.allclose(model(tokens), logits(folder, its), atol=1e-5)
    use_adapter(model, None)
    assert torch.equal(model(tokens), load_model(folder / "base.ckpt")[0](tokens))
    alone, _, _ = open_with_adapters(str(folder / "base.ckpt"), given[:1])
    assert torch.allclose(alone(tokens), logits(folder, "one"), atol=1e-4)
    assert torch.allclose(load_model(folder / "one.ckpt")[0](tokens), logits(folder, "one"), atol=1e-4)


def test_an_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path):
    other, wide = write_base(tmp_path / "a", seed=9), write_base(tmp_path / "b", d_model=48, n_heads=3)
    with pytest.raises(UserError, match=r"one.ckpt is an adapter that was trained on .*base.ckpt, and the weights in"):
        open_with_adapters(str(other), [str(folder / "one.ckpt")])
    with pytest.raises(UserError, match=r"\[\d+, 32\].*\[\d+, 48\]|\[\d+, 48\].*\[\d+, 32\]|32.*48|48.*32"):
        open_with_adapters(str(wide), [str(folder / "two")])
    with pytest.raises(UserError, match=r"base.ckpt holds a whole model and no adapter: give it with --checkpoint"):
        open_with_adapters(str(folder / "base.ckpt"), [str(folder / "base.ckpt")])
    with pytest.raises(UserError, match="there is an adapter called one already"):
        open_with_adapters(str(folder / "base.ckpt"), [str(folder / "one.ckpt")] * 2)


def test_an_adapter_is_exported_for_peft_and_comes_back(folder: Path):
    done = llm("export", "--checkpoint=one.ckpt", "--to=peft", "--output=for-peft", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "verified: read back" in done.stdout
    model, _, _ = open_with_adapters(str(folder / "base.ckpt"), [str(folder / "for-peft")])
    tokens = torch.arange(20)[None]
    assert torch.allclose(model(tokens), logits(folder, "one"), atol=1e-4)
    done = llm("export", "--checkpoint=base.ckpt", "--to=peft", "--output=nothing", folder=folder)
    assert_one_sentence(done.returncode, done.stderr, 1, "holds a whole model and no adapter: write it with --to hf")


def test_in_a_pipe_each_line_is_a_message(folder: Path):
    flags = ["--checkpoint=base.ckpt", "--max_new_tokens=5", "--seed=1", "--adapter=one.ckpt"]
    done = llm("chat", *flags, folder=folder, input="sum of 1 and 2?\n\nagain?\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert "\x1b" not in done.stdout
    alone = llm("chat", *flags, "--message=sum of 1 and 2?", folder=folder)
    assert done.stdout.startswith(alone.stdout)
    assert len(done.stdout) > len(alone.stdout)


def test_in_a_pipe_there_are_the_commands_of_a_terminal(folder: Path):
    flags = ["--checkpoint=base.ckpt", "--max_new_tokens=5", "--temperature=0"]
    said = [
        "sum of 1 and 2?",
        "/regenerate",
        "/system Be brief.",
        "sum of 1 and 2?",
        "/save talk.json",
        "/help",
        "/exit",
    ]
    done = llm("chat", *flags, folder=folder, input="\n".join([*said, "never said"]))
    assert done.returncode == 0, done.stderr
    first, again, *_ = done.stdout.split("\n")
    assert first == again
    assert "saved: talk.json" in done.stderr
    assert "/regenerate" in done.stderr  # what /help tells is no answer
    assert "/regenerate" not in done.stdout
    turns = json.loads((folder / "talk.json").read_text())["messages"]
    assert [turn["content"] for turn in turns[:2]] == ["Be brief.", "sum of 1 and 2?"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]
    done = llm("chat", *flags, folder=folder, input="/regenrate\n")
    assert_one_sentence(done.returncode, done.stderr, 1, "no command '/regenrate'; did you mean '/regenerate'?")


def test_a_model_that_knows_no_conversations_is_told_of(folder: Path):
    done = llm("chat", "--checkpoint=base.ckpt", "--message=hi", "--max_new_tokens=3", folder=folder)
    assert done.returncode == 0
    assert "was not trained on conversations" in done.stderr


def test_what_cannot_be_is_one_sentence(folder: Path):
    done = llm("chat", "--checkpoint=base.ckpt", folder=folder, input="")
    assert_one_sentence(done.returncode, done.stderr, 1, "standard input holds no message")
    done = llm("chat", "--checkpoint=base.ckpt", "--mesage=hi", folder=folder)
    assert_one_sentence(done.returncode, done.stderr, 2, "did you mean '--message'?")
