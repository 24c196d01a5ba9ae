"""Tokens/s and MFU of our training step against transformers' Llama and GPT-2 of the same shape, in one run.

    python benchmarks/train_throughput.py [--shape wide] [--rounds 9] [--threads 2] [--profile]

A step is forward, loss, backward and a fused AdamW update of random tokens in float32. Every round times one step of
each contestant, so that a busy machine slows all of them alike; medians count. MFU counts operations as
`GPTConfig.flops_per_token` says, for every contestant, as a share of the peak of a square matrix product. Processors
change their clock, so every round measures the peak as well: MFU is the median of the rounds' shares. Beside it stands
the median step as a share of the highest peak of all rounds, which flatters no one.
`--profile` shows where the time of our own step goes instead. Needs the `test` extra, for transformers.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from peers import their_loss, transformers_llama
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from llm.host_memory import keep_freed_memory
from llm.model import GPT, GPTConfig

BATCH = 16
SHAPES: dict[str, dict[str, Any]] = {
    "wide": {"n_layers": 6, "d_model": 384, "n_heads": 6, "vocab_size": 8192, "context_length": 256},
    "narrow": {"n_layers": 4, "d_model": 128, "n_heads": 2, "vocab_size": 2048, "context_length": 256},
}
PEAK_SIZE = 2048
WARM_UP = 2

Step = Callable[[], object]
# What the kernels of a step are for, by the beginning of their names; the first that fits.
KINDS = {
    "matrix products": ("aten.mm", "aten.addmm", "aten.bmm"),
    "attention": ("aten._scaled_dot_product",),
    "softmax of the loss": ("aten.softmax", "aten._softmax", "aten._log_softmax", "aten.gather", "aten.scatter"),
    "norms": ("aten.native_layer_norm", "aten.linalg_vector_norm", "aten.rsqrt", "aten.mv", "aten.addmv"),
    "activation": ("aten.silu", "aten.gelu"),
    "optimizer": ("aten._fused_adamw",),
    "products, sums and copies": ("aten.mul", "aten.add", "aten.div", "aten.neg", "aten.cat", "aten.copy", "aten.fill"),
    "other kernels": ("",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="default: both")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="where the time of our step goes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as `fit` does; it serves every contestant
    transformers.logging.set_verbosity_error()
    console = Console(width=max(100, Console().width))
    for shape in [arguments.shape] if arguments.shape else SHAPES:
        console.print(show_profile(shape) if arguments.profile else compare(shape, arguments.rounds))


def compare(shape: str, rounds: int) -> Table:
    """Time every contestant at one shape."""
    contestants = build_contestants(SHAPES[shape])
    steps = {name: training_step(loss_of, model) for name, (_, model, loss_of) in contestants.items()}
    peaks: list[float] = []
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(WARM_UP + rounds):
        peak = matmul_peak()
        taken = {name: timed(step) for name, step in steps.items()}
        if round_ >= WARM_UP:
            peaks.append(peak)
            for name in steps:
                seconds[name].append(taken[name])
    measured = f"matrix products peak at {min(peaks) / 1e9:.0f} to {max(peaks) / 1e9:.0f} GFLOP/s"
    table = Table(title=f"{describe(shape)}\n{measured}", title_justify="left")
    for heading in ("", "parameters", "ms a step", "fastest", "tokens/s", "MFU", "of highest peak"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, (config, model, _) in contestants.items():
        step = statistics.median(seconds[name])
        tokens = BATCH * config.context_length
        flops = tokens * config.flops_per_token()
        shares = [flops / taken / peak for taken, peak in zip(seconds[name], peaks, strict=True)]
        table.add_row(
            name,
            f"{sum(p.numel() for p in model.parameters()):,}",
            f"{1e3 * step:.1f}",
            f"{1e3 * min(seconds[name]):.1f}",
            f"{tokens / step:,.0f}",
            f"{statistics.median(shares):.1%}",
            f"{flops / step / max(peaks):.1%}",
        )
    return table


def build_contestants(shape: dict[str, Any]) -> dict[str, tuple[GPTConfig, nn.Module, Callable[..., Tensor]]]:
    """Name → configuration, model, and its loss of (model, tokens, targets)."""
    llama = GPTConfig(**shape)
    gpt2 = GPTConfig.preset("gpt2-124m", **shape)
    their_llama = transformers_llama(llama)
    their_gpt2 = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=gpt2.vocab_size,
            n_embd=gpt2.d_model,
            n_layer=gpt2.n_layers,
            n_head=gpt2.n_heads,
            n_positions=gpt2.context_length,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
            bos_token_id=0,
            eos_token_id=0,
            use_cache=False,
        )
    )
    for ours, theirs in ((llama, their_llama), (gpt2, their_gpt2)):
        assert ours.n_parameters() == sum(p.numel() for p in theirs.parameters())
    return {
        "Llama, Labyrinth": (llama, GPT(llama), our_loss),
        "Llama, transformers": (llama, their_llama, their_loss),
        "Llama with QK-norm, Labyrinth": (config := GPTConfig(**shape, qk_norm=True), GPT(config), our_loss),
        "GPT-2, Labyrinth": (gpt2, GPT(gpt2), our_loss),
        "GPT-2, transformers": (gpt2, their_gpt2, their_loss),
    }


def our_loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    nll, count = model(tokens, targets)
    return nll / count


def training_step(loss_of: Callable[..., Tensor], model: nn.Module) -> Step:
    """One whole step on tokens drawn once."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    config: Any = model.config
    context = getattr(config, "context_length", None) or config.max_position_embeddings
    tokens, targets = torch.randint(config.vocab_size, (2, BATCH, context)).unbind()

    def step() -> None:
        loss_of(model, tokens, targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def matmul_peak(repeats: int = 5) -> float:
    """FLOP/s of a square float32 matrix product, the median of a few."""
    a, b = torch.randn(2, PEAK_SIZE, PEAK_SIZE).unbind()
    out = a @ b
    return 2 * PEAK_SIZE**3 / statistics.median(timed(lambda: torch.mm(a, b, out=out)) for _ in range(repeats))


def show_profile(shape: str, steps: int = 5) -> Table:
    """Where the time of our Llama's step goes, by what its kernels are for."""
    step = training_step(our_loss, GPT(GPTConfig(**SHAPES[shape], qk_norm=True)))
    for _ in range(WARM_UP):
        step()
    kernels = KernelTimes()
    start = time.perf_counter()
    with kernels:
        for _ in range(steps):
            step()
    elapsed = time.perf_counter() - start
    times: dict[str, float] = dict.fromkeys([*KINDS, "between the kernels"], 0.0)
    for name, seconds in kernels.seconds.items():
        kind = next(kind for kind, starts in KINDS.items() if name.startswith(starts))
        times[kind] += seconds / steps * 1e3
    times["between the kernels"] = (elapsed - sum(kernels.seconds.values())) / steps * 1e3
    total = sum(times.values())
    table = Table(title=f"{describe(shape)}\nLlama with QK-norm, {total:.0f} ms a step", title_justify="left")
    table.add_column("", min_width=60)
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for kind, milliseconds in times.items():
        table.add_row(kind, f"{milliseconds:.1f}", f"{milliseconds / total:.1%}")
    return table


class KernelTimes(TorchDispatchMode):
    """Seconds by kernel. PyTorch's profiler keeps so much memory in the heap that the step itself becomes slower."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        self.seconds[str(func)] = self.seconds.get(str(func), 0.0) + time.perf_counter() - start
        return result


def describe(shape: str) -> str:
    s = SHAPES[shape]
    return (
        f"{s['n_layers']} layers, width {s['d_model']}, context {s['context_length']}, vocabulary {s['vocab_size']}, "
        f"batch {BATCH}, threads {torch.get_num_threads()}"
    )


if __name__ == "__main__":
    main()
