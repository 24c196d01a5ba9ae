"""Compiled functions are there whatever folders can be written to."""

import subprocess
import sys
from pathlib import Path

import numba
import pytest

from datamodules.corpus.compiled import compiled

KERNEL = """
from datamodules.corpus.compiled import compiled

@compiled
def triple(number: int) -> int:
    return 3 * number
"""
PROGRAM = "import kernel; print(kernel.triple(14), sum(kernel.triple.stats.cache_hits.values()))"


def run(folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_second_process_uses_what_the_first_compiled(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    assert [run(tmp_path).split() for _ in range(2)] == [["42", "0"], ["42", "1"]]


def test_a_changed_file_is_compiled_anew(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    run(tmp_path)
    (tmp_path / "kernel.py").write_text(KERNEL.replace("3 * number", "33 * number"))
    assert run(tmp_path).split() == ["462", "0"]


@compiled
def double(number: int) -> int:
    return 2 * number


def test_without_a_folder_to_write_to_it_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def njit(cache: bool = False, nogil: bool = False):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    assert [double(21), double(22)] == [42, 44]
    assert asked == [True, False]


def test_numba_is_imported_by_the_first_call_alone() -> None:
    program = (
        "import sys, pyarrow as pa; from datamodules.corpus import Pipeline; from datamodules.corpus.words import "
        "split_words; print('numba' in sys.modules); split_words(pa.array(['a'])); print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr
