import pickle
from pathlib import Path

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.tokens.store import TokenStore, token_dtype
from datamodules.tokens.store_writer import StoreWriter

DOCUMENTS = [[5, 6, 7], [], [8], [9, 10]]


def write(path: Path, documents: list[list[int]] = DOCUMENTS, vocab_size: int = 300) -> Path:
    with StoreWriter(path, vocab_size=vocab_size, end=0) as writer:
        for document in documents:
            writer.write(np.array(document, dtype=np.int64), text_bytes=2 * len(document))
    return path


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("vocab_size", [300, 70_000])
def test_what_is_written_is_read(tmp_path: Path, n: int, vocab_size: int) -> None:
    documents = [[number + 1] * number for number in range(n)]
    store = TokenStore(write(tmp_path / "a.bin", documents, vocab_size))
    assert store.n_documents == n
    assert store.n_tokens == len(store.tokens)
    assert store.text_bytes == 2 * sum(map(len, documents))
    assert store.vocab_size == vocab_size
    for number, document in enumerate(documents):
        start, end = store.offsets[number : number + 2].tolist()
        assert store.tokens[start:end].tolist() == [*document, 0]


def test_separators_are_documents_and_one(tmp_path: Path) -> None:
    store = TokenStore(write(tmp_path / "a.bin"))
    assert store.tokens.tolist() == [0, 5, 6, 7, 0, 0, 8, 0, 9, 10, 0]
    assert (store.tokens == 0).sum() == store.n_documents + 1


def test_the_width_follows_the_vocabulary(tmp_path: Path) -> None:
    assert token_dtype(65_536) == np.uint16
    assert token_dtype(65_537) == np.uint32
    store = TokenStore(write(tmp_path / "a.bin", [[70_000, 65_535]], 70_001))
    assert store.tokens.tolist() == [0, 70_000, 65_535, 0]


def test_an_id_outside_of_the_vocabulary_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    for token in (300, 70_000, -1):
        with pytest.raises(ValueError, match="outside of the vocabulary of 300"):
            write(tmp_path / "a.bin", [[1], [token]])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_store_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin")
    whole = path.read_bytes()
    for content, message in [
        (whole[:-1], "is damaged .* instead of"),
        (whole[:80], "is damaged"),
        (whole + b"x", "is damaged"),
        (whole[:20], "is not a token store"),
        (b"", "is not a token store"),
        (b"x" * len(whole), "is not a token store"),
        (whole[:8] + b"\x63\0\0\0" + whole[12:], "has version 99"),
        (whole[:12] + b"\x04\0\0\0" + whole[16:], "is damaged"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"a\.bin {message}.*delete its folder"):
            TokenStore(path)
    with pytest.raises(DataError, match=r"cannot open the token store .*nowhere"):
        TokenStore(tmp_path / "nowhere")


def test_nothing_lies_under_the_final_name_before_the_end(tmp_path: Path) -> None:
    def interrupted() -> None:
        with StoreWriter(tmp_path / "a.bin", vocab_size=300, end=0) as writer:
            writer.write(np.array([1, 2]), 2)
            assert not (tmp_path / "a.bin").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_it_pickles_as_its_path(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "a.bin", vocab_size=300, end=0) as writer:
        writer.write(np.ones(100_000, dtype=np.int64), 1)
    store = TokenStore(tmp_path / "a.bin")
    assert len(pickle.dumps(store)) < 1000
    assert pickle.loads(pickle.dumps(store)).n_tokens == store.n_tokens
