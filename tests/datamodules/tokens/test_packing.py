"""Best-fit packing loses nothing, cuts nothing that fits, and packs tightly."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.tokens.batches import Rows
from datamodules.tokens.packed_rows import PackedRows
from datamodules.tokens.packing import Packing, best_fit, pack
from datamodules.tokens.store import TokenStore
from datamodules.tokens.store_writer import StoreWriter

END, PAD = 0, 1
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def offsets_of(lengths: list[int]) -> np.ndarray:
    return np.cumsum([1, *lengths]).astype(np.uint64)


@given(LENGTHS, st.integers(1, 24))
@settings(max_examples=200, deadline=None)
def test_every_token_is_a_target_once_and_no_document_that_fits_is_cut(lengths: list[int], context: int) -> None:
    offsets = offsets_of(lengths)
    packing = pack(offsets, context)
    targets = np.concatenate([s + 1 + np.arange(n) for s, n in zip(packing.starts, packing.lengths, strict=True)])
    assert sorted(targets.tolist()) == list(range(1, int(offsets[-1])))
    pieces = set(zip(packing.starts.tolist(), packing.lengths.tolist(), strict=True))
    for document, length in enumerate(lengths):
        start = int(offsets[document]) - 1
        if length <= context:
            assert (start, length) in pieces
        else:  # as few pieces as there can be
            assert sum(start <= s < start + length for s, _ in pieces) == -(-length // context)
    rows = np.diff(packing.rows)
    assert (rows > 0).all()
    used = np.add.reduceat(packing.lengths, packing.rows[:-1])
    assert used.max() <= context


@given(st.lists(st.integers(1, 32), min_size=1, max_size=80))
@settings(max_examples=100, deadline=None)
def test_each_piece_goes_where_it_leaves_the_least_room(lengths: list[int]) -> None:
    sizes = np.sort(np.array(lengths, dtype=np.int32))[::-1].copy()
    rows = best_fit(sizes, 32)
    room: dict[int, int] = {}
    for size, row in zip(sizes.tolist(), rows.tolist(), strict=True):
        fitting = [left for left in room.values() if left >= size]
        assert room.get(row, 32) == min(fitting, default=32)
        assert (row in room) == bool(fitting)
        room[row] = room.get(row, 32) - size


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    random = np.random.default_rng(0)
    with StoreWriter(tmp_path / "tokens", vocab_size=100, end=END) as writer:
        for length in (3, 40, 1, 9, 0, 15, 16, 6):
            writer.write(random.integers(2, 100, length), length)
    return TokenStore(tmp_path / "tokens")


def test_rows_hold_documents_as_they_stand_in_the_store(store: TokenStore, tmp_path: Path) -> None:
    packing = pack(store.offsets, 16)
    packing.save(tmp_path, "train")
    rows = PackedRows(store, Packing.load(tmp_path, "train"), 16, PAD, documents=True)
    batch = rows.__getitems__(range(len(rows)))
    assert {name: values.dtype for name, values in batch.items()} == {
        "tokens": torch.int64,
        "targets": torch.int64,
        "documents": torch.int32,
    }
    seen = []
    for tokens, targets, documents in zip(*batch.values(), strict=True):
        assert torch.equal(tokens == PAD, targets == -100)
        assert torch.equal(documents == -1, targets == -100)
        for number in documents.unique():
            if number >= 0:
                own = documents == number
                assert torch.equal(tokens[own][1:], targets[own][:-1])
                seen.append((tokens[own].tolist(), targets[own].tolist()))
    whole = [0, 40, 1, 9, 0, 15, 16, 6]
    for document in (0, 2, 3, 4, 5, 7):  # those that fit, with the end token that follows and the one before
        first, last = int(store.offsets[document]), int(store.offsets[document + 1])
        text = store.tokens[first - 1 : last].tolist()
        assert text[0] == END
        assert text[-1] == END
        assert (text[:-1], text[1:]) in seen, whole[document]
    assert "documents" not in PackedRows(store, packing, 16, PAD, documents=False)[0]
    assert torch.equal(rows[2]["tokens"], batch["tokens"][2])


def test_running_text_tells_its_documents_apart_too(store: TokenStore) -> None:
    rows = Rows(store, 16, PAD, end=END)
    batch = rows.__getitems__(range(len(rows) + 1))
    stream, numbers = batch["tokens"].flatten().tolist(), batch["documents"].flatten().tolist()
    for place in range(1, len(stream)):
        if place % 16:
            begins = stream[place] == END or (stream[place] == PAD and stream[place - 1] != PAD)
            assert (numbers[place] != numbers[place - 1]) == begins
    assert batch["documents"].dtype == torch.int32


def test_a_missing_packing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the packing"):
        Packing.load(tmp_path, "train")
