"""Statistics of layers are those of the whole batch and of whole weights, and cost nothing in other steps."""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from support.command_line import TINY, llm, write_texts
from support.fake_data import ListDataModule, make_batch, make_module, make_trainer
from support.ranks import run_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from callbacks import Statistics
from callbacks.records import Records
from callbacks.statistics import norms_by_layer
from llm.cli import LabyrinthCLI

BATCHES = [make_batch(2, 8, 16, seed) for seed in range(8)]
KEYS = [
    "step",
    "layer",
    "gradient_norm",
    "weight_norm",
    "update_ratio",
    "activation_mean",
    "activation_std",
    "activation_largest",
    "activation_kurtosis",
]


class Watch(L.Callback):
    """Keeps what the statistics should find."""

    def __init__(self) -> None:
        self.outputs: dict[int, torch.Tensor] = {}
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.gradients: dict[int, float] = {}
        self.hooks: list[int] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.hooks.append(len(module.model.blocks[0]._forward_hooks))
        self.weights[trainer.global_step] = {n: p.detach().clone() for n, p in module.named_parameters()}
        step, hidden = trainer.global_step, module.model.blocks[0].forward

        def kept(*arguments: Any, **settings: Any) -> torch.Tensor:
            output = hidden(*arguments, **settings)
            self.outputs.setdefault(step, output)  # later steps wrap this one
            return output

        module.model.blocks[0].forward = kept

    def on_gradients(self, trainer: L.Trainer, module: L.LightningModule, loss: float, norm: float) -> bool:
        self.gradients[trainer.global_step] = norm
        return True


def fit(folder: Path, statistics: Statistics, **settings: Any) -> tuple[list[dict[str, Any]], Watch]:
    watch = Watch()
    module = make_module(gpt={"n_layers": 2, "d_model": 16, "n_heads": 2, "d_ff": 32})
    trainer = make_trainer(callbacks=[statistics, watch], default_root_dir=folder, **settings)
    trainer.fit(module, datamodule=ListDataModule(BATCHES))
    assert not any(part._forward_hooks for part in module.modules())
    return Records(folder / "statistics.jsonl").read(), watch


def test_a_line_a_layer_has_what_was_there(tmp_path: Path):
    lines, watch = fit(tmp_path, Statistics(every_n_steps=3))
    assert all(list(line) == KEYS for line in lines)
    layers = [line["layer"] for line in lines if line["step"] == 3]
    assert [line["step"] for line in lines] == [step for step in (0, 3, 6) for _ in layers]
    assert watch.hooks == [1, 0, 0, 1, 0, 0, 1, 0]
    assert {"model.blocks.0", "model.blocks.1"} < set(layers)
    assert len(set(layers)) == len(layers)
    of_step = [line for line in lines if line["step"] == 3]
    assert sum(line["gradient_norm"] ** 2 for line in of_step) ** 0.5 == pytest.approx(watch.gradients[3], rel=1e-4)
    (block,) = (line for line in of_step if line["layer"] == "model.blocks.0")
    before, after = (
        torch.cat([p.flatten() for name, p in watch.weights[step].items() if name.startswith("model.blocks.0.")])
        for step in (3, 4)
    )
    assert block["weight_norm"] == pytest.approx(float(before.norm()), rel=1e-4)
    assert block["update_ratio"] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-3)
    x = watch.outputs[3].detach()
    deviation = x.std(correction=0)
    assert block["activation_mean"] == pytest.approx(float(x.mean()), rel=1e-3, abs=1e-6)
    assert block["activation_std"] == pytest.approx(float(deviation), rel=1e-3)
    assert block["activation_largest"] == pytest.approx(float(x.abs().max()), rel=1e-4)
    assert block["activation_kurtosis"] == pytest.approx(float((x - x.mean()).pow(4).mean() / deviation**4), rel=1e-3)
    outside = [line for line in of_step if not line["layer"].startswith("model.blocks.")]
    assert all(line["activation_std"] is None for line in outside)


def test_micro_batches_are_one_step(tmp_path: Path):
    lines, _ = fit(tmp_path, Statistics(every_n_steps=2), accumulate_grad_batches=2)
    assert sorted({line["step"] for line in lines}) == [0, 2]


def test_without_a_number_of_steps_nothing_is_looked_at(tmp_path: Path):
    lines, watch = fit(tmp_path, Statistics())
    assert lines == []
    assert not any(watch.hooks)


def test_a_number_that_cannot_be_is_named():
    with pytest.raises(MisconfigurationException, match=r"statistics.every_n_steps is 0: it can be 1 or more"):
        Statistics(every_n_steps=0)


def sharded(rank: int, folder: Path) -> None:
    net = Net()
    whole = norms_by_layer(net, dict(net.named_parameters()))
    mesh = init_device_mesh("cpu", (2,))
    for block in net.blocks:
        fully_shard(block, mesh=mesh)
    parts = norms_by_layer(net, dict(net.named_parameters()))
    (folder / f"{rank}.json").write_text(json.dumps([whole, parts]))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(5, 3) for _ in range(3))
        self.head = nn.Linear(3, 7)


def test_norms_of_sharded_weights_are_of_whole_ones(tmp_path: Path):
    run_ranks(sharded, tmp_path)
    for rank in (0, 1):
        whole, parts = json.loads((tmp_path / f"{rank}.json").read_text())
        assert list(whole) == ["blocks.0", "blocks.1", "blocks.2", "head"]
        assert parts == pytest.approx(whole, rel=1e-5)


FLAGS = ["--statistics.every_n_steps=8", "--trainer.enable_progress_bar=false", "--model.max_tokens=4352"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("statistics")
    write_texts(folder)
    before, arguments = os.getcwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["llm"]
    LabyrinthCLI(["fit", *TINY, *FLAGS, "--name=one"])
    yield folder
    os.chdir(before)
    sys.argv = arguments


def lines_of(name: str) -> list[dict[str, Any]]:
    return Records(Path(f"runs/{name}/statistics.jsonl")).read()


@pytest.mark.slow
def test_two_processes_write_what_one_does(folder: Path):
    two = ["--trainer.strategy=ddp", "--trainer.devices=2", "--name=two"]
    done = llm("fit", *TINY, *FLAGS, *two, folder=folder)
    assert done.returncode == 0, done.stderr
    mine, its = lines_of("two"), lines_of("one")
    assert [(line["step"], line["layer"]) for line in mine] == [(line["step"], line["layer"]) for line in its]
    assert sorted({line["step"] for line in its}) == [0, 8, 16]
    for one, other in zip(mine, its, strict=True):
        for key in KEYS[2:]:
            wanted = None if other[key] is None else pytest.approx(other[key], rel=1e-2, abs=1e-5)
            assert one[key] == wanted, (one["step"], one["layer"], key)


def test_statistics_change_no_loss(folder: Path):
    LabyrinthCLI(["fit", *TINY, *FLAGS[1:], "--name=plain"])
    losses = []
    for name in ("one", "plain"):
        with Path(f"runs/{name}/metrics.csv").open(newline="") as file:
            losses.append([row["train_loss"] for row in csv.DictReader(file)])
    assert losses[0] == losses[1]
