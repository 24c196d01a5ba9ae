"""The norm of all gradients is that of one process, however parameters lie on processes; clipping follows it."""

import math

import pytest
import torch
from lightning import Callback
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer
from support.ranks import run_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from llm.optim.clipping import clip_by_norm, clip_by_value, total_norm

SHAPES = [(8, 12), (7, 5), (3,), (12, 8)]  # seven and three rows do not divide by two


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def torch_norm(gradients):
    return torch.nn.utils.get_total_norm(gradients)


def test_one_process_has_the_norm_and_the_clip_of_torch():
    gradients, same = tensors(), [nn.Parameter(g.clone()) for g in tensors()]
    for parameter in same:
        parameter.grad = parameter.detach().clone()
    norm = total_norm(gradients)
    assert torch.equal(norm, torch_norm(gradients))
    clip_by_norm(gradients, norm, 2.0)
    nn.utils.clip_grad_norm_(same, 2.0)
    assert all(torch.equal(mine, its.grad) for mine, its in zip(gradients, same, strict=True))
    assert float(total_norm(gradients)) == pytest.approx(2.0)
    before = [g.clone() for g in gradients]
    clip_by_norm(gradients, total_norm(gradients), 3.0)
    assert all(torch.equal(now, then) for now, then in zip(gradients, before, strict=True))


def test_bfloat16_is_added_up_in_float32():
    gradients = [torch.full((1 << 20,), 1e-3, dtype=torch.bfloat16) for _ in range(4)]
    norm = total_norm(gradients)
    assert norm.dtype == torch.float32
    assert float(norm) == pytest.approx(float(gradients[0][0]) * 2048, rel=1e-3)


def test_a_norm_that_is_not_finite_leaves_the_gradients_to_a_guard():
    gradients = [torch.tensor([1.0, math.inf]), torch.tensor([2.0])]
    clip_by_norm(gradients, total_norm(gradients), 1.0)
    assert gradients[0].tolist() == [1.0, math.inf]
    assert gradients[1].tolist() == [2.0]
    assert float(total_norm([])) == 0.0


def of_model(rank, sharding):
    """Norm of the gradients of two linear layers, the second one in FSDP2's or tensor parallel's hands."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 7))
    mesh = init_device_mesh("cpu", (2,))
    if sharding == "fsdp2":
        fully_shard(net[0], mesh=mesh)
        fully_shard(net, mesh=mesh)
    elif sharding == "tensor parallel":
        parallelize_module(net, mesh, {"0": ColwiseParallel(), "1": RowwiseParallel()})
    elif sharding == "one part":
        fully_shard(net[1], mesh=mesh)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    net(x).square().mean().backward()
    gradients = [p.grad for p in net.parameters()]
    norm = total_norm(gradients)
    clip_by_norm(gradients, norm, 0.1)
    whole = [(g.full_tensor() if isinstance(g, DTensor) else g).clone() for g in gradients]
    return norm, whole


def of_placements(placements, dimensions):
    """Norm of tensors laid out so, beside a plain one that both processes hold."""
    mesh = init_device_mesh("cpu", dimensions)
    plain, *rest = tensors()
    if any(isinstance(p, Partial) for p in placements):
        made = [DTensor.from_local(t / 2, mesh, placements, run_check=False) for t in rest]
    else:
        made = [distribute_tensor(t, mesh, placements) for t in rest]
    return total_norm([plain, *made])


PLACEMENTS = {
    "sharded": ([Shard(0)], (2,)),
    "replicated": ([Replicate()], (2,)),
    "terms of a sum": ([Partial()], (2,)),
    "sharded and replicated": ([Replicate(), Shard(0)], (1, 2)),
    "replicated over two": ([Replicate(), Shard(0)], (2, 1)),
}
SHARDINGS = ["none", "fsdp2", "tensor parallel", "one part"]


def process(rank, folder):
    found = {name: of_model(rank, name) for name in SHARDINGS}
    found |= {name: of_placements(*layout) for name, layout in PLACEMENTS.items()}
    values = distribute_tensor(torch.arange(-3.0, 4.0), init_device_mesh("cpu", (2,)), [Shard(0)])
    clip_by_value([values], 1.5)
    found["by value"] = values.full_tensor()
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(process, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", SHARDINGS[1:])
def test_a_model_on_two_processes_has_the_norm_and_the_clipped_gradients_of_one(results, name):
    norm, gradients = results[0]["none"]
    for theirs, clipped in (rank[name] for rank in results):
        assert float(theirs) == pytest.approx(float(norm), rel=1e-5)
        for got, wanted in zip(clipped, gradients, strict=True):
            torch.testing.assert_close(got, wanted)
    assert torch.equal(results[0][name][0], results[1][name][0])


@pytest.mark.parametrize("name", PLACEMENTS)
def test_what_lies_on_two_processes_counts_once(results, name):
    for rank in results:
        assert float(rank[name]) == pytest.approx(float(torch_norm(tensors())), rel=1e-5)


def test_values_are_bounded_where_they_lie(results):
    assert results[0]["by value"].tolist() == [-1.5, -1.5, -1.0, 0.0, 1.0, 1.5, 1.5]


@pytest.mark.parametrize(("algorithm", "most"), [("norm", 0.01), ("value", 1e-4)])
def test_the_trainers_setting_is_obeyed(algorithm, most):
    seen = []

    class Watch(Callback):
        def on_before_zero_grad(self, trainer, module, optimizer):
            if any(p.grad is not None for p in module.parameters()):
                seen.append([p.grad.clone() for p in module.parameters()])

    data = ListDataModule([make_batch(2, 8, 16, seed) for seed in range(3)])
    trainer = make_trainer(gradient_clip_val=most, gradient_clip_algorithm=algorithm, callbacks=[Watch()])
    trainer.fit(make_module(), datamodule=data)
    assert len(seen) == 2
    for gradients in seen:
        largest = max(float(g.abs().max()) for g in gradients)
        assert float(total_norm(gradients)) == pytest.approx(most, rel=1e-3) if algorithm == "norm" else largest <= most
    assert float(trainer.callback_metrics["grad_norm"]) > most
