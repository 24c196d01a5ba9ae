"""Adapters go to PEFT and come from there with the same logits; what ours cannot be is refused in one sentence."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.adapters import learnt
from support.models import random_model
from torch import Tensor

from datamodules.text.tokenizer import Tokenizer
from llm.errors import UserError
from llm.interop.huggingface import read_folder, write_folder
from llm.interop.peft_files import read_adapter, write_adapter
from llm.model import GPT, GPTConfig
from llm.model.adapters import adapter_weights, add_adapter, use_adapter
from llm.model.lora import LoRA

SHAPE = {"vocab_size": 300, "d_model": 48}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-biases": {"bias": True, "n_kv_heads": 2},
    "qwen3": {"qk_norm": True, "n_kv_heads": 2, "head_dim": 16, "tie_embeddings": True},
    "starcoder2": {"norm": "layernorm", "feedforward": "gelu", "bias": True},
    "gpt2": {"norm": "layernorm", "feedforward": "gelu", "bias": True, "position": "learned", "tie_embeddings": True},
    "mixtral": {"n_experts": 3, "router": "softmax"},
}
LORAS = {
    "lora": LoRA(rank=4, alpha=6, dropout=0.25),
    "rslora": LoRA(rank=3, alpha=2.5, rslora=True),
    "dora": LoRA(rank=4, alpha=6, dora=True),
    "some": LoRA(rank=2, targets=("query", "value", "output")),
}
PAIRS = [(model, lora) for model in MODELS for lora in LORAS]


@torch.inference_mode()
def assert_same_logits(ours: GPT, theirs: torch.nn.Module) -> None:
    tokens = torch.randint(300, (2, 24), generator=torch.Generator().manual_seed(1))
    a, b = ours.eval()(tokens), theirs.eval()(tokens).logits
    assert (a - b).abs().max() / b.abs().max() < 1e-5
    use_adapter(ours, None)
    assert (a - ours(tokens)).abs().max() / b.abs().max() > 0.05  # not equal for lack of an adapter


def opened(folder: Path) -> torch.nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(("model", "lora"), PAIRS)
def test_peft_opens_what_we_write(model: str, lora: str, tokenizer: Tokenizer, tmp_path: Path):
    import peft

    ours = random_model(**SHAPE, **MODELS[model])
    write_folder(tmp_path / "base", ours, tokenizer)
    learnt(ours, "default", LORAS[lora])
    weights = adapter_weights(ours, "default")
    told = write_adapter(tmp_path / "adapter", ours.config, LORAS[lora], weights, str(tmp_path / "base"))
    theirs = peft.PeftModel.from_pretrained(opened(tmp_path / "base"), tmp_path / "adapter")
    files = {path.name: path.stat() for path in (tmp_path / "adapter").iterdir()}
    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors"]
    assert told["bytes"] == sum(file.st_size for file in files.values())
    assert_same_logits(ours, theirs)
    # Their file of the same adapter is ours.
    theirs.save_pretrained(tmp_path / "again")
    own, again = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "again"))
    assert own.keys() == again.keys()
    assert all(torch.equal(own[name], again[name]) for name in own)


@pytest.mark.parametrize(("model", "lora"), PAIRS)
def test_a_round_trip_changes_nothing(model: str, lora: str, tmp_path: Path):
    ours = learnt(random_model(**SHAPE, **MODELS[model]), "default", LORAS[lora])
    weights = adapter_weights(ours, "default")
    write_adapter(tmp_path / "adapter", ours.config, LORAS[lora], weights)
    settings, back = read_adapter(tmp_path / "adapter", ours.config)
    assert dataclasses.replace(settings, targets=None) == dataclasses.replace(LORAS[lora], targets=None)
    assert settings.maps(ours.config) == LORAS[lora].maps(ours.config)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weight) for name, weight in weights.items())


THEIRS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "lora": ("llama", {"r": 4, "lora_alpha": 10, "target_modules": "all-linear", "lora_dropout": 0.5}, {}),
    "some": ("llama-biases", {"r": 4, "target_modules": ["k_proj", "down_proj"]}, {"targets": ("key", "down")}),
    "rslora": ("qwen3", {"r": 5, "use_rslora": True, "target_modules": "all-linear"}, {"rslora": True}),
    "dora": ("qwen3", {"r": 3, "use_dora": True, "target_modules": ["q_proj", "up_proj"]}, {"dora": True}),
    "dora-biases": ("llama-biases", {"r": 3, "use_dora": True, "target_modules": "all-linear"}, {"dora": True}),
    "ranks": (
        "llama",
        {"r": 4, "target_modules": ["q_proj", "v_proj", "o_proj"], "lora_alpha": 6, "use_rslora": True}
        | {"rank_pattern": {"layers.0.self_attn.q_proj": 7}, "alpha_pattern": {"v_proj": 3, "q_proj": 9}},
        {"rank": 7},
    ),
    "one-block": ("qwen3", {"r": 4, "target_modules": ["q_proj"], "layers_to_transform": [1]}, {"rank": 4}),
    "gpt2": ("gpt2", {"r": 4, "target_modules": ["c_attn", "mlp.c_proj"], "lora_alpha": 10}, {"rank": 4}),
    "gpt2-dora": ("gpt2", {"r": 4, "target_modules": ["c_attn"], "use_dora": True}, {"dora": True}),
}


@pytest.mark.parametrize("case", THEIRS)
def test_what_peft_writes_is_read(case: str, tokenizer: Tokenizer, tmp_path: Path):
    import peft

    name, settings, expected = THEIRS[case]
    ours = random_model(**SHAPE, **MODELS[name])
    write_folder(tmp_path / "base", ours, tokenizer)
    theirs = peft.get_peft_model(
        opened(tmp_path / "base"), peft.LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2", **settings)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 9)
    theirs.save_pretrained(tmp_path / "adapter")
    lora, weights = read_adapter(tmp_path / "adapter", ours.config)
    assert {name: getattr(lora, name) for name in expected} == expected
    assert lora.dropout == settings.get("lora_dropout", 0)
    add_adapter(ours, "theirs", lora, weights)
    assert_same_logits(ours, theirs)


def test_a_new_adapter_goes_there_and_back(tmp_path: Path):
    for name in ("qwen3", "gpt2"):
        model = random_model(**SHAPE, **MODELS[name])
        add_adapter(model, "default", LoRA(rank=2))
        write_adapter(tmp_path / name, model.config, LoRA(rank=2), adapter_weights(model, "default"))
        lora, weights = read_adapter(tmp_path / name, model.config)
        assert all(weight.any() == key.endswith("lora_a") for key, weight in weights.items())
        assert lora.maps(model.config) == LoRA().maps(model.config)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_other_number_formats(dtype: str, tmp_path: Path):
    model = learnt(random_model(**SHAPE), "default", LoRA())
    weights = adapter_weights(model, "default")
    write_adapter(tmp_path / "adapter", model.config, LoRA(), weights, dtype=dtype)
    wanted = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {wanted}
    _, back = read_adapter(tmp_path / "adapter", model.config)
    assert all(torch.equal(back[name], weight.to(wanted).float()) for name, weight in weights.items())


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The folder of an adapter for the queries of a model of MODELS["llama"]."""
    lora = LoRA(rank=4, targets=("query",))
    model = learnt(random_model(**SHAPE), "default", lora)
    write_adapter(tmp_path / "adapter", model.config, lora, adapter_weights(model, "default"))
    return tmp_path / "adapter"


CONFIG = random_model(**SHAPE).config


def told(folder: Path, config: GPTConfig = CONFIG) -> str:
    with pytest.raises(UserError) as error:
        read_adapter(folder, config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_adapter_for_another_model(written: Path):
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    wider = random_model(**{**SHAPE, "d_model": 64}).config
    assert f"{first} has the shape [4, 48], and the model with adapter_config.json makes it [4, 64]" in told(
        written, wider
    )
    shallow = random_model(**SHAPE, n_layers=1).config
    assert "layers.1.self_attn.q_proj.lora_A.weight, for which an adapter of this model has no place" in told(
        written, shallow
    )
    assert "for which an adapter of this model has no place" in told(written, random_model(**MODELS["gpt2"]).config)
    assert "no architecture of transformers can have all of this model" in told(
        written, random_model(**SHAPE, bigram_rows=8).config
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"peft_type": "IA3"}, "its peft_type is 'IA3', and our adapters have nothing like it"),
        ({"bias": "all"}, "its bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "its modules_to_save is ['lm_head']"),
        ({"init_lora_weights": "pissa"}, "its init_lora_weights is 'pissa'"),
        ({"something_new": {"x": 1}}, "its something_new is {'x': 1}"),
        ({"r": 0}, "lora.rank is 0"),
        ({"lora_alpha": "16"}, "lora.alpha is '16'"),
        ({"r": 5}, "lora_A.weight has the shape [4, 48], and the model with adapter_config.json makes it [5, 48]"),
        ({"use_dora": True}, "lacks base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"),
        ({"rank_pattern": {"(": 4}}, "its rank_pattern or alpha_pattern cannot be used"),
        ({"alpha_pattern": {"q_proj": 0}}, "its rank_pattern or alpha_pattern cannot be used"),
    ],
)
def test_settings_that_ours_cannot_have(change: dict[str, Any], reason: str, written: Path):
    path = written / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert reason in told(written)


def _rename(tensors: dict[str, Tensor], old: str, new: str) -> None:
    name = next(name for name in tensors if old in name)
    tensors[name.replace(old, new)] = tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: _rename(t, "model.layers.1.self_attn.q_proj", "lm_head"), "holds base_model.model.lm_head.lora"),
        (lambda t: _rename(t, "lora_A.weight", "lora_C.weight"), "lora_C.weight, for which an adapter"),
        (lambda t: _rename(t, "lora_A.weight", "lora_magnitude_vector"), "lacks base_model.model.model.layers"),
        (lambda t: t.update({next(iter(t)): next(iter(t.values())) / 0}), "holds other than finite numbers"),
        (lambda t: t.clear(), "holds no tensors"),
    ],
)
def test_tensors_that_ours_cannot_have(change: Callable[[dict[str, Tensor]], None], reason: str, written: Path):
    tensors = load_file(written / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, written / "adapter_model.safetensors")
    assert reason in told(written)


def test_dora_for_some_blocks_alone(tmp_path: Path):
    lora = LoRA(rank=4, targets=("query",), dora=True)
    model = learnt(random_model(**SHAPE), "default", lora)
    write_adapter(tmp_path / "adapter", model.config, lora, adapter_weights(model, "default"))
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if ".layers.0." in name}, path)
    assert "lacks it for blocks.1.attention.query" in told(tmp_path / "adapter")


def test_files_that_are_not_there_or_damaged(written: Path, tmp_path: Path):
    weights = written / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "is not a whole safetensors file" in told(written)
    weights.unlink()
    assert "holds no adapter_model.safetensors" in told(written)
    (written / "adapter_model.bin").touch()
    assert "as a pickle file, which can run any program" in told(written)
    (written / "adapter_config.json").write_text("{")
    assert "is not readable JSON" in told(written)
    assert "holds no adapter_config.json" in told(tmp_path)


def test_what_cannot_be_written(written: Path, tmp_path: Path):
    lora = LoRA(rank=2, targets=("query", "up"), dora=True)
    model = learnt(random_model(**SHAPE, **MODELS["gpt2"]), "default", lora)
    weights = adapter_weights(model, "default")
    with pytest.raises(UserError, match="has query, key, value as one map, and the lengths that DoRA learns of query"):
        write_adapter(tmp_path / "out", model.config, lora, weights)
    plain = dataclasses.replace(lora, dora=False)
    with pytest.raises(UserError, match="exists already and is not empty"):
        write_adapter(written, model.config, plain, weights)
    large = {name: weight * 1e6 for name, weight in weights.items()}
    with pytest.raises(UserError, match="are not finite numbers as f16"):
        write_adapter(tmp_path / "out", model.config, plain, large, dtype="f16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_an_adapter_that_does_not_verify_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from llm.interop import peft_files

    lora = LoRA(rank=2)
    model = learnt(random_model(**SHAPE), "default", lora)
    intact = peft_files.write_settings
    monkeypatch.setattr(peft_files, "write_settings", lambda *given: intact(*given) | {"alpha_pattern": {"q_proj": 5}})
    with pytest.raises(UserError, match="was written and read back as something else: nothing was kept"):
        write_adapter(tmp_path / "out", model.config, lora, adapter_weights(model, "default"))
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_transformers_with_its_adapter(saved: Callable[..., tuple[torch.nn.Module, Path]], tmp_path: Path):
    """A base of theirs, an adapter of theirs, both read."""
    import peft

    theirs, folder = saved("Qwen3", num_key_value_heads=2, head_dim=16)
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(r=4, init_lora_weights=False, target_modules="all-linear"))
    adapted.save_pretrained(tmp_path / "adapter")
    ours = read_folder(folder).model()
    add_adapter(ours, "theirs", *read_adapter(tmp_path / "adapter", ours.config))
    assert_same_logits(ours, adapted)
