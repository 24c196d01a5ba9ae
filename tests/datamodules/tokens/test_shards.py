"""A store of many files is the running text of one, whatever the size of a file (B8)."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.tokens.batches import Rows
from datamodules.tokens.store import ShardedTokens, TokenStore, check_shard, shard_path
from datamodules.tokens.store_writer import StoreWriter


def write(path: Path, documents: list[list[int]], shard_tokens: int | None, vocab_size: int = 300) -> TokenStore:
    with StoreWriter(path, vocab_size=vocab_size, end=0, shard_tokens=shard_tokens) as writer:
        for document in documents:
            writer.write(np.array(document, dtype=np.int64), text_bytes=2 * len(document))
    return TokenStore(path)


@given(
    documents=st.lists(st.lists(st.integers(1, 69_999), max_size=30), max_size=12),
    shard_tokens=st.integers(2, 40),
    length=st.integers(1, 9),
    wide=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_size_of_file_gives_the_same_text(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], shard_tokens: int, length: int, wide: bool
) -> None:
    if not wide:
        documents = [[token % 299 + 1 for token in document] for document in documents]
    folder = tmp_path_factory.mktemp("store")
    vocab_size = 70_000 if wide else 300
    one = write(folder / "one.bin", documents, None, vocab_size)
    many = write(folder / "many.bin", documents, shard_tokens, vocab_size)
    assert isinstance(many.tokens, ShardedTokens) == (one.n_tokens > shard_tokens)
    assert many.tokens[:].tolist() == one.tokens[:].tolist()
    assert many.offsets.tolist() == one.offsets.tolist()
    assert (many.n_documents, many.text_bytes, many.vocab_size) == (one.n_documents, one.text_bytes, one.vocab_size)
    mine, other = Rows(many, length, pad=7, end=0), Rows(one, length, pad=7, end=0)
    assert len(mine) == len(other)
    rows = np.random.default_rng(0).permutation(len(one.tokens) // length + 2)
    for name, values in other.__getitems__(rows).items():
        assert mine.__getitems__(rows)[name].tolist() == values.tolist()
    if one.n_tokens > shard_tokens:
        files = [shard_path(many.path, number) for number in range(-(-one.n_tokens // shard_tokens))]
        assert [check_shard(path) for path in files] == [None] * len(files)
        assert not shard_path(many.path, len(files)).exists()


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """23 tokens in files of 8."""
    return write(tmp_path / "train.bin", [[1, 2, 3, 4, 5], [6] * 10, [7, 8, 9]], 8)


def test_windows_say_which_files_they_read(store: TokenStore) -> None:
    assert isinstance(store.tokens, ShardedTokens)
    assert store.n_tokens == 22
    assert store.tokens.shards_of(np.array([0, 3]), 5) == [0]
    assert store.tokens.shards_of(np.array([4]), 5) == [0, 1]
    assert store.tokens.shards_of(np.array([20]), 5) == [2]


def test_nothing_is_opened_before_it_is_read_and_a_removed_file_stays_mapped(store: TokenStore) -> None:
    assert isinstance(store.tokens, ShardedTokens)
    assert not store.tokens._open
    before = store.windows(np.array([9]), 4).tolist()
    assert list(store.tokens._open) == [1]
    shard_path(store.path, 1).unlink()
    assert store.windows(np.array([9]), 4).tolist() == before


def test_a_store_pickles_as_its_path_and_opens_its_files_anew(store: TokenStore) -> None:
    store.windows(np.array([0, 9]), 4)
    again = pickle.loads(pickle.dumps(store))
    assert not again.tokens._open
    assert again.tokens[:].tolist() == store.tokens[:].tolist()
    assert len(pickle.dumps(store)) < 1000


def test_a_damaged_file_is_named(store: TokenStore) -> None:
    path = shard_path(store.path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"{path.name} is damaged \({len(whole) - 1} bytes instead of {len(whole)}\)"):
        store.windows(np.array([9]), 4)
    path.unlink()
    with pytest.raises(DataError, match=rf"cannot read .*{path.name} \(No such file"):
        store.windows(np.array([9]), 4)
    flipped = bytearray(whole)
    flipped[70] ^= 1
    path.write_bytes(flipped)
    assert check_shard(path) == "the digest of its tokens is wrong"
    path.write_bytes(b"x" * 100)
    assert check_shard(path) == "it is no shard of a token store"


def test_an_error_leaves_none_of_the_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside of the vocabulary"):
        write(tmp_path / "train.bin", [[1] * 50, [300]], 8)
    assert list(tmp_path.iterdir()) == []
