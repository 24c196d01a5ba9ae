"""What the launcher of a job, torchrun or Slurm's srun, says of its processes."""

import os
from typing import NamedTuple

from jsonargparse import Namespace


class Launched(NamedTuple):
    """Processes a node, and nodes."""

    devices: int
    nodes: int


def launched_rank() -> int:
    """The rank that a launcher gave this process; 0 where none did."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def launched() -> Launched | None:
    """What the launcher of this process says; None where nothing launched it."""
    told = os.environ
    if "TORCHELASTIC_RUN_ID" in told:
        devices = int(told["LOCAL_WORLD_SIZE"])
        return Launched(devices, int(told["WORLD_SIZE"]) // devices)
    # A shell that Slurm opened is no job; the names are those by which Lightning tells them apart.
    if "SLURM_NTASKS_PER_NODE" in told and told.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = told.get("SLURM_STEP_NUM_NODES") or told.get("SLURM_NNODES") or "1"
        return Launched(int(told["SLURM_NTASKS_PER_NODE"]), int(nodes))
    return None


def follow_launcher(trainer: Namespace, written: Namespace) -> None:
    """Set `devices` and `num_nodes` of the trainer to the job's, unless the user wrote them.

    A job that goes on with fewer nodes then needs no other command.

    Args:
        trainer: its options, defaults included.
        written: those of its options that the user wrote.
    """
    job = launched()
    if job is None or "devices" in written or "num_nodes" in written:
        return
    trainer.devices, trainer.num_nodes = job.devices, job.nodes
