"""Tokens/s of a training step with experts: against a dense model of the same active parameters, and transformers.

    python benchmarks/moe.py [--shape coarse] [--rounds 9] [--threads 2] [--optimizer muon]

A step is forward, loss, backward and a fused AdamW update of random tokens in float32. Every round times one step of
each contestant, so that a busy machine slows all of them alike; medians count. The dense model has one feed-forward as
wide as what a token goes through in the other, so both multiply a token by as many parameters, but for the router's.
What a mixture pays for beside that: choosing, sorting and copying rows, products with fewer rows, and an optimizer
step over all experts. transformers' Mixtral has the same shape, computed in two of its ways; where there is a shared
expert, which Mixtral has not, it is GLM-4-MoE. With `--optimizer muon`, which costs the same for an expert however few
tokens it had, our models alone are timed. Needs the `test` extra, for transformers.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from llm.host_memory import keep_freed_memory
from llm.model import GPT, GPTConfig
from llm.model.moe import balance_experts
from llm.optim import MuonAdamW, parameter_groups

BATCH = 16
COMMON: dict[str, Any] = {"n_layers": 4, "d_model": 256, "n_heads": 4, "vocab_size": 4096, "context_length": 256}
SHAPES: dict[str, dict[str, Any]] = {
    "coarse": {"n_experts": 8, "n_active_experts": 2, "d_expert": 384, "router": "softmax"},  # as in Mixtral
    "fine": {"n_experts": 32, "n_active_experts": 4, "d_expert": 128, "d_shared": 256},  # as in DeepSeek-V3
}
WARM_UP = 2

Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="default: both")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="adamw")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as `fit` does; it serves every contestant
    transformers.logging.set_verbosity_error()
    console = Console(width=max(100, Console().width))
    for shape in [arguments.shape] if arguments.shape else SHAPES:
        console.print(compare(shape, arguments.rounds, arguments.optimizer))


def compare(shape: str, rounds: int, method: str) -> Table:
    """Time every contestant at one shape."""
    contestants = build_contestants(SHAPES[shape], peers=method == "adamw")
    steps = {name: training_step(model, loss_of, method) for name, (model, loss_of) in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(WARM_UP + rounds):
        for name, step in steps.items():
            taken = timed(step)
            if round_ >= WARM_UP:
                seconds[name].append(taken)
    s = {**COMMON, **SHAPES[shape]}
    title = (
        f"{shape}: {s['n_layers']} layers, width {s['d_model']}, {s['n_experts']} experts of width {s['d_expert']}, "
        f"{s['n_active_experts']} active, shared width {s.get('d_shared', 0)}, batch {BATCH} x {s['context_length']}, "
        f"threads {torch.get_num_threads()}, {method}"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("", "parameters", "active", "ms a step", "fastest", "tokens/s", "of dense"):
        table.add_column(heading, justify="left" if not heading else "right")
    config = GPTConfig(**s)
    dense = statistics.median(seconds["dense, Labyrinth"])
    for name, (model, _) in contestants.items():
        step_seconds = statistics.median(seconds[name])
        total = sum(p.numel() for p in model.parameters())
        active = total if name.startswith("dense") else config.n_active_parameters()
        table.add_row(
            name,
            f"{total:,}",
            f"{active:,}",
            f"{1e3 * step_seconds:.1f}",
            f"{1e3 * min(seconds[name]):.1f}",
            f"{BATCH * config.context_length / step_seconds:,.0f}",
            f"{dense / step_seconds:.0%}",
        )
    return table


def build_contestants(experts: dict[str, Any], peers: bool) -> dict[str, tuple[nn.Module, Callable[..., Tensor]]]:
    """Name → model, and its loss of (model, tokens, targets)."""
    config = GPTConfig(**COMMON, **experts)
    width = config.n_active_experts * config.d_expert + config.d_shared
    contestants: dict[str, tuple[nn.Module, Callable[..., Tensor]]] = {
        "dense, Labyrinth": (GPT(GPTConfig(**COMMON, d_ff=width)), our_loss),
        "experts, Labyrinth": (GPT(config), our_loss),
    }
    for way in (
        ("eager", "grouped_mm") if peers else ()
    ):  # their third, batched_mm, copies an expert's matrices for every token
        theirs = build_theirs(config, way)
        assert sum(p.numel() for p in theirs.parameters()) == config.n_parameters()
        contestants[f"experts, transformers ({way})"] = (theirs, their_loss)
    return contestants


def build_theirs(config: GPTConfig, way: str) -> nn.Module:
    """The same shape in transformers."""
    common = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "max_position_embeddings": config.context_length,
        "num_experts_per_tok": config.n_active_experts,
        "tie_word_embeddings": False,
        "use_cache": False,
        "experts_implementation": way,
    }
    if not config.d_shared:
        return transformers.MixtralForCausalLM(
            transformers.MixtralConfig(**common, intermediate_size=config.d_expert, num_local_experts=config.n_experts)
        )
    return transformers.Glm4MoeForCausalLM(
        transformers.Glm4MoeConfig(
            **common,
            moe_intermediate_size=config.d_expert,
            n_routed_experts=config.n_experts,
            n_shared_experts=config.d_shared // config.d_expert,
            first_k_dense_replace=0,
            head_dim=config.head_dim,
            use_qk_norm=False,
        )
    )


def our_loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    nll, count = model(tokens, targets)
    return nll / count


def their_loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens).logits.flatten(0, 1), targets.flatten())


def training_step(model: nn.Module, loss_of: Callable[..., Tensor], method: str) -> Step:
    """One whole step on tokens drawn once."""
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if method == "muon":
        optimizer = MuonAdamW(parameter_groups(model, {"matrix": {"method": "muon"}}), lr=1e-4)
    tokens, targets = torch.randint(COMMON["vocab_size"], (2, BATCH, COMMON["context_length"])).unbind()

    def step() -> None:
        loss_of(model, tokens, targets).backward()
        balance_experts(model, lambda load: load)
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
