"""The published stories260K model writes here what it is known to write."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from llm.generation import generate
from llm.model import GPT, GPTConfig


class TestStories260K:
    """The 260,000-parameter Llama of llama2.c: reference logits in float64, and the text that it is known to write."""

    @pytest.fixture(scope="class")
    def golden(self, shared_data: Path) -> dict[str, list]:
        return json.loads((shared_data / "stories260K" / "golden.json").read_text())

    @pytest.fixture(scope="class")
    def model(self, shared_data: Path) -> GPT:
        """Read the legacy layout: seven int32, then every weight as float32, matrix kind by matrix kind."""
        data = (shared_data / "stories260K" / "stories260K.bin").read_bytes()
        d_model, d_ff, n_layers, n_heads, n_kv_heads, vocab_size, context = struct.unpack_from("7i", data)
        config = GPTConfig(
            vocab_size=vocab_size,
            context_length=context,
            n_layers=n_layers,
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            d_ff=d_ff,
            tie_embeddings=True,  # a positive vocabulary size says so in this layout
        )
        assert (config.n_heads, config.n_kv_heads, config.vocab_size) == (8, 4, 512)
        floats = torch.from_numpy(np.frombuffer(data, dtype="<f4", offset=28).copy())
        at = 0

        def take(*shape: int) -> Tensor:
            nonlocal at
            at += (size := int(np.prod(shape)))
            return floats[at - size : at].view(shape)

        def halves(weight: Tensor, heads: int) -> Tensor:
            """Rows from Meta's order, where a pair stands side by side, to ours, where it stands half a head apart."""
            return weight.view(n_layers, heads, -1, 2, d_model).transpose(2, 3).reshape(n_layers, -1, d_model)

        kv_width = n_kv_heads * config.head_dim
        weights = {"embedding.weight": take(vocab_size, d_model)}
        stacked = {
            "attention_norm": take(n_layers, d_model),
            "attention.query": halves(take(n_layers, d_model, d_model), n_heads),
            "attention.key": halves(take(n_layers, kv_width, d_model), n_kv_heads),
            "attention.value": take(n_layers, kv_width, d_model),
            "attention.output": take(n_layers, d_model, d_model),
            "feedforward_norm": take(n_layers, d_model),
            "feedforward.gate": take(n_layers, d_ff, d_model),
            "feedforward.down": take(n_layers, d_model, d_ff),
            "feedforward.up": take(n_layers, d_ff, d_model),
        }
        weights["norm.weight"] = take(d_model)
        weights |= {f"blocks.{i}.{name}.weight": part[i] for name, part in stacked.items() for i in range(n_layers)}
        model = GPT(config)
        model.load_state_dict(weights)
        return model.eval()

    def test_logits(self, model: GPT, golden: dict[str, list]) -> None:
        with torch.inference_mode():
            logits = model(torch.tensor([golden["ids"][:16]]))[0]
        for position, name in ((0, "logits_after_bos"), (15, "logits_last_of_first_16_ids")):
            torch.testing.assert_close(logits[position], torch.tensor(golden[name]), rtol=1e-5, atol=2e-5)

    @pytest.mark.parametrize(("use_cache", "length"), [(True, 201), (False, 60)])
    def test_greedy_text(self, model: GPT, golden: dict[str, list], use_cache: bool, length: int) -> None:
        written = generate(model, golden["ids"][:1], length - 1, temperature=0, use_cache=use_cache)
        assert list(written) == golden["ids"][1:length]
