"""How far the kernels that a device chooses lie from exact arithmetic, forwards and backwards.

Exact is the same computation in float64 by the plainest form: `masked_attention`, one matrix product a group, whole
logits. An error is the largest difference as a share of the largest exact number; backwards, of all gradients the
worst. Beside it stands that of the plain form in the dtype itself, which rounding alone explains.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from gpu_rows import FAILED, Row, attempt
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llm.model.attention_kernels import Documents, attend, masked_attention
from llm.model.grouped import Grouping, grouped_linear
from llm.model.loss import IGNORED, head_and_loss, next_token_loss, rows_at_once

MARGIN = 3.0  # an error above this many times the plain form's is no rounding
Compute = Callable[..., Tensor]


def parity_rows(device: torch.device, small: bool) -> list[Row]:
    """A row a kernel, case and dtype."""
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        cases = [*attention_cases(device, small), experts_case(device, small), loss_case(device, small)]
        for name, ours, plain, inputs in cases:
            label = {"case": name, "dtype": str(dtype).removeprefix("torch.")}
            row = attempt(
                lambda ours=ours, plain=plain, inputs=inputs, dtype=dtype: compare(ours, plain, inputs, dtype)
            )
            rows.append({**label, **row})
    return rows


def compare(ours: Compute, plain: Compute, inputs: list[Tensor], dtype: torch.dtype) -> Row:
    """One row; `inputs` in float64 are first rounded to `dtype`, so that all compute on the same numbers."""
    rounded = [tensor.to(dtype) for tensor in inputs]
    exact = run(plain, [tensor.double() for tensor in rounded])
    with Kernels() as kernels:
        got = run(ours, rounded)
    reference = run(plain, rounded)
    row: Row = {"kernel": ", ".join(kernels.names) or "no fused one"}
    close = True
    for part, which in (("forward", slice(1)), ("backward", slice(1, None))):
        error, least = worst(got[which], exact[which]), worst(reference[which], exact[which])
        row |= {f"{part} error": error, f"plain {part} error": least}
        close = close and error <= MARGIN * least + torch.finfo(dtype).eps
    return {**row, "note": "" if close else f"{FAILED}above {MARGIN:g} times the plain form's"}


def run(compute: Compute, inputs: list[Tensor]) -> list[Tensor]:
    """The result, and the gradients of the inputs for a gradient of the result that is the same in every dtype."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    result = compute(*leaves)
    slope = torch.linspace(-1, 1, result.numel(), device=result.device, dtype=torch.bfloat16).view(result.shape)
    gradients = torch.autograd.grad(result, leaves, slope.to(result.dtype))
    return [result.detach(), *gradients]


def worst(got: list[Tensor], exact: list[Tensor]) -> float:
    errors = [float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(got, exact, strict=True)]
    assert all(error == error for error in errors), "NaN"
    return max(errors)


class Kernels(TorchDispatchMode):
    """Which fused kernels ran forwards: that an error is small says nothing of a kernel that did not run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")[1].removeprefix("_").removeprefix("scaled_dot_product_")
        wanted = any(word in name for word in ("attention", "attn", "grouped_mm")) and "backward" not in name
        if wanted and name not in self.names:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def attention_cases(device: torch.device, small: bool) -> list[tuple[str, Compute, Compute, list[Tensor]]]:
    batch, length, heads, width = (2, 64, 4, 16) if small else (2, 1024, 8, 64)
    window = length // 8
    documents = Documents(document_ids(batch, length).to(device))
    cases: list[tuple[str, Compute, Compute, list[Tensor]]] = []
    for kv_heads in (heads, heads // 4):
        inputs = [draw(device, batch, length, n, width) for n in (heads, kv_heads, kv_heads)]
        for name, settings in {
            "causal": {},
            "window": {"window": window},
            "documents": {"documents": documents},
            "documents, window": {"documents": documents, "window": window},
        }.items():
            ours, plain = (partial(kernel, **settings) for kernel in (attend, masked_attention))
            cases.append((f"attention, {name}, {heads} heads, {kv_heads} of keys", ours, plain, inputs))
    return cases


def experts_case(device: torch.device, small: bool) -> tuple[str, Compute, Compute, list[Tensor]]:
    """Eight experts of which one has no token."""
    rows, width, inner = (40, 16, 24) if small else (8192, 768, 1024)
    chosen = torch.randint(7, (rows, 1), generator=torch.Generator().manual_seed(0)).to(device)
    ends = Grouping(chosen, 8).ends

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        pieces = x.tensor_split(ends[:-1].tolist())
        return torch.cat([piece @ matrix.mT for piece, matrix in zip(pieces, weight, strict=True)])

    return (
        "matrices of experts",
        lambda x, weight: grouped_linear(x, ends, weight)[0],
        plain,
        [draw(device, rows, width), draw(device, 8, inner, width)],
    )


def loss_case(device: torch.device, small: bool) -> tuple[str, Compute, Compute, list[Tensor]]:
    """More targets than are made at a time; one in nine is none."""
    width, vocabulary = (16, 512) if small else (768, 32000)
    rows = rows_at_once(device.type, vocabulary) + 100
    targets = torch.randint(vocabulary, (1, rows), generator=torch.Generator().manual_seed(0)).to(device)
    targets[:, ::9] = IGNORED
    return (
        "head and loss in chunks",
        lambda x, weight: head_and_loss(x, weight, targets)[0][None],
        lambda x, weight: next_token_loss(F.linear(x, weight), targets)[0][None],
        [draw(device, 1, rows, width), draw(device, vocabulary, width) / 16],
    )


def document_ids(batch: int, length: int) -> Tensor:
    """int64 [batch, length]: documents whose lengths are log-normal around an eighth of a row."""
    torch.manual_seed(0)
    rows = []
    for _ in range(batch):
        lengths = (torch.randn(length).exp() * length / 8).long().clamp(min=1)
        rows.append(torch.arange(length).repeat_interleave(lengths)[:length])
    return torch.stack(rows)


def draw(device: torch.device, *shape: int) -> Tensor:
    """Drawn on the CPU, so that it is the same on every device."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(device)
