"""What several processes, and checkpoints, cost a training step on this machine.

    taskset -c 0,1 python benchmarks/scaling.py [--steps 40] [--repeats 3]

Overhead: one process with one thread on its batch, against two that each have as much to do. Stall: the steps in which
a checkpoint is saved against those in which none is, written at once and in the background. Steps are timed by
`tokens_per_second` of the log; medians over the steps, then over the repeats, which take turns.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.crash import write_texts  # noqa: E402

TOKENS, WARM_UP, SAVE_EVERY = 1024, 5, 5  # of one process's step; steps; steps
RUN = [
    "--model=PretrainModule",
    "--model.gpt={n_layers: 6, d_model: 256, n_heads: 4, n_kv_heads: 2, head_dim: 64, d_ff: 704}",
    "--model.validate_every=1000000",
    "--data=PretrainDataModule",
    "--data.sources=[texts/*.txt]",
    "--data.vocab_size=1024",
    "--data.context_length=256",
    "--data.batch_size=4",
    "--data.workers=1",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
]
WAYS = {
    "one process": (1, ["--trainer.devices=1"]),
    "ddp x 2": (2, ["--trainer.devices=2", "--trainer.strategy=ddp"]),
    "fsdp2 x 2": (2, ["--trainer.devices=2", "--trainer.strategy=fsdp2"]),
    "one process, saved at once": (1, ["--trainer.devices=1", "--checkpoints.background=false"]),
    "one process, saved in the background": (1, ["--trainer.devices=1"]),
    "fsdp2 x 2, saved at once": (
        2,
        ["--trainer.devices=2", "--trainer.strategy=fsdp2", "--checkpoints.background=false"],
    ),
    "fsdp2 x 2, saved in the background": (2, ["--trainer.devices=2", "--trainer.strategy=fsdp2"]),
}


def step_seconds(folder: Path, name: str, steps: int) -> tuple[float, float]:
    """Median seconds of a step after which nothing is saved, and of one with which a save begins."""
    processes, flags = WAYS[name]
    every = SAVE_EVERY if "saved" in name else 10 * steps
    run = name.replace(" ", "-").replace(",", "")
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "llm",
                "fit",
                *RUN,
                *flags,
                f"--name={run}",
                f"--checkpoints.every_n_steps={every}",
            ),
            f"--data.global_batch_tokens={TOKENS * processes}",
            f"--model.max_tokens={steps * TOKENS * processes}",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    newest = max(folder.glob(f"runs/{run}*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    with newest.open(newline="") as file:
        rows = [(int(row["step"]), row["tokens_per_second"]) for row in csv.DictReader(file)]
    seconds = {step: TOKENS * processes / float(rate) for step, rate in rows if rate and step >= WARM_UP}
    # Saved at the start of the step whose number is a multiple, numbered from 0.
    saving = [taken for step, taken in seconds.items() if step % every == 0]
    quiet = [taken for step, taken in seconds.items() if step % every]
    return statistics.median(quiet), statistics.median(saving) if saving else float("nan")


def main() -> int:
    """Measure all ways by turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_texts(folder, documents=900)
        for _ in range(options.repeats):
            for name in WAYS:
                found[name].append(step_seconds(folder, name, options.steps))
    quiet = {name: statistics.median(pair[0] for pair in pairs) for name, pairs in found.items()}
    one = quiet["one process"]
    print("| | step, ms | over one process, ms | saving step, ms | stall a save, ms | a step, if every 100th saves |")
    print("|---|---|---|---|---|---|")
    for name, pairs in found.items():
        line = f"| {name} | {quiet[name] * 1e3:.0f} | {(quiet[name] - one) * 1e3:+.0f} ({quiet[name] / one - 1:+.1%}) |"
        if "saved" in name:
            saving = statistics.median(pair[1] for pair in pairs)
            stall = statistics.median(pair[1] - pair[0] for pair in pairs)
            line += f" {saving * 1e3:.0f} | {stall * 1e3:.0f} | {stall / quiet[name] / 100:.2%} |"
        else:
            line += " | | |"
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
