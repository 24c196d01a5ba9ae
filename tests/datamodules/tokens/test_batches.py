import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from datamodules.tokens.batches import IGNORED, Rows, StepBatches, as_batch
from datamodules.tokens.sample_order import SampleOrder
from datamodules.tokens.store import TokenStore
from datamodules.tokens.store_writer import StoreWriter

PAD = 1


def store_of(folder: Path, n_tokens: int, vocab_size: int = 70_000) -> TokenStore:
    """A stream that counts: the opening token 0, then 2, 3, 4, ..., and 0 at the end."""
    with StoreWriter(folder / f"{n_tokens}.bin", vocab_size=vocab_size, end=0) as writer:
        writer.write(np.arange(2, n_tokens), n_tokens)
    return TokenStore(folder / f"{n_tokens}.bin")


def test_targets_are_shifted_once(tmp_path: Path) -> None:
    rows = Rows(store_of(tmp_path, 50), 8, PAD)
    batch = rows.__getitems__([0, 3])
    assert batch["tokens"].dtype == batch["targets"].dtype == torch.int64
    assert batch["tokens"].tolist() == [[0, *range(2, 9)], list(range(25, 33))]
    assert (batch["targets"][1] == batch["tokens"][1] + 1).all()
    assert batch["tokens"].is_contiguous()
    assert batch["targets"].is_contiguous()


@pytest.mark.parametrize("n_tokens", [2, 3, 8, 9, 10, 17, 100, 1001])
@pytest.mark.parametrize("context_length", [1, 8, 64])
def test_no_token_is_dropped_and_each_is_a_target_once(tmp_path: Path, n_tokens: int, context_length: int) -> None:
    store = store_of(tmp_path, n_tokens)
    rows = Rows(store, context_length, PAD)
    batch = rows.__getitems__(list(range(len(rows))))
    tokens, targets = batch["tokens"].flatten(), batch["targets"].flatten()
    real = targets != IGNORED
    assert targets[real].tolist() == store.tokens[1:].tolist()
    assert tokens[real].tolist() == store.tokens[:-1].tolist()
    assert (tokens[~real] == PAD).all()
    assert (~real).sum() < context_length
    assert {name: value.tolist() for name, value in rows[len(rows) - 1].items()} == {
        name: value[-1].tolist() for name, value in batch.items()
    }


def test_a_row_past_the_end_has_no_targets(tmp_path: Path) -> None:
    rows = Rows(store_of(tmp_path, 50), 8, PAD)
    batch = rows.__getitems__([0, len(rows) - 1, len(rows), len(rows) + 1])
    assert (batch["targets"][2:] == IGNORED).all()
    assert (batch["tokens"][2:] == PAD).all()
    assert (batch["targets"][0] != IGNORED).all()


def test_workers_map_the_file_themselves(tmp_path: Path) -> None:
    rows = Rows(store_of(tmp_path, 60_000), 8, PAD)
    assert len(pickle.dumps(rows)) < 2000
    assert (pickle.loads(pickle.dumps(rows))[3]["tokens"] == rows[3]["tokens"]).all()


def seen(order: SampleOrder, *, world_size: int, batch_size: int, step: int, steps: int) -> list[set[int]]:
    """The rows of each step, over all ranks."""
    ranks = [
        [
            list(rows)
            for rows in StepBatches(order, batch_size=batch_size, rank=rank, world_size=world_size, step=lambda: step)
        ]
        for rank in range(world_size)
    ]
    micro_steps = order.rows_per_step // (world_size * batch_size)
    return [
        {row for rank in ranks for batch in rank[start : start + micro_steps] for row in batch}
        for start in range(0, steps * micro_steps, micro_steps)
    ]


def test_a_step_holds_the_same_rows_on_any_hardware() -> None:
    order = SampleOrder(5, 203, 16)
    reference = seen(order, world_size=1, batch_size=16, step=0, steps=12)
    assert all(len(rows) == 16 for rows in reference)
    for world_size in (1, 2, 4):
        for batch_size in (1, 2, 4):
            assert seen(order, world_size=world_size, batch_size=batch_size, step=0, steps=12) == reference
            assert seen(order, world_size=world_size, batch_size=batch_size, step=5, steps=7) == reference[5:]


def test_the_places_are_as_documented() -> None:
    order = SampleOrder(0, 100, 12)
    (k, j, r), (world_size, m) = (3, 1, 1), (2, 3)
    batches = list(StepBatches(order, batch_size=m, rank=r, world_size=world_size, step=lambda: k))
    assert batches[j] == order(np.arange(m) + k * 12 + j * world_size * m + r * m).tolist()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40))
def test_it_starts_where_the_run_stands_and_ends_with_the_epoch(step: int) -> None:
    order = SampleOrder(0, 100, 10)
    sampler = StepBatches(order, batch_size=5, rank=0, world_size=1, step=lambda: step)
    assert len(sampler) == 20
    assert len(list(sampler)) == 20 - 2 * (step % 10)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_with_workers_gives_the_same_batches(tmp_path: Path, num_workers: int) -> None:
    rows = Rows(store_of(tmp_path, 1000), 8, PAD)
    order = SampleOrder(0, len(rows), 16)
    sampler = StepBatches(order, batch_size=4, rank=0, world_size=1, step=lambda: 2)
    loader = DataLoader(rows, batch_sampler=sampler, collate_fn=as_batch, num_workers=num_workers)
    found = torch.cat([batch["tokens"] for batch in loader])
    assert (found == rows.__getitems__(order(np.arange(32, order.samples_per_epoch)))["tokens"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("context_length", [256, 1024])
def test_it_is_fast(tmp_path: Path, context_length: int) -> None:
    """The aim is 10^8 tokens a second; half of it is asked for here, as test machines are shared."""
    with StoreWriter(tmp_path / "a.bin", vocab_size=300, end=0) as writer:
        writer.write(np.arange(20_000_000) % 300, 1)
    rows = Rows(TokenStore(tmp_path / "a.bin"), context_length, PAD)
    indices = np.random.default_rng(0).integers(0, len(rows) - 1, size=(100, 32))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for index in indices:
            rows.__getitems__(index)
        best = min(best, time.perf_counter() - start)
    assert indices.size * context_length / best > 5e7
