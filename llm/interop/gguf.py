"""One file for llama.cpp and all that is built on it (Ollama, LM Studio, ...).

llama.cpp knows a list of architectures, each with its own names and quirks; those that GPT covers are here.
"""

import importlib.util
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from datamodules.text.chat_template import CHAT_TEMPLATE
from datamodules.text.tokenizer import Tokenizer
from llm.errors import UserError
from llm.interop.families import expressing
from llm.interop.gguf_tokenizer import add_tokenizer
from llm.interop.output import new_folder
from llm.interop.verification import demand_same_logits
from llm.interop.weight_names import Stored, WeightNames
from llm.model import GPT, GPTConfig

TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
Q8_BLOCK = 32  # numbers that share a scale

# The model_type of transformers -> the architecture of llama.cpp. Mistral without a window is a Llama there.
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "starcoder2": "starcoder2",
    "gpt2": "gpt2",
}

YARN: dict[str, Any] = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}  # what a file says of them is not heeded

_BLOCK = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.query",
    "attn_k": "attention.key",
    "attn_v": "attention.value",
    "attn_q_norm": "attention.query_norm",
    "attn_k_norm": "attention.key_norm",
    "attn_output": "attention.output",
    "ffn_norm": "feedforward_norm",
    "ffn_gate": "feedforward.gate",
    "ffn_up": "feedforward.up",
    "ffn_down": "feedforward.down",
}
_OUTSIDE = {"token_embd": ("embedding",), "position_embd": ("position_embedding",), "output_norm": ("norm",)}
_NAMES = {**_OUTSIDE, **{f"blk.{{layer}}.{theirs}": (f"blocks.{{layer}}.{ours}",) for theirs, ours in _BLOCK.items()}}
_QKV = tuple(f"blocks.{{layer}}.attention.{name}" for name in ("query", "key", "value"))
_SEPARATE = WeightNames(_NAMES, prefix="", head="output")
_FUSED = WeightNames(
    {
        **{name: ours for name, ours in _NAMES.items() if not name.endswith(("attn_q", "attn_k", "attn_v"))},
        "blk.{layer}.attn_qkv": _QKV,
    },
    prefix="",
    head="output",
)


def write_folder(
    output: Path, model: GPT, tokenizer: Tokenizer, *, dtype: str = "f32", chat_template: str | None = None
) -> dict[str, Any]:
    """Write `output/model-DTYPE.gguf`, which holds `model`, its tokenizer and its chat template.

    The file is read back before the folder gets its name, and where `xllamacpp` is installed, llama.cpp itself must
    give the same token ids and log-probabilities.

    Args:
        output: a folder that is not there yet, or an empty one.
        model: of any device.
        tokenizer: the one that it was trained with.
        dtype: of the matrices: `f32`, `f16`, `bf16` or `q8_0`; norms, biases and positions are f32 always.
        chat_template: how a conversation becomes text (Jinja); by default that of datamodules/text/chat_template.py.

    Returns:
        The `architecture`, the size in `bytes`, and what was `verified`, in words.

    Raises:
        UserError: for what llama.cpp has no words for, and for an output that cannot be written or is not empty.
    """
    config = model.config
    architecture = architecture_of(config)
    weights = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in model.state_dict().items()}
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise UserError("the weights hold NaN or infinite numbers: choose another checkpoint")
    with new_folder(output) as folder:
        path = folder / f"model-{dtype}.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        _add_shape(writer, config, architecture)
        quantization, file_type = TYPES[dtype]
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_tokenizer(writer, tokenizer, config.vocab_size, chat_template or CHAT_TEMPLATE)
        _add_weights(writer, config, architecture, weights, quantization)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        verified = _verify(path, config, weights, dtype)
        if importlib.util.find_spec("xllamacpp") is not None:
            from llm.interop.llama_cpp import demand_same_in_llama_cpp

            verified += f"; {demand_same_in_llama_cpp(path, GPT.from_state(config, weights), tokenizer, dtype)}"
        size = path.stat().st_size
    return {"architecture": architecture, "bytes": size, "verified": verified}


def architecture_of(config: GPTConfig) -> str:
    """llama.cpp's architecture for a shape; UserError names the knob that it has not."""
    family = expressing(config)
    if config.n_experts:
        raise UserError(f"models with experts (n_experts {config.n_experts}) are not written as GGUF; use --to hf")
    architecture = ARCHITECTURES[family.model_type]
    lacking = ""
    if config.sliding_window is not None and config.sliding_window < config.context_length:
        lacking = f"sliding_window {config.sliding_window} (below the context of {config.context_length})"
    scaling = config.rope_scaling
    if scaling is not None:
        if scaling.type == "dynamic" or (scaling.type == "llama3" and architecture != "llama"):
            lacking = f"rope_scaling of type {scaling.type}"
        for name, only in YARN.items():
            if scaling.type == "yarn" and getattr(scaling, name) != only:
                lacking = f"rope_scaling with {name} {getattr(scaling, name)}"
    if lacking:
        raise UserError(f"llama.cpp's {architecture} has no {lacking}; --to hf can have it")
    return architecture


def _add_shape(writer: gguf.GGUFWriter, config: GPTConfig, architecture: str) -> None:
    writer.add_context_length(config.context_length)
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    if config.norm == "rmsnorm":
        writer.add_layer_norm_rms_eps(config.norm_eps)
    else:
        writer.add_layer_norm_eps(config.norm_eps)
    if config.position == "rope":
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_rope_freq_base(config.rope_theta)
        _add_rope_scaling(writer, config)


def _add_rope_scaling(writer: gguf.GGUFWriter, config: GPTConfig) -> None:
    scaling = config.rope_scaling
    if scaling is None:
        return
    if scaling.type == "llama3":
        # Divisors of the frequencies, which llama.cpp takes as a tensor.
        plain = config.rope_theta ** (-torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim)
        divisors = plain / scaling.frequencies(plain, config.rope_theta, torch.tensor([config.context_length]))
        writer.add_tensor("rope_freqs.weight", divisors.numpy())
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling.type))
    writer.add_rope_scaling_factor(scaling.factor)
    if scaling.type == "yarn":
        assert scaling.original_context_length is not None
        writer.add_rope_scaling_orig_ctx_len(scaling.original_context_length)
        # llama.cpp multiplies cosine and sine by this and by the scale that yarn's paper gives.
        writer.add_rope_scaling_attn_factors(scaling.scale / (1 + 0.1 * math.log(scaling.factor)))


def _add_weights(
    writer: gguf.GGUFWriter,
    config: GPTConfig,
    architecture: str,
    weights: dict[str, Tensor],
    quantization: gguf.GGMLQuantizationType,
) -> None:
    for part in _names(architecture).stored(config):
        whole = part.join([_paired(weights[name], name, config, architecture) for name in part.ours]).numpy()
        kind = _type_of(part, whole.shape, quantization)
        data = gguf.quants.quantize(whole, kind)
        writer.add_tensor(part.name, data, raw_dtype=kind)


def _names(architecture: str) -> WeightNames:
    return _FUSED if architecture == "gpt2" else _SEPARATE


def _type_of(
    part: Stored, shape: tuple[int, ...], quantization: gguf.GGMLQuantizationType
) -> gguf.GGMLQuantizationType:
    """Vectors and positions are added, not multiplied, in llama.cpp as float32; rows of q8_0 are whole blocks."""
    if len(shape) == 1 or part.name == "position_embd.weight":
        return gguf.GGMLQuantizationType.F32
    if quantization == gguf.GGMLQuantizationType.Q8_0 and shape[-1] % Q8_BLOCK:
        return gguf.GGMLQuantizationType.F16
    return quantization


def _is_paired(name: str, architecture: str) -> bool:
    return architecture == "llama" and name.rpartition(".")[0].endswith((".attention.query", ".attention.key"))


def _paired(weight: Tensor, name: str, config: GPTConfig, architecture: str) -> Tensor:
    """The rows of a query or key map in the order of llama.cpp's `llama`: there the two dimensions that RoPE turns
    stand side by side, in all its other architectures half a head apart, as here."""
    if not _is_paired(name, architecture):
        return weight
    heads = weight.view(-1, 2, config.head_dim // 2, *weight.shape[1:])
    return heads.transpose(1, 2).reshape(weight.shape)


def _unpaired(weight: Tensor, name: str, config: GPTConfig, architecture: str) -> Tensor:
    if not _is_paired(name, architecture):
        return weight
    heads = weight.view(-1, config.head_dim // 2, 2, *weight.shape[1:])
    return heads.transpose(1, 2).reshape(weight.shape)


def read_weights(path: Path, config: GPTConfig) -> dict[str, Tensor]:
    """The weights of a file that was written here, float32, by our names."""
    reader = gguf.GGUFReader(path)
    architecture = str(reader.fields["general.architecture"].contents())
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in GPT(config).state_dict().items()}
    found = {tensor.name: tensor for tensor in reader.tensors}
    weights: dict[str, Tensor] = {}
    for part in _names(architecture).stored(config):
        tensor = found[part.name]
        whole = torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        for name, piece in zip(part.ours, part.split(whole, [shapes[name][0] for name in part.ours]), strict=True):
            weights[name] = _unpaired(piece.view(shapes[name]), name, config, architecture)
    return weights


def _verify(path: Path, config: GPTConfig, weights: dict[str, Tensor], dtype: str) -> str:
    """Read the file back: every number must be the one that `dtype` makes of it."""
    back = read_weights(path, config)
    for name, weight in weights.items():
        if not _close(weight, back[name], dtype):
            raise UserError(f"{name} was written and read back as another matrix: nothing was kept")
    loose = {"f32": 1e-5}.get(dtype, float("inf"))
    difference = demand_same_logits(GPT.from_state(config, weights), GPT.from_state(config, back), loose)
    return f"read back, every weight is what {dtype} makes of it, the logits within {difference:.1e}"


def _close(weight: Tensor, back: Tensor, dtype: str) -> bool:
    if dtype == "f32" or weight.ndim == 1:
        return torch.equal(weight, back)
    if dtype == "q8_0":  # a block's largest number is 127 steps
        step = weight.abs().amax(-1, keepdim=True) / 127
        return bool(((weight - back).abs() <= 0.51 * step + 1e-3 * weight.abs()).all())
    kind = torch.float16 if dtype == "f16" else torch.bfloat16
    return torch.equal(weight.to(kind).float(), back) or torch.equal(weight, back)
