"""Runs that are killed again and again, in any moment, against one that was not: weights, log and samples.

    python benchmarks/crash.py --kills 50
    python benchmarks/crash.py --kills 20 --devices 2 --strategy fsdp2

Each run begins with nothing prepared, is killed (SIGKILL, or SIGTERM as a scheduler does) and started again with
`--ckpt_path auto` until it ends by itself. Kills are aimed by turns: at any moment; while the corpus, the tokenizer or
the tokens are made; while a checkpoint is being written.
"""

import argparse
import collections
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from llm.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
STEPS = 60
RUN = [
    "--model=PretrainModule",
    "--model.gpt={n_layers: 2, d_model: 64, n_heads: 2, n_kv_heads: 1, head_dim: 32, d_ff: 128, dropout: 0.1}",
    f"--model.max_tokens={STEPS * 2048}",
    "--model.validate_every=10",
    "--model.optimizer=muon",
    "--data=PretrainDataModule",
    "--data.sources=[texts/*.txt]",
    "--data.vocab_size=400",
    "--data.context_length=64",
    "--data.global_batch_tokens=2048",
    "--data.batch_size=8",
    "--data.workers=1",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--trainer.callbacks+=callbacks.SampleLog",
    "--checkpoints.every_n_steps=4",
]
OF_TIME = ("tokens_per_second", "mfu", "data_wait")
AIMS = ("any moment", "while data is made", "while a checkpoint is written")


def write_texts(folder: Path, documents: int = 300) -> None:
    """Documents of made-up sentences, about 1,200 bytes each."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnoprstu", k=draw.randint(2, 8))) for _ in range(300)]
    (folder / "texts").mkdir(parents=True)
    for number in range(documents):
        sentences = (" ".join(draw.choices(words, k=12)).capitalize() + "." for _ in range(18))
        (folder / "texts" / f"{number:03}.txt").write_text("\n".join(sentences))


def start(folder: Path, flags: list[str]) -> subprocess.Popen[str]:
    """Start the run, or go on with it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LABYRINTH")}
    output = (folder / "output.txt").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "llm", "fit", *RUN, *flags, "--name=run", "--ckpt_path=auto"],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=output,
        stderr=output,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def phase(folder: Path, began: float) -> str:
    """What the run that was started at `began` is doing, by what it has written in its folder."""
    written = {path for path in folder.glob("runs/*/checkpoints/.*.partial") if modified(path) > began}
    if written:
        return "while a checkpoint is written"
    if not list(folder.glob("data/tokens-*/manifest.json")):
        return "while data is made"
    trains = any(modified(path) > began for path in folder.glob("runs/*/samples-0.log"))
    return "while it trains" if trains else "while it starts"


def modified(path: Path) -> float:
    """When a file was written, or 0 if it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def wait_for(aim: str, process: subprocess.Popen[str], folder: Path, began: float, draw: random.Random) -> None:
    """Return in the moment at which the run is to be killed, or when it has ended."""
    if aim == "while data is made":
        time.sleep(draw.uniform(2, 6))
        return
    while process.poll() is None and phase(folder, began) in ("while data is made", "while it starts"):
        time.sleep(0.01)
    if aim == "any moment":
        time.sleep(draw.uniform(0, 1.5))
        return
    for _ in range(draw.randint(1, 4)):  # that many are begun
        while process.poll() is None and phase(folder, began) == aim:
            time.sleep(0.0001)
        while process.poll() is None and phase(folder, began) != aim:
            time.sleep(0.0001)


class Kill(NamedTuple):
    """One kill: the signal, what the run was doing, and its exit code."""

    signal: str
    phase: str
    code: int


class Result(NamedTuple):
    """What a run left: its last checkpoint, the rows of its log, and the samples of each step by rank."""

    state: dict[str, Any]
    rows: list[dict[str, str]]
    samples: dict[tuple[str, int], list[str]]


def kill_until_done(folder: Path, flags: list[str], draw: random.Random, most: int) -> list[Kill]:
    """Start, kill up to `most` times, and let it end."""
    kills = []
    for aim in (draw.choice(AIMS) if folder.joinpath("runs").exists() else AIMS[1] for _ in range(most)):
        began = time.time()
        process = start(folder, flags)
        wait_for(aim, process, folder, began, draw)
        if process.poll() is not None:
            break
        number = signal.SIGTERM if draw.random() < 0.4 else signal.SIGKILL
        found = phase(folder, began)
        (os.killpg if number == signal.SIGKILL else os.kill)(process.pid, number)
        code = process.wait(timeout=120)
        kills.append(Kill(number.name, found, code))
        if code == 0:
            break
    process = start(folder, flags)
    code = process.wait(timeout=600)
    if code:
        raise RuntimeError(f"the run ended with {code}:\n" + (folder / "output.txt").read_text()[-3000:])
    return kills


def result(folder: Path) -> Result:
    """Read what a run left."""
    (run,) = [path for path in (folder / "runs").iterdir() if (path / f"checkpoints/step-{STEPS:08}.ckpt").exists()]
    state = read_checkpoint(run / f"checkpoints/step-{STEPS:08}.ckpt")
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in OF_TIME} for row in csv.DictReader(file)]
    samples: dict[tuple[str, int], list[str]] = {}
    for path in run.glob("samples-*.log"):
        for line in path.read_text().splitlines():
            step, *what = line.split(" ")
            if step == "from":  # what was read of this step and later ones is read again
                samples = {key: rows for key, rows in samples.items() if key[0] != path.name or key[1] < int(what[0])}
            else:
                samples.setdefault((path.name, int(step)), []).extend(what[1:])
    return Result({key: state[key] for key in ("state_dict", "optimizer_states", "lr_schedulers")}, rows, samples)


def identical(one: Any, other: Any) -> bool:
    """Bit for bit, tensors within dicts and lists included."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(identical, one, other))
    return bool(one == other)


def compare(whole: Result, killed: Result) -> list[str]:
    """In what a killed run differs from the undisturbed one."""
    wrong = []
    if not identical(whole.state, killed.state):
        wrong.append("weights or optimizer state differ")
    if whole.rows != killed.rows:
        missing = [row for row in whole.rows if row not in killed.rows]
        added = [row for row in killed.rows if row not in whole.rows]
        wrong.append(f"the log differs: without {missing}, with {added}")
    if whole.samples != killed.samples:
        keys = sorted({*whole.samples, *killed.samples})
        steps = [step for name, step in keys if whole.samples.get((name, step)) != killed.samples.get((name, step))]
        wrong.append(f"other samples in steps {steps}")
    return wrong


def main() -> int:
    """Kill, compare, and print what was found; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--kills-per-run", type=int, default=8)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    flags = [f"--trainer.devices={options.devices}", f"--trainer.strategy={options.strategy}"]
    draw = random.Random(options.seed)
    kills: list[Kill] = []
    failures = runs = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "whole")
        kill_until_done(folder / "whole", flags, draw, 0)
        whole = result(folder / "whole")
        while len(kills) < options.kills:
            runs += 1
            place = folder / f"run-{runs}"
            write_texts(place)
            most = min(options.kills_per_run, options.kills - len(kills))
            found = kill_until_done(place, flags, draw, most)
            wrong = compare(whole, result(place))
            failures += bool(wrong)
            kills += found
            print(f"run {runs}: {len(found)} kills; {'; '.join(wrong) or 'identical'}", flush=True)
    print(f"\n{len(kills)} kills in {runs} runs; {runs - failures} of {runs} end bit-identical to the undisturbed run")
    for (number, where), count in sorted(collections.Counter(kill[:2] for kill in kills).items()):
        codes = sorted({kill.code for kill in kills if kill[:2] == (number, where)})
        print(f"  {count:3} {number:8} {where:32} exit codes {codes}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
