"""A GGUF file gives in llama.cpp itself the token ids and log-probabilities of the model that it was made of."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
import torch
from support.peers import TEXT, randomise
from support.stories import read_stories

from datamodules.text.patterns import GPT2_PATTERN, GPT4_PATTERN, PATTERN
from datamodules.text.tokenizer import Tokenizer
from datamodules.text.training import train_bpe
from llm.errors import UserError
from llm.interop import gguf as gguf_file
from llm.interop import gguf_tokenizer
from llm.interop.gguf import architecture_of, read_weights, write_folder
from llm.interop.gguf_tokenizer import pre_name
from llm.interop.llama_cpp import LlamaCpp, largest_difference
from llm.model import GPT, GPTConfig

SHAPE = {"vocab_size": 304, "context_length": 128, "n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2}
GELU = {"norm": "layernorm", "feedforward": "gelu", "bias": True}
LEARNED = {**GELU, "position": "learned", "n_kv_heads": 4}


def scaled(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_scaling": {"type": kind, "factor": 4.0, **settings}}


YARN = {"original_context_length": 32}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-biases-tied": ("llama", {"bias": True, "tie_embeddings": True}),
    "llama-head-dim": ("llama", {"head_dim": 24, "rope_theta": 500.0}),
    "llama-linear": ("llama", scaled("linear")),
    "llama-llama3": ("llama", scaled("llama3", original_context_length=32)),
    "llama-yarn": ("llama", scaled("yarn", **YARN)),
    "llama-yarn-factor": ("llama", scaled("yarn", **YARN, attention_factor=1.3)),
    "mistral": ("llama", {"n_heads": 3, "n_kv_heads": 1, "head_dim": 16}),
    "qwen2": ("qwen2", {"qkv_bias": True}),
    "qwen3": ("qwen3", {"qk_norm": True, "head_dim": 32}),
    "qwen3-yarn-tied": ("qwen3", {"qk_norm": True, "tie_embeddings": True, **scaled("yarn", **YARN)}),
    "starcoder2": ("starcoder2", GELU),
    "gpt2": ("gpt2", {**LEARNED, "tie_embeddings": True}),
    "gpt2-untied": ("gpt2", LEARNED),
}


def build(**fields: Any) -> GPT:
    return randomise(GPT(GPTConfig(**{**SHAPE, **fields})))


@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_agrees(case: str, tokenizer: Tokenizer, tmp_path: Path):
    architecture, fields = CASES[case]
    model = build(**fields)
    told = write_folder(tmp_path / "out", model, tokenizer)  # which asks llama.cpp as well
    assert told["architecture"] == architecture
    assert "in llama.cpp 200 strings' ids equal" in told["verified"]
    theirs = LlamaCpp(tmp_path / "out" / "model-f32.gguf", tokenizer, 128)
    # GELU is a table of f16 numbers there.
    assert largest_difference(theirs, model, tokenizer) < (5e-4 if "gelu" in fields.values() else 3e-6)


@pytest.mark.parametrize("fields", [{}, {**LEARNED, "tie_embeddings": True}])
@pytest.mark.parametrize(("dtype", "nats"), [("f16", 2e-3), ("bf16", 2e-2), ("q8_0", 4e-2)])
def test_smaller_numbers(dtype: str, nats: float, fields: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path):
    model = build(**fields)
    size = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32}
    told = write_folder(tmp_path / "out", model, tokenizer, dtype=dtype)
    matrices = sum(weight.numel() for weight in model.parameters() if weight.ndim == 2)
    assert size[dtype] * matrices < told["bytes"] < size[dtype] * matrices + 60_000
    theirs = LlamaCpp(tmp_path / "out" / f"model-{dtype}.gguf", tokenizer, 128)
    assert largest_difference(theirs, model, tokenizer) < nats


def test_rows_that_are_no_whole_blocks_stay_f16(tokenizer: Tokenizer, tmp_path: Path):
    write_folder(tmp_path / "out", build(d_model=48, d_ff=64, head_dim=8), tokenizer, dtype="q8_0")
    reader = gguf.GGUFReader(tmp_path / "out" / "model-q8_0.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["token_embd.weight"] == "F16"
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert kinds["output_norm.weight"] == "F32"


def test_positions_are_added_and_stay_f32(tokenizer: Tokenizer, tmp_path: Path):
    write_folder(tmp_path / "out", build(**LEARNED), tokenizer, dtype="bf16")
    reader = gguf.GGUFReader(tmp_path / "out" / "model-bf16.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert (kinds["position_embd.weight"], kinds["token_embd.weight"]) == ("F32", "BF16")


def test_what_is_read_back_is_what_was_written(tokenizer: Tokenizer, tmp_path: Path):
    model = build(bias=True)
    write_folder(tmp_path / "out", model, tokenizer)
    back = read_weights(tmp_path / "out" / "model-f32.gguf", model.config)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], weight) for name, weight in model.state_dict().items())


def test_stories_are_told_by_llama_cpp(shared_data: Path, tokenizer: Tokenizer, tmp_path: Path):
    model = read_stories(shared_data / "stories260K")
    write_folder(tmp_path / "out", model, tokenizer)  # not its own tokenizer: that is none of bytes
    ids = json.loads((shared_data / "stories260K" / "golden.json").read_text())["ids"]
    theirs = LlamaCpp(tmp_path / "out" / "model-f32.gguf", tokenizer, 128)
    for length in (1, 16, 60):
        told = theirs.log_probabilities(ids[:length], 10)
        assert max(told, key=lambda token: told[token]) == ids[length]


# ---- the tokenizer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pattern", "pre"), [(GPT2_PATTERN, "gpt-2"), (GPT4_PATTERN, "llama-bpe"), (PATTERN, "qwen2")])
def test_each_pattern_has_the_name_that_cuts_alike(pattern: str, pre: str, tmp_path: Path):
    tokenizer = Tokenizer(train_bpe([TEXT], 300, pattern=pattern))
    assert pre_name(json.loads(tokenizer.to_str())) == pre
    write_folder(tmp_path / "out", build(), tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN, PATTERN])
def test_every_kind_of_character_is_cut_alike(
    pattern: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By the 50,000 merges of GPT-2, which show where a cut is; docs/interop.md has the figures for all of Unicode."""
    files = [str(shared_data / "gpt2-tokenizer" / name) for name in ("encoder.json", "vocab.bpe")]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*files))
    parts = tokenizers.pre_tokenizers
    cut = parts.Split(tokenizers.Regex(pattern), behavior="isolated")
    backend.pre_tokenizer = parts.Sequence([cut, parts.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = Tokenizer.from_str(backend.to_str())
    monkeypatch.setattr(gguf_file.importlib.util, "find_spec", lambda name: None)  # llama.cpp is asked below
    write_folder(tmp_path / "out", build(vocab_size=tokenizer.vocab_size, n_layers=1, d_model=16), tokenizer)
    theirs = LlamaCpp(tmp_path / "out" / "model-f32.gguf", tokenizer, 128)
    points = [chr(point) for point in (*range(0x600), *range(0x600, 0x30000, 61)) if not 0xD800 <= point < 0xE000]
    contexts = "the{0}the {0}the 12{0}34 {0}{0} it'{0} !{0}! {0}s\n"
    for start in range(0, len(points), 256):
        text = "".join(contexts.format(point) for point in points[start : start + 256])
        assert theirs.ids(text) == tokenizer.encode_prompt(text), start


def test_smollms_way_of_cutting(tmp_path: Path):
    backend = tokenizers.Tokenizer.from_str(train_bpe([TEXT], 300, pattern=GPT2_PATTERN).to_str())
    parts = tokenizers.pre_tokenizers
    digits, words = parts.Digits(individual_digits=True), parts.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = parts.Sequence([digits, words])
    assert pre_name(json.loads(backend.to_str())) == "smollm"
    write_folder(tmp_path / "out", build(), Tokenizer(backend))


def test_a_wrong_name_is_noticed(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gguf_tokenizer, "pre_name", lambda content: "gpt-2")
    with pytest.raises(UserError, match=r"llama\.cpp gives other token ids on \d+ of 200 strings"):
        write_folder(tmp_path / "out", build(), tokenizer)
    assert not list(tmp_path.iterdir())


def test_a_pattern_that_llama_cpp_has_not_is_refused(tmp_path: Path):
    in_twos = GPT4_PATTERN.replace("{1,3}", "{1,2}")
    with pytest.raises(UserError, match=r"llama\.cpp cannot cut text by the tokenizer's pattern"):
        write_folder(tmp_path / "out", build(), Tokenizer(train_bpe([TEXT], 300, pattern=in_twos)))
    backend = train_bpe([TEXT], 300, pattern=PATTERN)
    backend.normalizer = tokenizers.normalizers.NFC()
    with pytest.raises(UserError, match=r"changes text before it encodes it \(NFC\)"):
        write_folder(tmp_path / "out", build(), Tokenizer(backend))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_tokens_beside_the_merges(ignore_merges: bool, tmp_path: Path):
    """Llama 3 has tokens that only a whole piece becomes; llama.cpp knows of that by the name of the pattern alone."""
    content = json.loads(train_bpe([TEXT], 300, pattern=GPT4_PATTERN).to_str())
    content["model"]["vocab"]["zebra"] = 300
    content["model"]["ignore_merges"] = ignore_merges
    tokenizer = Tokenizer.from_str(json.dumps(content))
    assert tokenizer.encode("zebra") == ([300] if ignore_merges else tokenizer.encode("zebr") + tokenizer.encode("a"))
    if ignore_merges:
        write_folder(tmp_path / "out", build(), tokenizer)
        assert LlamaCpp(tmp_path / "out" / "model-f32.gguf", tokenizer, 8).ids("zebra") == [0, 300]
    else:
        with pytest.raises(UserError, match=r"its merges do not lead to, and llama\.cpp would take them"):
            write_folder(tmp_path / "out", build(), tokenizer)


def test_ids_without_text_and_special_ones(tokenizer: Tokenizer, tmp_path: Path):
    write_folder(tmp_path / "out", build(), tokenizer, chat_template="{{ bos_token }}hello")
    reader = gguf.GGUFReader(tmp_path / "out" / "model-f32.gguf")
    field = {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}
    assert field["tokenizer.ggml.tokens"][300] == "[UNUSED300]"
    kinds = [gguf.TokenType(kind).name for kind in field["tokenizer.ggml.token_type"]]
    assert (kinds[:7], kinds[299:]) == (["CONTROL"] * 6 + ["NORMAL"], ["NORMAL"] + ["UNUSED"] * 4)
    names = ("bos", "eos", "padding", "eot")
    assert [field[f"tokenizer.ggml.{name}_token_id"] for name in names] == [0, 0, 1, 5]
    assert field["tokenizer.ggml.add_bos_token"] is True
    assert field["tokenizer.chat_template"] == "{{ bos_token }}hello"


def test_a_conversation_has_one_end_of_text_in_llama_cpp(tokenizer: Tokenizer, tmp_path: Path):
    write_folder(tmp_path / "out", build(), tokenizer)
    theirs = LlamaCpp(tmp_path / "out" / "model-f32.gguf", tokenizer, 128)
    messages = {"messages": [{"role": "user", "content": "Two mice?"}], "max_tokens": 1}
    told = theirs.server.handle_chat_completions(messages)
    turn = [tokenizer.special["<|user|>"], *tokenizer.encode("Two mice?"), tokenizer.special["<|end|>"]]
    assert told["usage"]["prompt_tokens"] == 1 + len(turn) + 1  # the end-of-text before, the assistant's token after


# ---- what is refused ------------------------------------------------------------------------------------------------

REFUSED = [
    ({"sliding_window": 8}, "llama has no sliding_window 8"),
    (scaled("dynamic", original_context_length=32), "llama has no rope_scaling of type dynamic"),
    ({"qk_norm": True, **scaled("llama3", original_context_length=32)}, "qwen3 has no rope_scaling of type llama3"),
    (scaled("yarn", **YARN, beta_slow=2.0), "llama has no rope_scaling with beta_slow 2.0"),
    (scaled("yarn", **YARN, truncate=False), "llama has no rope_scaling with truncate False"),
    ({"logit_soft_cap": 9.0}, "logit_soft_cap 9.0"),
    ({"n_experts": 4, "router": "softmax"}, r"models with experts \(n_experts 4\) are not written as GGUF"),
]


@pytest.mark.parametrize(("fields", "reason"), REFUSED)
def test_what_llama_cpp_has_not_is_refused_by_its_name(fields: dict[str, Any], reason: str):
    with pytest.raises(UserError, match=reason):
        architecture_of(GPTConfig(**{**SHAPE, **fields}))


def test_a_window_as_wide_as_the_context_is_none():
    assert architecture_of(GPTConfig(**SHAPE, sliding_window=128)) == "llama"


@pytest.mark.parametrize("damage", ["pairs", "type"])
def test_a_file_that_does_not_verify_is_not_kept(
    damage: str, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if damage == "pairs":  # undone in reading, so that llama.cpp alone can tell
        monkeypatch.setattr(gguf_file, "_is_paired", lambda name, architecture: False)
        reason = "llama.cpp gives log-probabilities that differ"
    else:
        monkeypatch.setattr(gguf_file, "_paired", lambda weight, *rest: weight)
        reason = "was written and read back as another matrix"
    with pytest.raises(UserError, match=reason):
        write_folder(tmp_path / "out", build(), tokenizer)
    assert not list(tmp_path.iterdir())


def test_it_works_without_llama_cpp(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gguf_file.importlib.util, "find_spec", lambda name: None)
    told = write_folder(tmp_path / "out", build(), tokenizer)
    assert told["verified"].endswith("the logits within 0.0e+00")
