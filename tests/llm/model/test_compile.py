"""torch.compile takes the training step of a model as one graph, with the gradients of the uncompiled one.

Compiled without code generation (`aot_eager`), which takes seconds: what breaks a graph, breaks it here as well.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from llm.model import GPT, GPTConfig

# Rows long enough for attention by hand, and more targets than one chunk of the loss.
SHAPE: dict[str, Any] = {"n_layers": 1, "d_model": 32, "n_heads": 4, "vocab_size": 64, "context_length": 128}
N_ROWS = 10
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"qk_norm": True},
    "gpt2": {"position": "learned", "norm": "layernorm", "feedforward": "gelu", "bias": True, "tie_embeddings": True},
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def gradients(model: GPT, dtype: torch.dtype = torch.float32, documents: Tensor | None = None) -> list[Tensor]:
    tokens = torch.randint(64, (N_ROWS, 128), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1)
    targets[0, :5] = -100
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        nll, count = model(tokens, targets, documents=documents)
    (nll / count).backward()
    return [nll.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_equal_but_for_rounding(ours: list[Tensor], theirs: list[Tensor], rounding: float) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=rounding, atol=0)
    largest = max(float(gradient.abs().max()) for gradient in theirs[1:])
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=rounding * largest)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_a_step_is_one_graph(family: str, dtype: torch.dtype, rounding: float) -> None:
    eager, compiled = (GPT(GPTConfig(**SHAPE, **FAMILIES[family]), seed=1) for _ in range(2))
    compiled.compile(fullgraph=True, backend="aot_eager")
    assert_equal_but_for_rounding(gradients(compiled, dtype), gradients(eager, dtype), rounding)


def test_documents_break_it_once_and_their_number_makes_no_new_program() -> None:
    eager, compiled = (GPT(GPTConfig(**SHAPE, n_kv_heads=2), seed=1) for _ in range(2))
    compiled.compile(backend="aot_eager")
    graphs = []
    for length in (40, 33, 20, 7, 90):
        ids = (torch.arange(128) // length).expand(N_ROWS, -1).contiguous()
        assert_equal_but_for_rounding(gradients(compiled, documents=ids), gradients(eager, documents=ids), 1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert len(counters["graph_break"]) == 1  # finding where documents begin, before all layers
    assert graphs[2:] == [graphs[2]] * 3  # the second number of documents makes a program for all
