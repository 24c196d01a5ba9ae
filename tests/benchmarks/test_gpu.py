"""benchmarks/gpu.py runs to its end where no GPU is, and outlives what fails."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support.command_line import ROOT, environment


def benchmark(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)


@pytest.fixture
def rows() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_rows", ROOT / "benchmarks" / "gpu_rows.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_whole_script_runs_on_a_cpu(tmp_path: Path) -> None:
    done = benchmark("--device=cpu", "--small", "--rounds=1", "--out=found.json", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == {"machine", "peaks, FLOP/s", "parity", "training", "generation"}
    assert len(found["parity"]) == 20
    assert all(row["backward error"] < (2e-2 if row["dtype"] == "bfloat16" else 1e-5) for row in found["parity"])
    measured = [row for row in found["training"] if "litgpt" not in row[""]]  # which need not be installed
    assert all(row["tokens/s"] > 0 and row["MFU, %"] > 0 for row in measured)
    for size in ("gpt2-124m", "1b"):
        assert len({row["parameters"] for row in measured if row["size"] == size}) == 1
        written = [(row["batch"], row[""]) for row in found["generation"] if row["size"] == size]
        assert written == [(batch, name) for batch in (1, 32) for name in ("Labyrinth", "transformers")]
    assert all(row["tokens/s"] > 0 for row in found["generation"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so_in_one_sentence(tmp_path: Path) -> None:
    done = benchmark(folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "needs a CUDA device" in done.stderr


@pytest.mark.parametrize(
    ("error", "note", "fault"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory", False),
        (ModuleNotFoundError("No module named 'litgpt'"), "not installed: No module named 'litgpt'", False),
        (RuntimeError("a kernel failed\nand more"), "FAILED: RuntimeError: a kernel failed", True),
        (AssertionError(), "FAILED: AssertionError: ", True),
    ],
)
def test_a_row_says_what_went_wrong(rows: ModuleType, error: Exception, note: str, fault: bool) -> None:
    def work() -> dict[str, Any]:
        raise error

    row = rows.attempt(work)
    assert row == {"note": note}
    assert rows.failed([row]) == fault
    assert rows.attempt(lambda: {"tokens/s": 1.0}) == {"tokens/s": 1.0}
