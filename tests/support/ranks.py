"""Several processes of one job, for tests of what they do together."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(work: Callable[..., None], *arguments: Any, world_size: int = 2) -> None:
    """Run `work(rank, *arguments)` in as many processes, joined by gloo; what fails in one is raised here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_run, (work, port, world_size, arguments), nprocs=world_size)


def _run(rank: int, work: Callable[..., None], port: int, world_size: int, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    work(rank, *arguments)
    dist.barrier()  # nobody leaves while another still talks to it
    os._exit(0)  # once in hundreds of runs gloo's threads abort while an interpreter comes down
