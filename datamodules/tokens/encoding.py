"""Documents in, token stores out."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.text.tokenizer import Tokenizer, cut_for_encoding
from datamodules.tokens.store_writer import StoreWriter

VERSION = 1  # raised when the same documents and tokenizer give another store
ENCODED_CHARACTERS = 2 << 20  # given to the tokenizer at once: enough for all cores, little memory


def write_store(
    path: Path, tokenizer: Tokenizer, batches: Iterable[pa.RecordBatch], shard_tokens: int | None = None
) -> dict[str, int | float]:
    """Encode the `text` of record batches into a token store. Returns its counts.

    Memory holds one batch, and the tokens of some 2 Mi characters, however many batches there are or however long a
    document is.
    """
    with StoreWriter(
        path, vocab_size=tokenizer.vocab_size, end=tokenizer.end_of_text, shard_tokens=shard_tokens
    ) as writer:
        chunks: list[str] = []  # what the tokenizer would cut a document into, so that the cuts are the same
        text_bytes: list[int | None] = []  # of the document that ends with the chunk; None where it goes on
        size = 0
        for batch in batches:
            texts = batch.column("text")
            for text, length in zip(texts, pc.binary_length(texts).to_pylist(), strict=True):
                for chunk in cut_for_encoding(text.as_py()):
                    if size >= ENCODED_CHARACTERS:
                        _write(writer, tokenizer, chunks, text_bytes)
                        chunks, text_bytes, size = [], [], 0
                    chunks.append(chunk)
                    text_bytes.append(None)
                    size += len(chunk)
                text_bytes[-1] = length
        _write(writer, tokenizer, chunks, text_bytes)
    text_tokens = writer.n_tokens - writer.n_documents - 1
    return {
        "documents": writer.n_documents,
        "tokens": writer.n_tokens,
        "text_bytes": writer.text_bytes,
        "bytes_per_token": round(writer.text_bytes / text_tokens, 4) if text_tokens else 0.0,
    }


def _write(writer: StoreWriter, tokenizer: Tokenizer, chunks: list[str], text_bytes: list[int | None]) -> None:
    for tokens, length in zip(tokenizer.encode_batch(chunks), text_bytes, strict=True):
        writer.append(tokens)
        if length is not None:
            writer.end_document(length)
