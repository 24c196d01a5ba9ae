"""A job on two hosts goes on after one of them has died; the hosts are network namespaces."""

import shutil
import subprocess
import sys

import pytest
from support.command_line import ROOT, environment


def may_make_hosts() -> bool:
    if shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "labyrinth-probe"], capture_output=True)
    subprocess.run(["ip", "netns", "del", "labyrinth-probe"], capture_output=True)
    return made.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not may_make_hosts(), reason="network namespaces want root and iproute2")
def test_the_job_goes_on_with_the_host_that_is_left():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/two_hosts.py")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "host b is killed after step" in done.stdout
    assert "60 steps, each once" in done.stdout
