"""litgpt's side of `benchmarks/generation.py`: writes texts on request; run with the Python of litgpt's environment.

    python generation_litgpt_peer.py FOLDER THREADS DEVICE DTYPE

FOLDER holds config.json and model.safetensors of a Llama or a Qwen3, as transformers would read them; litgpt's own
conversion gives its names to the weights. Each line read is a request, {"prompts", "n_new", "sampling"}; each line
written an answer, {"seconds", "texts"}. The first line written is {"parameters", "torch"}.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from litgpt.config import Config
from litgpt.generate.base import batched_generate_fn, generate
from litgpt.model import GPT
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama, copy_weights_qwen_3
from safetensors.torch import load_file


def main() -> None:
    """Answer requests until there are no more."""
    folder, threads, device, dtype = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever litgpt prints is no answer
    torch.set_num_threads(int(threads))
    model = read_model(Path(folder)).to(device, getattr(torch, dtype)).eval()
    n_parameters = sum(weight.numel() for weight in {id(p): p for p in model.parameters()}.values())
    print(json.dumps({"parameters": n_parameters, "torch": torch.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        prompts = torch.tensor(request["prompts"], device=device)
        start = time.perf_counter()
        texts = write(model, prompts, request["n_new"], request["sampling"])
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "texts": texts}), file=answers, flush=True)


def read_model(folder: Path) -> GPT:
    """litgpt's GPT with the weights of the folder; a tied head shares the embedding's memory, as with us."""
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = Config(
        block_size=values["max_position_embeddings"],
        vocab_size=values["vocab_size"],
        padded_vocab_size=values["vocab_size"],
        n_layer=values["num_hidden_layers"],
        n_embd=values["hidden_size"],
        n_head=values["num_attention_heads"],
        n_query_groups=values["num_key_value_heads"],
        head_size=values["head_dim"],
        intermediate_size=values["intermediate_size"],
        rope_base=int(values["rope_theta"]),
        rotary_percentage=1.0,
        norm_class_name="RMSNorm",
        norm_eps=values["rms_norm_eps"],
        norm_qk=values["model_type"] == "qwen3",
        mlp_class_name="LLaMAMLP",
        parallel_residual=False,
        bias=False,
    )
    named, converted = load_file(folder / "model.safetensors"), {}
    if config.norm_qk:
        copy_weights_qwen_3(config, {}, converted, named)
    else:
        copy_weights_hf_llama(config, {}, converted, named)
    model = GPT(config)
    model.load_state_dict(converted)
    if values["tie_word_embeddings"]:
        model.lm_head.weight = model.transformer.wte.weight
    return model


def write(model: GPT, prompts: torch.Tensor, n_new: int, sampling: dict[str, Any]) -> list[list[int]]:
    """The new ids of each prompt: by `generate` for one, by `batched_generate_fn` for several."""
    length = prompts.shape[1] + n_new
    cached = model.transformer.h[0].attn.kv_cache
    if cached is None or cached.k.shape[0] != len(prompts) or model.max_seq_length != length:
        model.clear_kv_cache()
        model.max_seq_length = length  # as litgpt's own command does: attention runs over no more than this
        with torch.device(prompts.device):
            model.set_kv_cache(len(prompts), dtype=model.lm_head.weight.dtype)
    if len(prompts) == 1:
        return [generate(model, prompts[0], length, include_prompt=False, **sampling).tolist()]
    steps = batched_generate_fn(model, prompts, length, sample_args=sampling, include_prompt=False, include_eos=False)
    return torch.stack([torch.cat(step) for step in steps], 1).tolist()


if __name__ == "__main__":
    main()
