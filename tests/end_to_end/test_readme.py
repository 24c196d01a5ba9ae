"""The README's commands and programs run as they stand."""

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import environment, write_texts
from support.fine_tuning import write_base

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What keeps a run of minutes to a second; everything before it is as the README has it.
SHORT = [
    "--model.max_tokens=8192",
    "--data.vocab_size=300",
    "--data.tokenizer_sample_bytes=200000",
    "--trainer.accelerator=cpu",
]
TUNED = ["--trainer.max_steps=2", "--trainer.accelerator=cpu"]  # the same for what begins with a checkpoint


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    inline = re.findall(r"`(python [^`]+)`", README)
    return [line for line in [*lines, *inline] if line.startswith("python ") and "hf:" not in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    write_texts(folder)
    (folder / "notes").mkdir()
    (folder / "notes" / "one.md").write_text("# A note\n\nWith some text.\n" * 20)
    with gzip.open(folder / "more.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": f"Row {number} of more text."}) + "\n" for number in range(100))
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    (folder / "runs/quickstart/checkpoints").mkdir(parents=True)
    write_base(folder, context_length=256).rename(folder / "runs/quickstart/checkpoints/best.ckpt")
    return folder


def test_the_readme_has_commands():
    assert any("fit --config quickstart --name mine" in command for command in commands())
    assert len(blocks("python")) == 3


def timed(command: str) -> object:
    """What fine-tunes on the whole library, or needs what that leaves, takes longer than the fast suite allows."""
    tuned = any(word in command.replace("/", " ").split() for word in ("classify", "instruct", "prefer"))
    return pytest.param(command, marks=pytest.mark.slow) if tuned else command


@pytest.mark.parametrize("command", [timed(c) for c in commands() if "benchmarks/" not in c])
def test_commands_run(command: str, folder: Path):
    words = shlex.split(command)
    assert words[0] == "python"
    short = [] if "fit" not in words or any("help" in word for word in words) else SHORT
    if short and {"instruct", "prefer", "classify"} & set(words):
        short = TUNED
    done = subprocess.run(
        [sys.executable, *words[1:], *short], cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", blocks("python"), ids=["corpus", "model", "data"])
def test_programs_run(program: str, folder: Path):
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
def test_make_quickstart_trains_a_model_of_the_promised_quality(tmp_path: Path):
    """The whole of it, on this machine, in minutes."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    stamp = tmp_path / "installed"  # newer than the copy's pyproject.toml: nothing is installed into our environment
    stamp.touch()
    clean = {key: value for key, value in os.environ.items() if key not in ("LABYRINTH_RUN", "MAKEFLAGS", "MAKELEVEL")}
    # The copy's packages, not those of the checkout that the environment was installed from.
    make = ["make", "quickstart", f"VENV={sys.prefix}", f"STAMP={stamp}"]
    done = subprocess.run(
        make, cwd=tmp_path, env={**clean, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Installing" not in done.stdout
    (score,) = re.findall(
        r"best checkpoint: runs/quickstart/checkpoints/best.ckpt \((\d\.\d+) bits per byte", done.stdout
    )
    assert float(score) <= 1.50
    for prompt in ("'def '", "'class '", "'import '", "'The '"):
        assert f"{prompt} before training" in done.stdout
        assert f"{prompt} after training" in done.stdout
