"""Seconds and tokens to a loss: a GPT-2 textbook recipe, a Llama-like one and ours, of equal size, on one corpus.

    python benchmarks/time_to_loss.py [--corpus stdlib] [--seeds 3] [--tune] [--output FOLDER]

Recipes: A, GPT-2 (learned positions, LayerNorm, GELU, tied, AdamW, cosine); B, Llama-like (RoPE, RMSNorm, SwiGLU,
untied, AdamW, cosine); C, configs/recipe/portable.yaml; D, configs/recipe/fastest.yaml. All have 4 blocks of about
0.79M parameters, one tokenizer, rows of 256 and steps of 2,048 tokens, and run in processes of their own, one after
the other.

Each recipe trains once for each budget of its ladder, with its schedule made for that budget. What is timed: making the
first weights (C and D count the training text for theirs), and all steps; start-up and scoring are not. The score is
that of the held-out documents with odd numbers; those with even numbers are what `--tune` looks at: it multiplies all
learning rates of a recipe by 0.5, 1 and 2, the same number of runs for each, and goes on in the direction of a best one
at the edge. Without `--tune` the factors in RATES are used.

The seconds and tokens to a target are read off a recipe's ladder, along straight lines between its medians over seeds,
with the logarithm of seconds (tokens) on one axis and bits per byte on the other; never beyond its best end. A recipe
whose shortest run is better than the target needs at most the seconds of that run: marked by <, and a ratio by >.
Results are appended to OUTPUT/runs.jsonl, and runs that stand there are not repeated. OUTPUT/curves.svg is the plot.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def shipped(name: str) -> dict[str, Any]:
    """What a configuration says of the model and the trainer."""
    contents = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    return {part: contents[part] for part in ("model", "trainer")}


RECIPES: dict[str, dict[str, Any]] = {
    "A": {
        "settings": {
            "preset": "gpt2-124m",
            "gpt": {"n_layers": 4, "d_model": 128, "n_heads": 4},
            "lr": 4e-3,
            "warmup": 0.1,
        }
    },
    "B": {"settings": {"preset": "tiny", "gpt": {"qk_norm": False, "n_heads": 4, "d_ff": 344}, "lr": 4e-3}},
    # The recipes' d_ff of 384 with narrow attention would be 9 % smaller than A and B.
    "C": {"shipped": shipped("recipe/portable"), "settings": {"gpt": {"d_ff": 432}}},
    "D": {"shipped": shipped("recipe/fastest"), "settings": {"gpt": {"d_ff": 432}}},
}
RATES = {"A": 1.0, "B": 1.0, "C": 1.0, "D": 1.0}  # by --tune
LADDERS = {
    "A": (250_000, 500_000, 1_000_000, 2_000_000, 4_000_000),
    "B": (250_000, 500_000, 1_000_000, 2_000_000, 4_000_000),
    "C": (62_500, 125_000, 250_000, 500_000, 1_000_000, 2_000_000),
    "D": (2_048, 16_384, 62_500, 125_000, 250_000, 500_000, 1_000_000),
}
TUNING_TOKENS = {"A": 1_000_000, "B": 1_000_000, "C": 500_000, "D": 500_000}
# The scores of the baselines at these rungs of their ladders are the targets.
TARGETS = [(name, tokens) for name in "AB" for tokens in (500_000, 1_000_000, 2_000_000, 4_000_000)]
RUN = Path(__file__).with_name("time_to_loss_run.py")


class Runs:
    """The runs of a folder: read from its file, made where they are missing."""

    def __init__(self, folder: Path, corpus: str, threads: int, console: Console) -> None:
        self.folder, self.corpus, self.threads, self.console = folder, corpus, threads, console
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "runs.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.known = {self._key(run): run for run in map(json.loads, lines)}

    @staticmethod
    def _key(run: dict[str, Any]) -> str:
        return json.dumps([run[name] for name in ("name", "corpus", "factor", "tokens", "seed", "threads", "recipe")])

    def get(self, name: str, factor: float, tokens: int, seed: int) -> dict[str, Any]:
        """One run: its seconds, and bits per byte of `validation` and `test`."""
        job = {"name": name, "corpus": self.corpus, "factor": factor, "tokens": tokens, "seed": seed}
        job |= {"threads": self.threads, "recipe": RECIPES[name], "cache": str(self.folder / "data")}
        if self._key(job) not in self.known:
            environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "GOMP_SPINCOUNT": "30000"}
            done = subprocess.run(
                [sys.executable, str(RUN)], input=json.dumps(job), env=environment, stdout=subprocess.PIPE, text=True
            )
            if done.returncode:
                sys.exit(f"recipe {name} with {tokens:,} tokens failed")
            result = json.loads(done.stdout.splitlines()[-1])
            run = {**job, **result}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
            self.known[self._key(job)] = run
            self.console.print(
                f"{name} x{factor:g} {tokens:>9,} tokens seed {seed}: {run['seconds']:6.1f} s, {run['validation']:.4f} "
                f"validation, {run['test']:.4f} test"
            )
        return self.known[self._key(job)]


def tune(runs: Runs, name: str) -> float:
    """The best factor of a recipe's learning rates, with worse ones on both sides of it."""
    scores: dict[float, float] = {}
    wanted = [0.5, 1.0, 2.0]
    while wanted:
        for factor in wanted:
            scores[factor] = runs.get(name, factor, TUNING_TOKENS[name], seed=1)["validation"]
        best = min(scores, key=lambda factor: scores[factor])
        wanted = [factor for factor in (best / 2, best * 2) if factor not in scores]
    return best


def ladder(runs: Runs, name: str, factor: float, seeds: int) -> list[dict[str, float]]:
    """For each budget the medians over seeds: tokens, seconds, bits per byte, and the spread of the last."""
    rungs = []
    for tokens in LADDERS[name]:
        results = [runs.get(name, factor, tokens, seed) for seed in range(1, seeds + 1)]
        scores = [result["test"] for result in results]
        rungs.append(
            {
                "tokens": tokens,
                "seconds": statistics.median(result["seconds"] for result in results),
                "bpb": statistics.median(scores),
                "spread": max(scores) - min(scores),
            }
        )
    return rungs


def reach(rungs: list[dict[str, float]], target: float, what: str) -> float | None:
    """The `what` (seconds, tokens) at which a ladder reaches a score; its first if better, None beyond its end."""
    if rungs[0]["bpb"] <= target:
        return rungs[0][what]
    for worse, better in pairwise(rungs):
        if worse["bpb"] >= target >= better["bpb"]:
            share = (worse["bpb"] - target) / (worse["bpb"] - better["bpb"])
            return math.exp(math.log(worse[what]) * (1 - share) + math.log(better[what]) * share)
    return None


def show_ladders(ladders: dict[str, list[dict[str, float]]], runs: Runs) -> Table:
    table = Table(title=f"{runs.corpus}: medians over seeds, {runs.threads} threads")
    for column in ("recipe", "tokens", "seconds", "bits per byte (test)", "spread"):
        table.add_column(column, justify="right")
    for name, rungs in ladders.items():
        for rung in rungs:
            table.add_row(
                name,
                f"{rung['tokens']:,}",
                f"{rung['seconds']:.1f}",
                f"{rung['bpb']:.4f}",
                f"{rung['spread']:.4f}",
            )
        table.add_section()
    return table


def show_targets(ladders: dict[str, list[dict[str, float]]]) -> Table:
    """Seconds (and thousands of tokens) of each recipe to each target, and how many times sooner C and D are."""
    table = Table(title="seconds (thousand tokens) to a target")
    for column in ("target", *ladders, "C / A", "C / B", "D / A", "D / B"):
        table.add_column(column, justify="right")
    for name, tokens in TARGETS:
        target = next(rung["bpb"] for rung in ladders[name] if rung["tokens"] == tokens)
        seconds = {recipe: reach(rungs, target, "seconds") for recipe, rungs in ladders.items()}
        seen = {recipe: reach(rungs, target, "tokens") for recipe, rungs in ladders.items()}
        sooner = {recipe: rungs[0]["bpb"] < target for recipe, rungs in ladders.items()}
        cells = [
            f"{'<' * sooner[r]}{s:.1f} ({seen[r] / 1000:.0f})" if s else "-"  # type: ignore[operator]
            for r, s in seconds.items()
        ]
        ratios = []
        for ours, theirs in (("C", "A"), ("C", "B"), ("D", "A"), ("D", "B")):
            a, b = seconds[theirs], seconds[ours]
            ratios.append(f"{'>' * sooner[ours]}{a / b:.1f}" if a and b and not sooner[theirs] else "-")
        table.add_row(f"{target:.4f} ({name}, {tokens:,})", *cells, *ratios)
    return table


def plot(ladders: dict[str, list[dict[str, float]]], path: Path) -> None:
    """The ladders as an SVG: bits per byte over seconds, which are on a logarithmic axis."""
    width, height, margin = 720, 440, 60
    points = [(rung["seconds"], rung["bpb"]) for rungs in ladders.values() for rung in rungs]
    low, high = (math.log(f(x for x, _ in points)) for f in (min, max))
    best, worst = (f(y for _, y in points) for f in (min, max))
    place_x = lambda x: margin + (math.log(x) - low) / (high - low) * (width - 2 * margin)  # noqa: E731
    place_y = lambda y: height - margin - (y - best) / (worst - best) * (height - 2 * margin)  # noqa: E731
    colours = dict(zip("ABCD", ("#888888", "#c77700", "#0066cc", "#008844"), strict=True))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for x in (2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if low <= math.log(x) <= high:
            parts.append(f'<text x="{place_x(x):.0f}" y="{height - 35}" text-anchor="middle">{x} s</text>')
            parts.append(f'<path d="M{place_x(x):.0f} {margin}V{height - margin}" stroke="#dddddd"/>')
    for tenth in range(math.ceil(best * 5), math.floor(worst * 5) + 1):
        y = place_y(tenth / 5)
        parts.append(f'<text x="{margin - 8}" y="{y + 4:.0f}" text-anchor="end">{tenth / 5:.1f}</text>')
        parts.append(f'<path d="M{margin} {y:.0f}H{width - margin}" stroke="#dddddd"/>')
    for name, rungs in ladders.items():
        line = " ".join(f"{place_x(rung['seconds']):.1f},{place_y(rung['bpb']):.1f}" for rung in rungs)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
        x, y = line.rpartition(" ")[2].split(",")
        parts.append(f'<text x="{float(x) + 6:.0f}" y="{y}" fill="{colours[name]}" font-weight="bold">{name}</text>')
    parts.append(f'<text x="{margin}" y="30">bits per byte of test documents over seconds of training</text></svg>')
    path.write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    """Train what is missing, print the tables, and draw the plot."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--corpus", default="stdlib", help="stdlib, or the path of a text")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--tune", action="store_true", help="search the learning rates anew")
    options.add_argument("--output", type=Path, default=Path("runs/time_to_loss"))
    chosen = options.parse_args()
    console = Console(width=max(120, Console().width))
    runs = Runs(chosen.output, chosen.corpus, chosen.threads, console)
    factors = {name: tune(runs, name) if chosen.tune else RATES[name] for name in RECIPES}
    console.print("factors of the learning rates:", factors)
    ladders = {name: ladder(runs, name, factors[name], chosen.seeds) for name in RECIPES}
    console.print(show_ladders(ladders, runs))
    console.print(show_targets(ladders))
    for name in RECIPES:
        run = runs.get(name, factors[name], LADDERS[name][0], 1)
        counted = f"; {run['counted']:,} counted sequences" if run.get("counted") else ""
        console.print(f"{name}: {run['parameters']:,} parameters, {run['in_blocks']:,} of them in the blocks{counted}")
    plot(ladders, chosen.output / "curves.svg")
    console.print(f"plot: {chosen.output / 'curves.svg'}")


if __name__ == "__main__":
    main()
