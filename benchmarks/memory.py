"""Peak memory of the loss and of a whole training step, each way in a process of its own.

    python benchmarks/memory.py [--rows 8] [--length 512] [--threads 1] [--device cpu]

The model is like the preset `30m` with GPT-2's vocabulary of 50,257. A line is the peak over what the process held
before the model, or what the loss is given, was made (on a CPU the resident set, read from /proc, so Linux alone; on
CUDA the allocator's). In brackets without the loss's two inputs, which no form can do without. `plain` is the form that
everything is measured against: whole logits, all activations kept, float32. Time is that of the second step.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

VOCABULARY, WIDTH = 50_257, 512
SHAPE = {
    "n_layers": 8,
    "d_model": WIDTH,
    "n_heads": 8,
    "qk_norm": True,
    "tie_embeddings": True,
    "vocab_size": VOCABULARY,
}
LOSSES: dict[str, dict[str, Any]] = {
    "plain": {"chunked": False},
    "chunked": {},
    "chunked, with soft cap and z-loss": {"cap": 30.0, "z_loss": 1e-4},
    "plain, bfloat16 autocast": {"chunked": False, "precision": "bf16-mixed"},
    "chunked, bfloat16 autocast": {"precision": "bf16-mixed"},
}
STEPS: dict[str, dict[str, Any]] = {
    "plain": {"chunked": False},
    "chunked loss": {},
    "+ selective checkpointing": {"checkpointing": "selective"},
    "+ full checkpointing": {"checkpointing": "full"},
    "+ full, optimizer's state in bfloat16": {"checkpointing": "full", "state_dtype": "bfloat16"},
    "+ full, Muon": {"checkpointing": "full", "method": "muon"},
    "+ full, Muon, state in bfloat16": {"checkpointing": "full", "method": "muon", "state_dtype": "bfloat16"},
    "+ full, bf16-true": {"checkpointing": "full", "precision": "bf16-true"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--without", nargs="*", default=[], help="leave out lines that hold this, such as bfloat16")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments, json.loads(arguments.one))))
        return
    for kind, ways in (("loss", LOSSES), ("step", STEPS)):
        tokens = f"{arguments.rows} x {arguments.length} tokens, vocabulary {VOCABULARY:,}, {arguments.device}"
        title = "Head and loss alone" if kind == "loss" else "Training step"
        table = Table(title=f"{title}: {tokens}", title_justify="left")
        for heading in ("", "peak, MB", "of plain", "seconds"):
            table.add_column(heading, justify="right" if heading else "left")
        first = None
        for name, settings in ways.items():
            if any(word in name for word in arguments.without):
                continue
            got = in_new_process({"kind": kind, **settings})
            first = first or got["bytes"]
            peak, share = f"{got['bytes'] / 1e6:,.0f}", f"1/{first / got['bytes']:.1f}"
            if kind == "loss":
                given = 4 * WIDTH * (VOCABULARY + arguments.rows * arguments.length)
                share += f" (1/{(first - given) / (got['bytes'] - given):.1f})"
            table.add_row(name, peak, share, f"{got['seconds']:.2f}")
        Console(width=100).print(table)


def in_new_process(settings: dict[str, Any]) -> dict[str, float]:
    """What `measure` says of one way, in a process that has done nothing else."""
    done = subprocess.run(
        [sys.executable, *sys.argv, "--one", json.dumps(settings)], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(arguments: argparse.Namespace, settings: dict[str, Any]) -> dict[str, float]:
    """Peak bytes over those before, and seconds of the second of two steps."""
    import torch

    torch.set_num_threads(arguments.threads)
    step = loss_alone if settings["kind"] == "loss" else whole_step
    a_product_and_a_gradient(arguments.device)
    before = memory(arguments.device, reset=True)
    run = step(arguments, settings)
    run()
    started = time.perf_counter()
    run()
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - started, "bytes": memory(arguments.device) - before}


def a_product_and_a_gradient(device: str) -> None:
    """Load what torch loads at its first use, so that it is not counted."""
    import torch

    x = torch.randn(64, 64, device=device, requires_grad=True)
    for dtype in (torch.float32, torch.bfloat16):
        (x.to(dtype) @ x.to(dtype)).float().softmax(-1).sum().backward()


def memory(device: str, reset: bool = False) -> int:
    """The peak in bytes; with `reset` it begins anew at what is held now."""
    import torch

    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = [row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def whole_logits(x: Any, weight: Any, targets: Any, cap: Any = None, z_loss: float = 0.0) -> Any:
    """The loss by its textbook: every logit of the batch at once."""
    import torch.nn.functional as F

    from llm.model.loss import next_token_loss, soft_cap

    return next_token_loss(soft_cap(F.linear(x, weight), cap).float(), targets)


def precision_of(settings: dict[str, Any], device: str) -> tuple[Any, Any]:
    """The dtype of the weights, and the context of the forward pass."""
    import torch

    kind = settings.get("precision", "32-true")
    dtype = torch.bfloat16 if kind == "bf16-true" else torch.float32
    return dtype, torch.autocast(device, torch.bfloat16, enabled=kind == "bf16-mixed")


def loss_alone(arguments: argparse.Namespace, settings: dict[str, Any]) -> Any:
    """Forward and backward of the head and the loss; what they are given, and the two gradients, counts."""
    import torch

    from llm.model.loss import head_and_loss

    dtype, context = precision_of(settings, arguments.device)
    draw = {"dtype": dtype, "device": arguments.device, "requires_grad": True}
    x = torch.randn(arguments.rows, arguments.length, WIDTH, **draw)
    weight = torch.empty(VOCABULARY, WIDTH, **draw)
    torch.nn.init.normal_(weight, 0.0, 0.02)  # far-off logits would make denormal numbers, at which a CPU crawls
    targets = torch.randint(VOCABULARY, (arguments.rows, arguments.length), device=arguments.device)
    form = head_and_loss if settings.get("chunked", True) else whole_logits

    def run() -> None:
        x.grad = weight.grad = None
        with context:
            nll, count = form(x, weight, targets, settings.get("cap"), settings.get("z_loss", 0.0))
        (nll / count).backward()

    return run


def whole_step(arguments: argparse.Namespace, settings: dict[str, Any]) -> Any:
    """Forward, backward and update of the whole model; its weights and the optimizer's state count."""
    import torch

    import llm.model.gpt
    from llm.model import GPT, GPTConfig
    from llm.optim import MuonAdamW, parameter_groups

    if not settings.get("chunked", True):
        llm.model.gpt.head_and_loss = whole_logits
    dtype, context = precision_of(settings, arguments.device)
    torch.set_default_dtype(dtype)
    with torch.device(arguments.device):
        model = GPT(GPTConfig(**SHAPE, context_length=arguments.length))
    torch.set_default_dtype(torch.float32)
    model.checkpointing = settings.get("checkpointing", "none")
    groups = parameter_groups(model, {"matrix": {"method": settings.get("method", "adamw")}})
    optimizer = MuonAdamW(groups, lr=1e-3, state_dtype=settings.get("state_dtype"))
    tokens = torch.randint(VOCABULARY, (arguments.rows, arguments.length), device=arguments.device)

    def run() -> None:
        with context:
            nll, count = model(tokens, tokens.roll(-1, 1))
        (nll / count).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


if __name__ == "__main__":
    main()
