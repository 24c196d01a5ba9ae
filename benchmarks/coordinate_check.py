"""Does a learning rate found on a narrow model hold on a wide one? The coordinate check of µP, and its use.

    python benchmarks/coordinate_check.py [--optimizer adamw|muon] [--output coordinate_check.svg] [--threads 2]

First table and plot: how far a few training steps move what each layer gives (mean |change| of the blocks' sum and of
the logits), over widths 64 to 512. With maximal-update scaling the lines are level; without they rise with the width
(Yang et al. 2022, arXiv 2203.03466, appendix D.1). Second table: the loss after training at several rates, at a small
and a large width, with and without; the best rate should be the same at both widths with it. The text is the running
Python's own library, a byte a token; batches are the same for all. The plot is SVG, written here.
"""

import argparse
import math
import sysconfig
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llm.model import GPT, GPTConfig
from llm.modules.optimization import build_optimizer

BASE = 64
WIDTHS = (64, 128, 256, 512)
LAYERS, HEAD_DIM, LENGTH, ROWS = 3, 32, 64, 16
SETTINGS = {
    "embedding_lr": None,
    "head_lr": None,
    "scalar_lr": None,
    "weight_decay": 0.0,
    "betas": (0.9, 0.95),
    "eps": 1e-10,
    "momentum": 0.95,
    "state_dtype": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--lr", type=float, default=2**-7, help="rate of the coordinate check")
    parser.add_argument("--steps", type=int, default=8, help="of the coordinate check")
    parser.add_argument("--train", type=int, default=60, help="steps for each rate of the second table; 0: none")
    parser.add_argument("--wide", type=int, default=256, help="the larger width of the second table")
    parser.add_argument("--exponents", type=int, nargs=2, default=(-10, -4), help="rates 2^FIRST to 2^LAST")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("coordinate_check.svg"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    text = corpus()
    console = Console(width=max(100, Console().width))

    moved: dict[str, list[list[float]]] = {}
    for name, base in (("with µP", BASE), ("without", None)):
        moved[name] = [changes(w, base, arguments.optimizer, arguments.lr, arguments.steps, text) for w in WIDTHS]
    table = Table(
        title=f"Mean |change| after {arguments.steps} steps of {arguments.optimizer}, rate {arguments.lr:.2g}"
    )
    for heading in ("", "width", *(f"block {i}" for i in range(LAYERS)), "logits"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, rows in moved.items():
        for width, sizes in zip(WIDTHS, rows, strict=True):
            table.add_row(name, str(width), *(f"{size:.3f}" for size in sizes))
        table.add_row(name, "growth", *(f"x {b / a:.2f}" for a, b in zip(rows[0], rows[-1], strict=True)))
    console.print(table)
    arguments.output.write_text(plot(moved, arguments.optimizer), encoding="utf-8")
    console.print(f"plot: {arguments.output}")

    if not arguments.train:
        return
    first, last = arguments.exponents
    rates = [2.0**exponent for exponent in range(first, last + 1)]
    table = Table(title=f"Loss (nats a byte) after {arguments.train} steps of {arguments.optimizer}, by rate")
    for heading in ("", "width", *(f"2^{exponent}" for exponent in range(first, last + 1)), "best"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, base in (("with µP", BASE), ("without", None)):
        for width in (BASE, arguments.wide):
            losses = [final_loss(width, base, arguments.optimizer, rate, arguments.train, text) for rate in rates]
            best = min(range(len(rates)), key=losses.__getitem__)
            table.add_row(name, str(width), *(f"{loss:.3f}" for loss in losses), f"2^{first + best}")
    console.print(table)


def corpus() -> Tensor:
    """Bytes of the standard library's modules, in the order of their names."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8).long()


def batch(text: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Rows of the text at random places that depend on the step alone; inputs and targets [ROWS, LENGTH]."""
    starts = torch.randint(len(text) - LENGTH, (ROWS,), generator=torch.Generator().manual_seed(step))
    rows = torch.stack([text[start : start + LENGTH + 1] for start in starts])
    return rows[:, :-1], rows[:, 1:]


def build(width: int, base: int | None, optimizer: str, lr: float) -> tuple[GPT, torch.optim.Optimizer]:
    config = GPTConfig(
        vocab_size=256,
        context_length=LENGTH,
        n_layers=LAYERS,
        d_model=width,
        n_heads=width // HEAD_DIM,
        d_ff=3 * width,
        qk_norm=True,
    )
    model = GPT(config, seed=1)
    return model, build_optimizer(model, {**SETTINGS, "optimizer": optimizer, "mup_base_width": base}, lr)


def train(model: GPT, optimizer: torch.optim.Optimizer, steps: int, text: Tensor, decay: bool) -> list[float]:
    """Losses of `steps` steps; with `decay` the rate goes linearly to zero."""
    losses, peaks = [], [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * (1 - step / steps) if decay else peak
        nll, count = model(*batch(text, step))
        (nll / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(nll.detach() / count))
    return losses


def outputs(model: GPT, tokens: Tensor) -> list[Tensor]:
    """What each block gives, and the logits."""
    kept: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _module, _inputs, output: kept.append(output)) for block in model.blocks
    ]
    with torch.no_grad():
        logits = model(tokens)
    for hook in hooks:
        hook.remove()
    return [*kept, logits]


def changes(width: int, base: int | None, optimizer: str, lr: float, steps: int, text: Tensor) -> list[float]:
    """Mean |change| of each block's output and of the logits over so many steps."""
    model, stepper = build(width, base, optimizer, lr)
    tokens, _ = batch(text, step=10_000)
    before = outputs(model, tokens)
    train(model, stepper, steps, text, decay=False)
    return [float((b - a).abs().mean()) for a, b in zip(before, outputs(model, tokens), strict=True)]


def final_loss(width: int, base: int | None, optimizer: str, lr: float, steps: int, text: Tensor) -> float:
    """Mean loss on text that was not trained on."""
    model, stepper = build(width, base, optimizer, lr)
    train(model, stepper, steps, text, decay=True)
    with torch.no_grad():
        sums = [model(*batch(text, 20_000 + i)) for i in range(8)]
    return float(sum(nll for nll, _ in sums) / sum(count for _, count in sums))


def plot(moved: dict[str, list[list[float]]], optimizer: str) -> str:
    """Two panels, change by width on logarithmic axes, one line a layer, as SVG."""
    width, height, margin = 380, 300, 50
    sizes = [size for rows in moved.values() for row in rows for size in row]
    low, high = math.floor(math.log2(min(sizes))), math.ceil(math.log2(max(sizes)))
    names = [*(f"block {i}" for i in range(LAYERS)), "logits"]
    colours = ["#4477aa", "#66ccee", "#228833", "#ee6677"]
    parts = []
    for panel, (name, rows) in enumerate(moved.items()):
        left = panel * width + margin
        span, rise = width - margin - 20, height - 2 * margin

        def place(wide: float, size: float, left: int = left, span: int = span, rise: int = rise) -> str:
            across = math.log2(wide / WIDTHS[0]) / math.log2(WIDTHS[-1] / WIDTHS[0])
            up = (math.log2(size) - low) / (high - low)
            return f"{left + across * span:.1f},{height - margin - up * rise:.1f}"

        parts.append(f'<text x="{left}" y="{margin - 20}">{optimizer}, {name}: mean |change| by width</text>')
        for exponent in range(low, high + 1):
            start, end = place(WIDTHS[0], 2.0**exponent), place(WIDTHS[-1], 2.0**exponent)
            parts.append(f'<polyline points="{start} {end}" stroke="#dddddd"/>')
            parts.append(f'<text x="{left - 38}" y="{float(start.split(",")[1]) + 4}">2^{exponent}</text>')
        under = height - margin + 18
        parts += [f'<text x="{float(place(wide, 1).split(",")[0]) - 10}" y="{under}">{wide}</text>' for wide in WIDTHS]
        for layer, (label, colour) in enumerate(zip(names, colours, strict=True)):
            points = " ".join(place(wide, row[layer]) for wide, row in zip(WIDTHS, rows, strict=True))
            parts.append(f'<polyline points="{points}" stroke="{colour}" stroke-width="2"/>')
            parts.append(f'<text x="{left + 70 * layer}" y="{height - 10}" fill="{colour}">{label}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width}" height="{height}" font-family="sans-serif" '
    return (
        head
        + 'font-size="11"><rect width="100%" height="100%" fill="white"/><g fill="none">'
        + "".join(part for part in parts if part.startswith("<polyline"))
        + "</g>"
        + "".join(part for part in parts if part.startswith("<text"))
        + "</svg>\n"
    )


if __name__ == "__main__":
    main()
