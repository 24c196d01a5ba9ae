"""What llama.cpp makes of a GGUF file, where the package xllamacpp is there to ask."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import torch
import xllamacpp

from datamodules.text.tokenizer import Tokenizer
from llm.errors import UserError
from llm.interop.adversarial import N_STRINGS, adversarial_strings, demand_same_ids
from llm.model import GPT

# Log-probabilities (nats) may differ by this much, which is some times what was measured (docs/interop.md): llama.cpp
# rounds the activations to the kind of number that the matrix has, and takes GELU from a table of f16 numbers.
TOLERANCES = {"f32": 0.01, "f16": 0.05, "bf16": 0.3, "q8_0": 0.5}
N_COMPARED = 40  # most likely tokens of which the log-probability is compared
LENGTHS = (1, 2, 7, 30, 100)


class LlamaCpp:
    """A model in llama.cpp, in this process, on one thread, with float32 keys and values."""

    def __init__(self, path: Path, tokenizer: Tokenizer, context_length: int) -> None:
        self.written = tokenizer.encode("a")[0]
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx = context_length
        settings.n_parallel = 1
        settings.warmup = False
        settings.verbosity = -1
        settings.use_jinja = True
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        try:
            self.server = xllamacpp.Server(settings)
        except Exception as error:  # of a library in C++
            raise UserError(f"llama.cpp cannot load what was written ({' '.join(str(error).split())})") from error
        # Its thread is at work once it has answered; a server that is dropped before that waits for itself for ever.
        self.log_probabilities([tokenizer.begin_of_text], 1)

    def ids(self, text: str) -> list[int]:
        """The ids of a text as a prompt, special tokens in it being text."""
        told = self._ask("tokenize", {"content": text, "add_special": True, "parse_special": False})
        return [int(token) for token in told["tokens"]]

    def log_probabilities(self, ids: list[int], n: int) -> dict[int, float]:
        """Of the `n` likeliest next tokens, in nats."""
        # The token that it writes is one given: nothing is told of one that ends the text, or is part of a character.
        # What is told are the log-probabilities before that.
        settings = {"max_tokens": 1, "temperature": 0, "logit_bias": [[self.written, 1e6]], "cache_prompt": False}
        request = {"prompt": ids, "logprobs": n, **settings}
        told = self.server.handle_completions(request)
        if "choices" not in told:
            raise UserError(f"llama.cpp cannot run what was written ({told})")
        return {entry["id"]: entry["logprob"] for entry in told["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}

    def _ask(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        address = f"{self.server.listening_address}/{what}"
        with urllib.request.urlopen(urllib.request.Request(address, json.dumps(request).encode(), headers)) as answer:
            told: dict[str, Any] = json.loads(answer.read())
        return told


def demand_same_in_llama_cpp(path: Path, model: GPT, tokenizer: Tokenizer, dtype: str) -> str:
    """What was compared, in words; UserError where llama.cpp gives other ids or log-probabilities than `model`."""
    theirs = LlamaCpp(path, tokenizer, model.config.context_length)
    demand_same_ids(tokenizer.encode_prompt, theirs.ids, "llama.cpp")
    difference = largest_difference(theirs, model, tokenizer)
    if not difference <= TOLERANCES[dtype]:
        raise UserError(
            f"llama.cpp gives log-probabilities that differ from the model's by {difference:.1e} nats, more than "
            f"{TOLERANCES[dtype]} of {dtype}: nothing was kept"
        )
    return f"in llama.cpp {N_STRINGS} strings' ids equal, log-probabilities within {difference:.1e} nats"


@torch.inference_mode()
def largest_difference(theirs: LlamaCpp, model: GPT, tokenizer: Tokenizer) -> float:
    """Of the log-probabilities of the likeliest tokens, over prompts of several lengths, in nats.

    `model` is in eval mode and float32, on the CPU.
    """
    text = tokenizer.encode_prompt(" ".join(adversarial_strings()[:80]))
    differences = []
    for length in LENGTHS:
        if length < min(len(text), model.config.context_length):
            told = theirs.log_probabilities(text[:length], N_COMPARED)
            ours = model(torch.tensor([text[:length]]))[0, -1].log_softmax(-1)
            differences += [abs(float(ours[token]) - value) for token, value in told.items()]
    return max(differences)
