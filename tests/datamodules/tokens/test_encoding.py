import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.text.tokenizer import Tokenizer
from datamodules.text.training import train_bpe
from datamodules.tokens import encoding
from datamodules.tokens.encoding import write_store
from datamodules.tokens.store import TokenStore

TOKENIZER = Tokenizer(train_bpe(["a stitch in time saves nine, naïve 漢字\n" * 9], 290))
TEXTS = ["", "one document", "naïve 漢字 👩", "long words " * 9000, "x" * 30_000, "", "the end"]


def batches(texts: list[str], size: int) -> list[pa.RecordBatch]:
    return [pa.record_batch({"text": texts[at : at + size]}) for at in range(0, len(texts), size)]


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("at_once", [1, 1 << 13, 100_000, 2 << 20])
def test_the_store_holds_the_tokens_of_each_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, at_once: int
) -> None:
    monkeypatch.setattr(encoding, "ENCODED_CHARACTERS", at_once)
    counts = write_store(tmp_path / "store.bin", TOKENIZER, batches(TEXTS, size))
    store = TokenStore(tmp_path / "store.bin")
    ids = TOKENIZER.encode_batch(TEXTS)
    text_bytes = sum(len(text.encode()) for text in TEXTS)
    text_tokens = sum(map(len, ids))
    assert store.tokens[0] == TOKENIZER.end_of_text
    for document, expected in enumerate(ids):
        found = store.tokens[store.offsets[document] : store.offsets[document + 1]]
        assert np.array_equal(found, [*expected, TOKENIZER.end_of_text])
    assert counts == {
        "documents": len(TEXTS),
        "tokens": 1 + text_tokens + len(TEXTS),
        "text_bytes": text_bytes,
        "bytes_per_token": round(text_bytes / text_tokens, 4),
    }
    assert store.text_bytes == text_bytes


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text()), st.integers(1, 5))
def test_batches_do_not_matter(tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int) -> None:
    folder = tmp_path_factory.mktemp("store")
    write_store(folder / "one.bin", TOKENIZER, batches(texts, max(1, len(texts))))
    write_store(folder / "many.bin", TOKENIZER, batches(texts, size))
    assert (folder / "one.bin").read_bytes() == (folder / "many.bin").read_bytes()


def test_no_documents(tmp_path: Path) -> None:
    counts = write_store(tmp_path / "store.bin", TOKENIZER, [])
    assert counts == {"documents": 0, "tokens": 1, "text_bytes": 0, "bytes_per_token": 0.0}


CODE = """
import sys
from pathlib import Path
import pyarrow as pa
from datamodules.text.tokenizer import Tokenizer
from datamodules.tokens.encoding import write_store

def peak():
    # Not getrusage: a new process starts with the peak of the one that made it.
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

folder, batches, documents, length = Path(sys.argv[1]), *map(int, sys.argv[2:])
tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
write_store(folder / "first.bin", tokenizer, [pa.record_batch({"text": ["a stitch in time " * 250_000]})])
before = peak()
made = (pa.record_batch({"text": ["saves nine " * length] * documents}) for _ in range(batches))
write_store(folder / "store.bin", tokenizer, made)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(("batches", "documents", "length", "limit"), [(100, 100, 400, 16e6), (1, 1, 4_000_000, 170e6)])
def test_memory_does_not_grow_with_the_corpus(
    tmp_path: Path, batches: int, documents: int, length: int, limit: float
) -> None:
    """44 MB of text in many batches; and as one document, which is there three times: made, in Arrow, and taken out."""
    (tmp_path / "tokenizer.json").write_text(TOKENIZER.to_str(), encoding="utf-8")
    command = [sys.executable, "-c", CODE, str(tmp_path), *map(str, (batches, documents, length))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < limit
