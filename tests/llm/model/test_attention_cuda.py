"""Attention on CUDA: where the kernel for documents and windows is chosen, what it is told, and what it gives.

Without a GPU the kernel itself is replaced by a plain form of it, so that all around it is tested everywhere.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from llm.model import GPT, GPTConfig, attention_kernels
from llm.model.attention_cuda import has_varlen_kernel, is_ampere, varlen_attention
from llm.model.attention_kernels import Documents, attend, masked_attention

IDS = torch.tensor([[0] * 5 + [1] + [2] * 10, [3] * 16, [4] * 15 + [5]])  # 3 rows of 16
SHAPE: dict[str, Any] = {"vocab_size": 50, "context_length": 16, "n_layers": 2, "d_model": 32, "n_heads": 4}

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel itself needs a CUDA device")


def plain_flash(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, window: tuple[int, int], grad: Tensor | None = None
) -> tuple[Tensor, ...]:
    """FlashAttention's contract, by its README: token i of a sequence sees i - left … i + right, where -1 means all.

    All tensors [B·T, heads, D]. Its result, or with a gradient of that, the gradients of query, key and value.
    """
    (left, right), scale, shared = window, query.shape[-1] ** -0.5, query.shape[1] // key.shape[1]
    parts = []
    for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        places = torch.arange(last - first)
        ahead = places[None, :] - places[:, None]  # of a key before a query
        hidden = (ahead < -left if left >= 0 else ahead != ahead) | (ahead > right if right >= 0 else ahead != ahead)
        q, k, v = (part[first:last].transpose(0, 1) for part in (query, key, value))  # H n D
        k, v = (part.repeat_interleave(shared, 0) for part in (k, v))
        probabilities = (q @ k.mT * scale).masked_fill(hidden, -torch.inf).softmax(-1)
        if grad is None:
            parts.append([probabilities @ v])
            continue
        g = grad[first:last].transpose(0, 1)
        slope = g @ v.mT
        scores = probabilities * (slope - (slope * probabilities).sum(-1, keepdim=True)) * scale
        own = [part.unflatten(0, (-1, shared)).sum(1) for part in (scores.mT @ q, probabilities.mT @ g)]
        parts.append([scores @ k, *own])
    return tuple(torch.cat(documents, 1).transpose(0, 1) for documents in zip(*parts, strict=True))


@pytest.fixture
def kernel() -> Iterator[list[tuple[int, int, int]]]:
    """A CPU form of PyTorch's FlashAttention operators; yields the arguments of each call forwards."""
    calls: list[tuple[int, int, int]] = []

    def window_of(causal: bool, options: dict[str, Any]) -> tuple[int, int]:
        return options["window_size_left"], 0 if causal else options["window_size_right"]

    def forward(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, _: Tensor, *rest: Any, **options: Any) -> Any:
        longest, _, dropout, causal = rest[:4]
        assert starts.dtype == torch.int32
        assert dropout == 0
        assert int(starts.diff().max()) <= longest
        calls.append((longest, *window_of(causal, options)))
        (out,) = plain_flash(q, k, v, starts, window_of(causal, options))
        nothing = torch.empty(0)
        return out, torch.zeros(q.shape[1], q.shape[0]), nothing, nothing, nothing

    def backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> Any:
        starts, causal = rest[2], rest[7]
        return plain_flash(q, k, v, starts, window_of(causal, options), grad)

    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", forward, "CPU")
    library.impl("_flash_attention_backward", backward, "CPU")
    yield calls
    library._destroy()


def heads(n: int, seed: int, device: str = "cpu", dtype: torch.dtype = torch.float64) -> Tensor:
    drawn = torch.randn(3, 16, n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device, dtype).requires_grad_()


def outputs_and_gradients(
    attention: Callable[..., Tensor], n_kv_heads: int, device: str = "cpu", dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    inputs = [heads(n, seed, device, dtype) for seed, n in enumerate((4, n_kv_heads, n_kv_heads))]
    mixed = attention(*inputs)
    mixed.backward(torch.linspace(-1, 1, mixed.numel(), device=device).view_as(mixed).to(mixed.dtype))
    return [mixed.detach(), *(part.grad for part in inputs if part.grad is not None)]


@pytest.mark.parametrize("window", [None, 1, 3, 15])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_it_gives_what_the_mask_gives(kernel: object, window: int | None, packed: bool, n_kv_heads: int) -> None:
    documents = Documents(IDS) if packed else None
    starts = documents.starts if documents else None
    ours = outputs_and_gradients(lambda *qkv: varlen_attention(*qkv, starts, window), n_kv_heads)
    theirs = outputs_and_gradients(lambda *qkv: masked_attention(*qkv, window=window, documents=documents), n_kv_heads)
    for one, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, reference, rtol=1e-10, atol=1e-12)


@needs_cuda
@pytest.mark.parametrize("window", [None, 1, 3, 15])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_real_kernel_gives_what_the_mask_gives(
    window: int | None, packed: bool, n_kv_heads: int, dtype: torch.dtype
) -> None:
    documents = Documents(IDS.cuda()) if packed else None
    if not has_varlen_kernel(heads(4, 0, "cuda", dtype), 0.0):
        pytest.skip("this GPU has no FlashAttention")
    ours = outputs_and_gradients(
        lambda *qkv: attend(*qkv, window=window, documents=documents), n_kv_heads, "cuda", dtype
    )
    theirs = outputs_and_gradients(
        lambda *qkv: masked_attention(*qkv, window=window, documents=documents), n_kv_heads, "cuda", torch.float32
    )
    for one, reference in zip(ours, theirs, strict=True):
        scale = float(reference.abs().max())
        torch.testing.assert_close(one.float(), reference, rtol=0, atol=2e-2 * scale)


@needs_cuda
def test_the_layers_never_wait_for_the_device() -> None:
    documents = Documents(IDS.cuda())
    inputs = [heads(n, n, "cuda", torch.bfloat16) for n in (4, 2, 2)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for window in (None, 3):
            attend(*inputs, window=window, documents=documents).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_it_is_told_the_bounds(kernel: list[tuple[int, int, int]]) -> None:
    query = heads(4, 0)
    varlen_attention(query, query, query, Documents(IDS).starts)
    varlen_attention(query, query, query, None, 3)
    assert kernel == [(16, -1, 0), (16, 2, 0)]  # longest, left, right


@pytest.mark.parametrize(
    "ids", [IDS, torch.zeros(2, 3, dtype=torch.int32), torch.arange(6).view(2, 3), torch.tensor([[7]])]
)
def test_starts_are_where_documents_begin_and_the_end(ids: Tensor) -> None:
    documents = Documents(ids)
    rows = [(row, int(number)) for row, numbers in enumerate(ids) for number in numbers]
    changes = [i for i in range(1, len(rows)) if rows[i] != rows[i - 1]]
    assert documents.starts.tolist() == [0, *changes, len(rows)]
    assert documents.starts.dtype == torch.int32
    assert sum(documents.lengths) == len(rows)


VARLEN, MASK, CAUSAL, ONE_BY_ONE = "varlen_attention", "masked_attention", "causal_attention", "_document_by_document"


@pytest.mark.parametrize(
    ("changes", "kernel_name"),
    [
        ({}, VARLEN),
        ({"dtype": torch.float16}, VARLEN),
        ({"documents": None}, VARLEN),
        ({"window": None}, VARLEN),
        ({"autocast": True, "dtype": torch.float32}, VARLEN),
        ({"width": 192}, VARLEN),
        ({"documents": None, "window": None}, CAUSAL),
        ({"documents": None, "window": 16}, CAUSAL),  # hides nothing
        ({"dtype": torch.float32}, MASK),
        ({"dropout": 0.1}, MASK),
        ({"width": 12}, MASK),
        ({"width": 200}, MASK),
        ({"ampere": False}, MASK),
        ({"built": False}, MASK),
        ({"n_queries": 4, "documents": None}, MASK),  # behind a cache
        ({"device": "cpu"}, ONE_BY_ONE),
        ({"device": "cpu", "compiling": True}, MASK),
        ({"device": "cpu", "documents": None}, MASK),
    ],
    ids=str,
)
def test_which_kernel_is_chosen(changes: dict[str, Any], kernel_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case: dict[str, Any] = {
        **{"device": "cuda", "dtype": torch.bfloat16, "documents": Documents(IDS), "window": 4, "width": 8},
        **{"dropout": 0.0, "ampere": True, "built": True, "n_queries": 16, "autocast": False, "compiling": False},
        **changes,
    }
    ran: list[str] = []
    for name in (VARLEN, MASK, CAUSAL, ONE_BY_ONE):
        record = lambda query, *rest, name=name, **options: ran.append(name) or query  # noqa: E731
        monkeypatch.setattr(attention_kernels, name, record)
    monkeypatch.setattr("llm.model.attention_cuda.is_ampere", lambda device: case["ampere"])
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: case["built"])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: case["compiling"])
    if case["autocast"]:  # a build without CUDA does not switch it on
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
    with FakeTensorMode():  # tensors on a device that need not be there
        settings = {"dtype": case["dtype"], "device": case["device"]}
        query = torch.empty(3, case["n_queries"], 4, case["width"], **settings)
        key = torch.empty(3, 16, 2, case["width"], **settings)
    attend(query, key, key, window=case["window"], documents=case["documents"], dropout=case["dropout"])
    assert ran == [kernel_name]


def test_a_device_that_is_no_cuda_device_has_no_kernel() -> None:
    assert not is_ampere(torch.device("cpu"))
    assert not has_varlen_kernel(torch.empty(1, 2, 3, 8, dtype=torch.bfloat16), 0.0)


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("window", [None, 4])
def test_a_model_trains_through_it(
    kernel: list[Any], monkeypatch: pytest.MonkeyPatch, window: int | None, checkpointing: Any
) -> None:
    results = []
    tokens, targets = torch.randint(50, (2, 3, 16), generator=torch.Generator().manual_seed(7)).unbind()
    for varlen in (False, True):
        model = GPT(GPTConfig(**SHAPE, n_kv_heads=2, sliding_window=window), seed=3)
        model.checkpointing = checkpointing if varlen else "none"
        if varlen:  # what `attend` asks of a CUDA device
            monkeypatch.setattr(attention_kernels, "has_varlen_kernel", lambda query, dropout: True)
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        nll, _ = model(tokens, targets, documents=IDS)
        nll.backward()
        results.append([nll.detach(), *(p.grad for p in model.parameters())])
    # Once a layer, and once more where nothing is kept.
    assert len(kernel) == (4 if checkpointing == "full" else 2)
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


def test_it_compiles_in_one_graph(kernel: list[Any]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(varlen_attention, fullgraph=True, backend="aot_eager")
    starts = Documents(IDS).starts
    ours = outputs_and_gradients(lambda *qkv: compiled(*qkv, starts, 3), 2)
    theirs = outputs_and_gradients(lambda *qkv: masked_attention(*qkv, window=3, documents=Documents(IDS)), 2)
    for one, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, reference, rtol=1e-10, atol=1e-12)
