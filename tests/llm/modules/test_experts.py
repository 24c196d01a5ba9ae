"""The balance of experts moves once an optimizer step, by the load of the whole global batch, and is kept."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from lightning.pytorch.strategies import SingleDeviceStrategy
from support.fake_data import TINY, ListDataModule, make_batch, make_module, make_trainer
from support.ranks import run_ranks
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from llm.model import GPT, GPTConfig
from llm.model.moe import balance_experts
from llm.modules import PretrainModule

EXPERTS = {**TINY, "n_layers": 2, "n_experts": 4, "d_shared": 16, "balancing_rate": 0.01}
BATCHES = [make_batch(2, 8, 16, seed) for seed in range(6)]


def fit(batches: list[dict[str, Tensor]], module: PretrainModule | None = None, **settings: Any) -> PretrainModule:
    torch.manual_seed(0)
    module = module or make_module(gpt=EXPERTS, lr=0.0)
    make_trainer(**settings).fit(module, datamodule=ListDataModule(batches, BATCHES[:2]))
    return module


def balance_of(module: torch.nn.Module) -> Tensor:
    return torch.cat([value for name, value in module.state_dict().items() if name.endswith("balance")])


def merged(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.cat([batch[key] for batch in batches]) for key in ("tokens", "targets")}


def test_micro_batches_move_it_as_the_batch_that_they_make_up():
    # Two steps of three micro-batches each; the rate of learning is zero, so the choice depends on the balance alone.
    in_parts = fit(BATCHES, accumulate_grad_batches=3)
    at_once = fit([merged(BATCHES[:3]), merged(BATCHES[3:])])
    assert balance_of(in_parts).abs().max() == pytest.approx(0.02)
    assert torch.equal(balance_of(in_parts), balance_of(at_once))
    alone = fit(BATCHES)
    assert not torch.equal(balance_of(alone), balance_of(at_once))  # six steps of their own go elsewhere


def test_the_loads_of_all_ranks_are_added(monkeypatch: pytest.MonkeyPatch):
    plain, asked = SingleDeviceStrategy.reduce, []
    other_rank = torch.tensor([[1000, 0, 0, 0], [0, 0, 0, 1000]])

    def reduce(strategy: Any, tensor: Tensor, *_: Any, reduce_op: str) -> Tensor:
        if tensor.shape != other_rank.shape:
            return plain(strategy, tensor, reduce_op)
        asked.append(reduce_op)
        return tensor + other_rank

    monkeypatch.setattr(SingleDeviceStrategy, "reduce", reduce)
    module = fit(BATCHES[:1])
    assert asked == ["sum"]
    step = 0.01
    assert balance_of(module).tolist() == pytest.approx([-step, step, step, step, step, step, step, -step])


class Shares(L.Callback):
    """Notes what is logged at each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.seen.append(float(trainer.callback_metrics["largest_expert_share"]))


def test_the_largest_share_is_logged():
    shares = Shares()
    module = fit(BATCHES, callbacks=[shares])
    assert len(shares.seen) == 6
    assert all(0.25 <= share <= 0.5 for share in shares.seen)
    assert module.model is not None
    fresh = GPT(module.config, seed=0)
    with torch.no_grad():
        fresh(BATCHES[0]["tokens"])
    expected = max(float((b.feedforward.load / b.feedforward.load.sum()).max()) for b in fresh.blocks)
    assert shares.seen[0] == pytest.approx(expected)
    plain = make_trainer()
    plain.fit(make_module(), datamodule=ListDataModule(BATCHES))
    assert "largest_expert_share" not in plain.callback_metrics


def test_validation_leaves_it_alone():
    module = fit(BATCHES)
    before = balance_of(module).clone()
    make_trainer().validate(module, datamodule=ListDataModule([], BATCHES), verbose=False)
    assert torch.equal(balance_of(module), before)
    assert all(block.feedforward.load is None for block in module.model.blocks)  # type: ignore[union-attr]
    quiet = fit(BATCHES, limit_val_batches=0)
    assert torch.equal(balance_of(quiet), before)  # nor does validation between steps move it


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_ends_with_the_same_weights_and_balance(optimizer: str, tmp_path: Path):
    always = ListDataModule(BATCHES[:1] * 6)  # which batch follows is not what this asks

    def run(steps: int, path: Path | None = None) -> tuple[PretrainModule, L.Trainer]:
        torch.manual_seed(0)
        module = make_module(gpt=EXPERTS, optimizer=optimizer, schedule="wsd", decay=0.0)
        trainer = make_trainer(max_steps=steps, max_epochs=-1, limit_val_batches=0)
        trainer.fit(module, datamodule=always, ckpt_path=path)
        return module, trainer

    whole, _ = run(6)
    half, trainer = run(3)
    trainer.save_checkpoint(tmp_path / "3.ckpt")
    resumed, trainer = run(6, tmp_path / "3.ckpt")
    assert trainer.global_step == 6
    assert not torch.equal(balance_of(half), balance_of(resumed))
    assert torch.load(tmp_path / "3.ckpt", weights_only=True)["state_dict"].keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


SHAPE = {"vocab_size": 32, "context_length": 8, "n_layers": 2, "d_model": 16, "n_heads": 2, "n_experts": 12}
WAYS = ("ddp", "fsdp2")


def _train(rank: int, results: Any) -> None:
    """Two micro-batches a step, three steps, on one of two ranks; gradients are averaged over ranks."""

    def over_ranks(tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    for way in WAYS:
        model = GPT(GPTConfig(**SHAPE))
        parallel: torch.nn.Module
        if way == "ddp":
            parallel = DistributedDataParallel(model)
        else:
            for part in (*model.blocks, model):
                parallel = fully_shard(part, mesh=dist.init_device_mesh("cpu", (2,)))
        for step in range(3):
            for micro in range(2):
                batch = _rows(step)[rank + 2 * micro : rank + 2 * micro + 1]
                nll, _ = parallel(batch, batch)
                nll.backward()
            share = balance_experts(model, over_ranks)
        gradient = model.blocks[0].feedforward.experts.up.grad
        whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        results[way, rank] = (float(share), balance_of(model).tolist(), whole.tolist())


def _rows(step: int) -> Tensor:
    return torch.randint(4, (4, 2), generator=torch.Generator().manual_seed(step))  # so few that experts go without


def test_two_processes_move_it_as_one():
    with multiprocessing.Manager() as manager:
        shared = manager.dict()
        run_ranks(_train, shared)
        results = dict(shared)
    assert set(results) == {(way, rank) for way in WAYS for rank in (0, 1)}
    model = GPT(GPTConfig(**SHAPE))
    for step in range(3):
        nll, _ = model(_rows(step), _rows(step))
        nll.backward()
        share = balance_experts(model, lambda load: load)
    assert share is not None
    gradient = model.blocks[0].feedforward.experts.up.grad
    assert (gradient == 0).all((1, 2)).any()  # an expert that no rank had a token for
    for got_share, balance, grads in results.values():
        assert got_share == pytest.approx(float(share))
        assert torch.equal(torch.tensor(balance), balance_of(model))
        torch.testing.assert_close(2 * torch.tensor(grads), gradient, rtol=1e-4, atol=1e-5)
