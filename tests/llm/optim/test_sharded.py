"""Two processes that share every matrix (FSDP2) or hold it whole (DDP) step as one process does."""

import pytest
import torch
from support.ranks import run_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from llm.optim import MuonAdamW

STEPS = 3
SHAPES = [(8, 12), (12, 8), (7, 5), (8, 12)]  # seven rows do not divide by two


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrices = nn.ParameterList(nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES)
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x):
        first, second, third, fourth = self.matrices
        return ((x @ first @ second + x @ fourth @ second)[:, :7] @ third * self.scale).square().mean()


def rows(step, rank=None):
    whole = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
    return whole if rank is None else whole.chunk(2)[rank]


def optimizer_of(net, state_dtype):
    groups = [
        {"params": list(net.matrices), "method": "muon", "lr": 0.02, "weight_decay": 0.1},
        {"params": [net.scale], "lr": 0.01},
    ]
    return MuonAdamW(groups, state_dtype=state_dtype)


def train(net, optimizer, rank=None):
    for step in range(STEPS):
        net(rows(step, rank)).backward()
        optimizer.step()
        optimizer.zero_grad()


def whole_weights(net):
    return [(p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for p in net.parameters()]


def process(rank, folder):
    sharded = Net()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))
    train(sharded, optimizer := optimizer_of(sharded, None), rank)
    assert isinstance(optimizer.state[sharded.matrices[0]]["momentum_buffer"], DTensor)  # as a sharded save wants it
    copied = Net()
    train(nn.parallel.DistributedDataParallel(copied), optimizer_of(copied, "bfloat16"), rank)
    results = {"sharded": whole_weights(sharded), "copied": whole_weights(copied)}
    torch.save(results, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(process, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize(("kind", "state_dtype"), [("sharded", None), ("copied", "bfloat16")])
def test_two_processes_are_one(results, kind, state_dtype):
    alone = Net()
    train(alone, optimizer_of(alone, state_dtype))
    tolerance = 1e-5 if state_dtype is None else 1e-2  # a gradient's last digit can turn a rounding around
    for first, second, wanted in zip(results[0][kind], results[1][kind], whole_weights(alone), strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, wanted, rtol=tolerance, atol=tolerance)
