"""Freed memory is kept, where the C library can be told to."""

import subprocess
import sys

import pytest

PROBE = """
import resource, sys, torch
from llm.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(16 * 2**20)  # 64 MiB: beyond what malloc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(20)  # until the heap has found its size
print(faults(5))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_kept_memory_is_not_taken_from_the_system_again() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", PROBE, how], capture_output=True, check=True, text=True).stdout)
        for how in ("keep", "default")
    }
    assert faults["keep"] < faults["default"] / 10
