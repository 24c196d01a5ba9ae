"""Documents in, token stores out."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.text.tokenizer import Tokenizer
from datamodules.tokens.store import StoreWriter

VERSION = 1  # raised when the same documents and tokenizer give another store
ENCODED_BYTES = 2 << 20  # of text given to the tokenizer at once: enough for all threads, little memory


def write_store(path: Path, tokenizer: Tokenizer, batches: Iterable[pa.RecordBatch]) -> dict[str, int | float]:
    """Encode the `text` of record batches into a token store. Returns its counts."""
    with StoreWriter(path, vocab_size=tokenizer.vocab_size, end=tokenizer.end_of_text) as writer:
        for batch in batches:
            texts: list[str] = []
            size = 0
            for text in batch.column("text"):
                texts.append(text.as_py())
                size += len(texts[-1])
                if size >= ENCODED_BYTES:
                    _write(writer, tokenizer, texts)
                    texts, size = [], 0
            _write(writer, tokenizer, texts)
    text_tokens = writer.n_tokens - writer.n_documents - 1
    return {
        "documents": writer.n_documents,
        "tokens": writer.n_tokens,
        "text_bytes": writer.text_bytes,
        "bytes_per_token": round(writer.text_bytes / text_tokens, 4) if text_tokens else 0.0,
    }


def _write(writer: StoreWriter, tokenizer: Tokenizer, texts: list[str]) -> None:
    for text, tokens in zip(texts, tokenizer.encode_batch(texts), strict=True):
        writer.write(np.asarray(tokens), len(text) if text.isascii() else len(text.encode()))
