"""Running `python -m llm` as a user does: in a process of its own, in a folder of its own."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A model and a budget that train in a second: 32 steps of 8 rows of 32 tokens, validated every 8 steps.
TINY = [
    "--model=PretrainModule",
    "--model.gpt={n_layers: 1, d_model: 32, n_heads: 2, n_kv_heads: 1, head_dim: 16, d_ff: 64}",
    "--model.max_tokens=8192",
    "--model.validate_every=8",
    "--data=PretrainDataModule",
    "--data.sources=[texts/*.txt]",
    "--data.vocab_size=300",
    "--data.context_length=32",
    "--data.global_batch_tokens=256",
    "--data.batch_size=4",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
]


def environment() -> dict[str, str]:
    """One thread a process, as the suite shares its cores; nothing of a run around this one."""
    ours = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return {**{k: v for k, v in os.environ.items() if k != "LABYRINTH_RUN"}, **ours}


def llm(*arguments: str, folder: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        **settings,  # type: ignore[call-overload]
    )


def llm_until(*arguments: str, folder: Path, ready: Callable[[], bool], stop: signal.Signals) -> tuple[int, str]:
    """Start a command, send it `stop` once `ready`, and return its exit code and output."""
    with (folder / "output.txt").open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "llm", *arguments],
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            # pytest may itself run with SIGINT ignored, which a child would inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        deadline = time.monotonic() + 120
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(stop)
        code = process.wait(timeout=120)
        output.seek(0)
        return code, output.read()


def write_texts(folder: Path, documents: int = 60, seed: int = 0) -> None:
    """Documents of made-up sentences, about 400 bytes each."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnoprstu", k=draw.randint(2, 8))) for _ in range(150)]
    (folder / "texts").mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        sentences = (" ".join(draw.choices(words, k=9)).capitalize() + "." for _ in range(8))
        (folder / "texts" / f"{number:03}.txt").write_text("\n".join(sentences))


def assert_one_sentence(got: int, error: str, code: int, *parts: str) -> None:
    """The command ended with `code`; its last line is an error that holds each of `parts`, without a traceback."""
    assert got == code, error
    assert "Traceback" not in error
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: "), error
    for part in parts:
        assert part in last, last
