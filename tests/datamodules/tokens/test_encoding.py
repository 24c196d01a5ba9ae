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
import resource, sys
from pathlib import Path
import pyarrow as pa
from datamodules.text.tokenizer import Tokenizer
from datamodules.tokens.encoding import write_store

folder, documents, length = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
write_store(folder / "first.bin", tokenizer, [pa.record_batch({"text": ["a stitch in time " * 250_000]})])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = (pa.record_batch({"text": ["saves nine " * length] * 100}) for _ in range(documents // 100))
if documents == 1:
    made = [pa.record_batch({"text": ["saves nine " * length]})]
write_store(folder / "store.bin", tokenizer, made)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.parametrize(("documents", "length"), [(10_000, 400), (1, 4_000_000)])
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, documents: int, length: int) -> None:
    """44 MB of text, as many documents and as one: the second may take the text itself, twice."""
    (tmp_path / "tokenizer.json").write_text(TOKENIZER.to_str(), encoding="utf-8")
    command = [sys.executable, "-c", CODE, str(tmp_path), str(documents), str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    text = documents * length * 11
    assert int(done.stdout) < (2.6 * text if documents == 1 else 16e6)
