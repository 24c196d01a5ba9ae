"""A folder that is written opens in transformers with the same ids; a damaged one is refused in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tokenizers
import torch
import transformers
from support.peers import TEXT
from support.stories import read_stories

from datamodules.text.patterns import GPT2_PATTERN, PATTERN
from datamodules.text.tokenizer import Tokenizer
from datamodules.text.training import train_bpe
from llm.errors import UserError
from llm.interop import huggingface
from llm.interop.adversarial import adversarial_strings
from llm.interop.huggingface import read_folder, write_folder
from llm.interop.safetensors_files import headers, tensors
from llm.model import GPT, GPTConfig


@pytest.fixture
def model() -> GPT:
    """The shape of the quickstart: RMSNorm, SwiGLU, QK-norm, RoPE."""
    shape = {"context_length": 64, "n_layers": 2, "d_model": 48, "n_heads": 2, "qk_norm": True}
    return GPT(GPTConfig(vocab_size=300, **shape)).eval()


@pytest.mark.parametrize("pattern", [PATTERN, GPT2_PATTERN])
def test_transformers_gives_the_same_ids(pattern: str, model: GPT, tmp_path: Path):
    tokenizer = Tokenizer(train_bpe([TEXT], 300, pattern=pattern))
    write_folder(tmp_path / "out", model, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in adversarial_strings():
        assert theirs(text)["input_ids"] == tokenizer.encode_prompt(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.bos_token_id == theirs.eos_token_id == tokenizer.end_of_text
    assert theirs.pad_token_id == tokenizer.pad
    assert theirs.model_max_length == 64
    batch = theirs(["The cat", "it's"], padding=True)
    assert [row[0] for row in batch["input_ids"]] == [0, 0]


def test_a_conversation_is_rendered_with_one_end_of_text(model: GPT, tokenizer: Tokenizer, tmp_path: Path):
    write_folder(tmp_path / "out", model, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Two mice?"}]
    told = theirs.apply_chat_template(turns, add_generation_prompt=True)
    ids = told if isinstance(told, list) else told["input_ids"]
    special, encode = tokenizer.special, tokenizer.encode
    assert ids == [
        special["<|endoftext|>"],
        *(special["<|system|>"], *encode("Be brief."), special["<|end|>"]),
        *(special["<|user|>"], *encode("Two mice?"), special["<|end|>"]),
        special["<|assistant|>"],
    ]


def test_generation_stops_at_the_end_of_the_text_or_the_turn(model: GPT, tokenizer: Tokenizer, tmp_path: Path):
    write_folder(tmp_path / "out", model, tokenizer)
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert settings.eos_token_id == [tokenizer.end_of_text, tokenizer.special["<|end|>"]]
    assert (settings.bos_token_id, settings.pad_token_id) == (tokenizer.end_of_text, tokenizer.pad)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 0, 1)


def test_a_round_trip_changes_nothing(model: GPT, tokenizer: Tokenizer, tmp_path: Path):
    write_folder(tmp_path / "out", model, tokenizer)
    back = read_folder(tmp_path / "out")
    assert back.config == model.config
    assert back.tokenizer.to_str() == tokenizer.to_str()
    assert all(torch.equal(back.weights[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_other_number_formats(dtype: str, model: GPT, tokenizer: Tokenizer, tmp_path: Path):
    write_folder(tmp_path / "out", model, tokenizer, dtype=dtype)
    wanted = huggingface.DTYPES[dtype]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs.dtype == wanted
    back = read_folder(tmp_path / "out")
    assert all(torch.equal(back.weights[name], value.to(wanted)) for name, value in model.state_dict().items())
    assert read_folder(tmp_path / "out", torch.float32).weights["embedding.weight"].dtype == torch.float32


def test_large_models_are_written_as_shards(model: GPT, tokenizer: Tokenizer, tmp_path: Path):
    write_folder(tmp_path / "out", model, tokenizer, shard_bytes=60_000)
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * sum(value.numel() for value in model.state_dict().values())
    assert set(index["weight_map"].values()) == set(shards)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), rtol=1e-5, atol=1e-5)


def test_who_may_read_one_file_may_read_all(model: GPT, tokenizer: Tokenizer, tmp_path: Path):
    (tmp_path / "plain").touch()
    write_folder(tmp_path / "out", model, tokenizer)
    wanted = (tmp_path / "plain").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "out").iterdir()} == {wanted}


def test_a_tied_head_is_stored_once(tokenizer: Tokenizer, tmp_path: Path):
    shape = {"context_length": 8, "n_layers": 1, "d_model": 16, "n_heads": 2, "tie_embeddings": True}
    write_folder(tmp_path / "out", GPT(GPTConfig(vocab_size=300, **shape)), tokenizer)
    assert "lm_head.weight" not in safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs.lm_head.weight.data_ptr() == theirs.model.embed_tokens.weight.data_ptr()


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_is_left_alone(model: GPT, tokenizer: Tokenizer, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already and is not empty"):
        write_folder(tmp_path / "out", model, tokenizer)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "note.txt"]


@pytest.mark.parametrize("damage", ["weights", "settings", "ids"])
def test_an_export_that_does_not_verify_is_not_kept(
    damage: str, model: GPT, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if damage == "weights":
        intact = huggingface.written_weights
        spoiled = lambda *given: ((n, t * 1.01 if "q_proj" in n else t) for n, t in intact(*given))  # noqa: E731
        monkeypatch.setattr(huggingface, "written_weights", spoiled)
    elif damage == "settings":
        intact_json = huggingface._write_json
        change = lambda values: {**values, "rope_theta": 500.0} if "rope_theta" in values else values  # noqa: E731
        monkeypatch.setattr(huggingface, "_write_json", lambda path, values: intact_json(path, change(values)))
    else:
        intact_tokenizer = huggingface.write_tokenizer
        other = Tokenizer(train_bpe([TEXT], 300, pattern=GPT2_PATTERN))
        monkeypatch.setattr(huggingface, "write_tokenizer", lambda f, t, c, p: intact_tokenizer(f, other, c, p))
    with pytest.raises(UserError, match=r"another matrix|gives other (logits|token ids)"):
        write_folder(tmp_path / "out", model, tokenizer)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_are_not_written(model: GPT, tokenizer: Tokenizer, tmp_path: Path):
    with torch.no_grad():
        model.norm.weight[3] = 1e30  # finite, and too large for f16
    with pytest.raises(UserError, match="not finite numbers as f16"):
        write_folder(tmp_path / "out", model, tokenizer, dtype="f16")
    assert not list(tmp_path.iterdir())


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def spoil_weight(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    change(weights)
    safetensors.torch.save_file(weights, path)


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def larger_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(train_bpe([TEXT], 310).to_str())


NORM = "model.layers.1.input_layernorm.weight"
DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (cut_off, "model.safetensors is not a whole safetensors file"),
    (as_pickle, "holds weights as a pickle file alone (pytorch_model.bin)"),
    (lose_a_shard, "lacks model-00002-of-00002.safetensors"),
    (larger_tokenizer, "the tokenizer has 310 ids and the embedding 304 rows"),
    (lambda f: spoil_weight(f, lambda w: w[NORM].fill_(float("nan"))), f"{NORM} holds NaN or infinite numbers"),
    (lambda f: spoil_weight(f, lambda w: w.pop(NORM)), f"the weights lack {NORM}"),
    (lambda f: spoil_weight(f, lambda w: w.update(extra=torch.ones(2))), "holds extra, which our model has no place"),
    (lambda f: spoil_weight(f, lambda w: w.update({NORM: torch.ones(3)})), f"{NORM} has the shape [3]"),
    (lambda f: spoil_weight(f, lambda w: w.update({NORM: torch.ones(48).int()})), f"{NORM} holds I32 numbers"),
    (lambda f: change_config(f, architectures=["MambaForCausalLM"]), "its architecture is MambaForCausalLM"),
    (lambda f: change_config(f, hidden_act="relu"), "its hidden_act is 'relu'"),
    (lambda f: change_config(f, rms_norm_eps="small"), "config.json holds a value that cannot be used"),
    (lambda f: change_config(f, hidden_size="wide"), "d_model is 'wide'"),
    (lambda f: (f / "config.json").write_text("{"), "config.json is not readable JSON"),
    (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer"),
    (lambda f: (f / "tokenizer.json").write_text("{}"), "its tokenizer cannot be read"),
    (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_damaged_folder_is_one_sentence(
    damage: Callable[[Path], object], reason: str, saved: Callable[..., tuple[torch.nn.Module, Path]]
):
    _, folder = saved("Llama")
    damage(folder)
    with pytest.raises(UserError) as told:
        read_folder(folder)
    assert reason in str(told.value)
    assert len(str(told.value).splitlines()) == 1


# ---- what other programs write -------------------------------------------------------------------------------------


def test_gpt2s_tokenizer_files_give_identical_ids(shared_data: Path, tmp_path: Path):
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, n_positions=16)
    theirs = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():  # as in GPT-2 itself, every logit is far below zero
        theirs.transformer.ln_f.bias.fill_(3.0)
        theirs.transformer.wte.weight.sub_(1.0)
    theirs.save_pretrained(tmp_path)
    for name in ("encoder.json", "vocab.bpe"):
        (tmp_path / name).write_bytes((shared_data / "gpt2-tokenizer" / name).read_bytes())
    imported = read_folder(tmp_path)
    names = {"vocab": "encoder.json", "merges": "vocab.bpe"}
    files = {key: str(shared_data / "gpt2-tokenizer" / name) for key, name in names.items()}
    reference = tokenizers.ByteLevelBPETokenizer(files["vocab"], files["merges"])
    for text in adversarial_strings():
        assert imported.tokenizer.encode(text) == reference.encode(text).ids, text
    assert imported.tokenizer.end_of_text == 50256
    # Our other five special tokens are new to it: their rows are the mean, so none is likelier than the average token.
    assert imported.config.vocab_size == 50262
    with torch.inference_mode():
        probability = imported.model()(torch.arange(16)[None]).softmax(-1)
    assert (probability[..., 50257:] <= 1 / 50257).all()


def test_files_of_older_versions(saved: Callable[..., tuple[torch.nn.Module, Path]]):
    """GPT-2 on the hub: names without their prefix, masks among the weights, and a head that is the embedding's."""
    theirs, folder = saved("GPT2")
    wanted = read_folder(folder).weights

    def rename(weights: dict[str, torch.Tensor]) -> None:
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)
        weights["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
        weights["lm_head.weight"] = theirs.transformer.wte.weight.detach().clone()

    spoil_weight(folder, rename)
    got = read_folder(folder).weights
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], value) for name, value in wanted.items())


def test_weights_are_read_one_at_a_time(
    saved: Callable[..., tuple[torch.nn.Module, Path]], monkeypatch: pytest.MonkeyPatch
):
    _, folder = saved("Llama")
    entries = headers(folder)
    reads: list[int] = []
    intact = np.fromfile
    monkeypatch.setattr(
        "numpy.fromfile", lambda path, **settings: reads.append(settings["count"]) or intact(path, **settings)
    )
    stream = tensors(entries)
    assert not reads
    name, tensor = next(stream)
    assert reads == [tensor.numel() * 4] == [entries[name].n_bytes]


def llama3_tokenizer() -> tokenizers.Tokenizer:
    """As Llama 3 has it: a text begins with one token and ends with another, and neither is called as ours."""
    names = ["<|begin_of_text|>", "<|end_of_text|>"]
    backend = train_bpe([TEXT], 290, special_tokens=names)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{names[0]} $A", pair=f"{names[0]} $A $B", special_tokens=[(names[0], 0)]
    )
    return backend


@pytest.mark.parametrize("named_by", ["config.json", "tokenizer_config.json"])
def test_a_text_begins_and_ends_as_the_model_learnt_it(
    named_by: str, saved: Callable[..., tuple[torch.nn.Module, Path]], tmp_path: Path
):
    _, folder = saved("Llama")
    (folder / "tokenizer.json").write_text(llama3_tokenizer().to_str())
    if named_by == "config.json":
        change_config(folder, eos_token_id=[1])
    else:
        (folder / named_by).write_text(json.dumps({"eos_token": {"content": "<|end_of_text|>"}}))
    imported = read_folder(folder)
    assert imported.tokenizer.encode_prompt("The cat")[0] == imported.tokenizer.begin_of_text == 0
    assert imported.tokenizer.end_of_text == 1
    assert imported.tokenizer.encode_prompt("The cat")[1:] == imported.tokenizer.encode("The cat")
    write_folder(tmp_path / "again", imported.model(), imported.tokenizer)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again("The cat")["input_ids"] == imported.tokenizer.encode_prompt("The cat")
    assert (again.bos_token_id, again.eos_token_id) == (0, 1)


def test_the_mean_of_rows_is_not_needed_where_there_are_rows(
    saved: Callable[..., tuple[torch.nn.Module, Path]], tokenizer: Tokenizer
):
    theirs, folder = saved("Llama")
    assert read_folder(folder).config.vocab_size == 304 > tokenizer.vocab_size
    np.testing.assert_array_equal(
        read_folder(folder).weights["embedding.weight"].numpy(), theirs.model.embed_tokens.weight.detach().numpy()
    )


def test_stories_are_told_by_transformers(shared_data: Path, tokenizer: Tokenizer, tmp_path: Path):
    model = read_stories(shared_data / "stories260K")
    golden = json.loads((shared_data / "stories260K" / "golden.json").read_text())
    write_folder(tmp_path / "out", model, tokenizer)  # not its own tokenizer: that is none of bytes
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    prompt = torch.tensor([golden["ids"][:1]])
    told = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_length=100)
    assert told[0].tolist() == golden["ids"][:100]
    back = read_folder(tmp_path / "out").model()
    with torch.inference_mode():
        logits = back(torch.tensor([golden["ids"][:16]]))[0, -1]
    torch.testing.assert_close(logits, torch.tensor(golden["logits_last_of_first_16_ids"]), rtol=1e-5, atol=2e-5)
