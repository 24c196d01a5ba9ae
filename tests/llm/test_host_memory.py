"""Freed memory is kept, and lies in huge pages, where the C library and the system can be told to."""

import subprocess
import sys
from pathlib import Path

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
ones = torch.ones(16 * 2**20)
smaps = open("/proc/self/smaps_rollup").read()
print(faults(5), smaps.split("AnonHugePages:")[1].split()[0])
"""
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")


def probe(how: str) -> tuple[int, int]:
    """Pages taken by large blocks after a warm-up, and KiB in huge pages."""
    out = subprocess.run([sys.executable, "-c", PROBE, how], capture_output=True, check=True, text=True).stdout
    faults, huge = out.split()
    return int(faults), int(huge)


def test_kept_memory_is_not_taken_from_the_system_again() -> None:
    assert probe("keep")[0] < probe("default")[0] / 10


@pytest.mark.skipif(
    not HUGE_PAGES.is_file() or "[madvise]" not in HUGE_PAGES.read_text(), reason="huge pages are not on request here"
)
def test_kept_memory_lies_in_huge_pages() -> None:
    assert probe("keep")[1] >= 60 * 1024 > probe("default")[1]
