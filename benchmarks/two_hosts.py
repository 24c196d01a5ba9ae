"""One ddp job on two hosts, of which one dies in the middle; the job goes on with the other.

    sudo python benchmarks/two_hosts.py                    # a scheduler starts the job again on the other
    sudo python benchmarks/two_hosts.py --way elastic      # torchrun starts again by itself
    sudo python benchmarks/two_hosts.py --way cut          # not killed: its cable is cut, and nobody is told

The hosts are network namespaces with addresses of their own, joined by a virtual cable (iproute2, root). What
is compared is the loss of every step with that of one process that nobody disturbed.
"""

import argparse
import contextlib
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.crash import modified, write_texts  # noqa: E402

STEPS = 60
EVERY = 5  # steps between two checkpoints
DIES_AT = 20  # when this step is saved
HOSTS = {"labyrinth-a": "10.77.0.1", "labyrinth-b": "10.77.0.2"}
PORT = 29577
FIT = [
    "fit",
    "--model=PretrainModule",
    "--model.gpt={n_layers: 4, d_model: 192, n_heads: 4, n_kv_heads: 2, head_dim: 48, d_ff: 512}",
    f"--model.max_tokens={STEPS * 4096}",
    "--model.validate_every=20",
    "--data=PretrainDataModule",
    "--data.sources=[texts/*.txt]",
    "--data.vocab_size=400",
    "--data.context_length=128",
    "--data.global_batch_tokens=4096",
    "--data.batch_size=8",
    "--data.workers=1",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    f"--checkpoints.every_n_steps={EVERY}",
    "--ckpt_path=auto",
]


def ip(command: str) -> None:
    """Run one command of iproute2."""
    subprocess.run(["ip", *command.split()], check=True)


@contextlib.contextmanager
def two_hosts() -> Iterator[None]:
    """Two network namespaces with an address each, joined by a virtual cable."""
    one, other = HOSTS
    try:
        for host in HOSTS:
            ip(f"netns add {host}")
        ip(f"link add wire netns {one} type veth peer name wire netns {other}")
        for host, address in HOSTS.items():
            ip(f"-n {host} address add {address}/24 dev wire")
            ip(f"-n {host} link set wire up")
            ip(f"-n {host} link set lo up")
        yield
    finally:
        for host in HOSTS:
            kill_host(host)
            subprocess.run(["ip", "netns", "del", host], stderr=subprocess.DEVNULL)


def kill_host(host: str) -> None:
    """End all processes of a host at once, as a power cut does."""
    found = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True)
    for number in found.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(number), signal.SIGKILL)


def start(host: str, folder: Path, nodes: str) -> subprocess.Popen[bytes]:
    """Start the job's part on one host: torchrun with one process."""
    torchrun = [
        "-m torch.distributed.run --nproc-per-node=1 --max-restarts=3 --rdzv-backend=c10d --rdzv-id=job",
        f"--nnodes={nodes} --rdzv-endpoint={HOSTS['labyrinth-a']}:{PORT} --local-addr={HOSTS[host]}",
        # Both hosts have this machine's name, by which torchrun would know which of them holds the rendezvous.
        f"--rdzv-conf=is_host={int(host == 'labyrinth-a')} -m llm",
    ]
    if ":" not in nodes:
        torchrun[0] = torchrun[0].replace("--max-restarts=3", "--max-restarts=0")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LABYRINTH")}
    return subprocess.Popen(
        ["ip", "netns", "exec", host, sys.executable, *" ".join(torchrun).split(), *FIT, "--name=job"],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "wire"},
        stdout=(folder / f"{host}.txt").open("a"),
        stderr=subprocess.STDOUT,
    )


def losses(run: Path) -> list[float]:
    """The training loss of each step; ValueError where a step is there twice or not at all."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train_loss"]]
    if [int(row["step"]) for row in rows] != list(range(len(rows))):
        raise ValueError(f"{run}: the log has gaps or doubled steps")
    return [float(row["train_loss"]) for row in rows]


def saved_step(folder: Path) -> int:
    """The newest step that the job has saved, or 0."""
    return max((int(path.stem[5:]) for path in folder.glob("runs/job/checkpoints/step-*.ckpt")), default=0)


def wait_until_saved(folder: Path, step: int, jobs: list[subprocess.Popen[bytes]], patience: float = 300) -> None:
    """Return when a checkpoint of `step` or later is there; RuntimeError where the job ends or nothing comes."""
    deadline = time.monotonic() + patience
    while saved_step(folder) < step:
        if any(job.poll() is not None for job in jobs) or time.monotonic() > deadline:
            raise RuntimeError("\n".join(path.read_text()[-3000:] for path in folder.glob("labyrinth-*.txt")))
        time.sleep(0.02)


def disturbed(folder: Path, way: str) -> None:
    """Run the job on two hosts, end one of them in the middle, and let the job end on the other."""
    nodes = "2" if way == "static" else "1:2"
    one, other = (start(host, folder, nodes) for host in HOSTS)
    wait_until_saved(folder, DIES_AT, [one, other])
    before = saved_step(folder)
    died = time.monotonic()
    if way == "cut":
        ip("-n labyrinth-b link set wire down")
        print(f"the cable of host b is cut after step {before}")
    else:
        kill_host("labyrinth-b")
        print(f"host b is killed after step {before}: {'torchrun' if way == 'elastic' else 'both'} and all it started")
    if way == "static":
        code = one.wait(timeout=600)
        print(f"host a ends {time.monotonic() - died:.1f} s later, exit code {code}")
        one = start("labyrinth-a", folder, "1")
        print("started again on host a alone, with the same command")
    behind = modified(max(folder.glob("runs/job/checkpoints/step-*.ckpt")))
    while modified(max(folder.glob("runs/job/checkpoints/step-*.ckpt"))) <= behind and one.poll() is None:
        time.sleep(0.02)
    print(f"the next checkpoint, step {saved_step(folder)}, comes {time.monotonic() - died:.1f} s after host b died")
    if one.wait(timeout=900):
        raise RuntimeError((folder / "labyrinth-a.txt").read_text()[-3000:])


def main() -> int:
    """Run, disturb, compare, print; 1 where the curves differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=["static", "elastic", "cut"], default="static")
    parser.add_argument("--keep", type=Path, help="folder for the runs and their output; temporary if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, two_hosts():
        folder = options.keep or Path(temporary)
        write_texts(folder)
        alone = [sys.executable, "-m", "llm", *FIT, "--name=alone"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run(alone, cwd=folder, env=environment, check=True, capture_output=True)
        disturbed(folder, options.way)
        whole, job = losses(folder / "runs/alone"), losses(folder / "runs/job")
    difference = max(abs(a - b) / a for a, b in zip(whole, job, strict=True))
    shown = [*range(0, STEPS, 10), STEPS - 1]
    print("step           " + " ".join(f"{step + 1:8}" for step in shown))
    print("one process    " + " ".join(f"{whole[step]:8.4f}" for step in shown))
    print("two hosts, one " + " ".join(f"{job[step]:8.4f}" for step in shown))
    print(f"{len(job)} steps, each once; largest relative difference of the loss {difference:.1e}")
    return int(difference > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
