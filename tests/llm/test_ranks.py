"""What torchrun and Slurm say of a job becomes the trainer's devices and nodes, unless the user says otherwise."""

import pytest
from jsonargparse import Namespace

from llm.ranks import Launched, follow_launcher, launched

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
SLURM = {
    "SLURM_NTASKS": "6",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "3",
    "SLURM_PROCID": "1",
    "SLURM_JOB_NAME": "train",
}


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch):
    for name in (*TORCHRUN, *SLURM, "SLURM_STEP_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("told", "job"),
    [
        ({}, None),
        (TORCHRUN, Launched(4, 2)),
        (SLURM, Launched(2, 3)),
        ({**SLURM, "SLURM_STEP_NUM_NODES": "2"}, Launched(2, 2)),  # srun on a part of the job
        ({**SLURM, "SLURM_JOB_NAME": "bash"}, None),  # a shell
    ],
)
def test_devices_and_nodes_follow_the_job(told: dict[str, str], job: Launched | None, monkeypatch: pytest.MonkeyPatch):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert launched() == job
    trainer = Namespace(devices="auto", num_nodes=1)
    follow_launcher(trainer, Namespace())
    assert (trainer.devices, trainer.num_nodes) == (("auto", 1) if job is None else tuple(job))
    trainer = Namespace(devices=7, num_nodes=1)
    follow_launcher(trainer, Namespace(devices=7))
    assert trainer.devices == 7
