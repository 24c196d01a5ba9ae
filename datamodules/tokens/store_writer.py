"""Writing token stores: one file, or several where there are many tokens (datamodules/tokens/store.py)."""

import os
from array import array
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash

from datamodules.tokens.store import DIGEST, HEADER, MAGIC, SHARD_MAGIC, VERSION, shard_path, token_dtype


class StoreWriter:
    """Writes documents of tokens one after the other, opened by one `end` token and each followed by one.

    The files appear under their names when the writer is closed without an exception; before that they have temporary
    ones.

    Args:
        path: of the store.
        vocab_size: number of ids.
        end: the id between documents.
        shard_tokens: most tokens in one file; None for any number.
    """

    def __init__(self, path: Path, *, vocab_size: int, end: int, shard_tokens: int | None = None) -> None:
        self.path = path
        self.vocab_size = vocab_size
        self.dtype = token_dtype(vocab_size)
        self.end = np.array([end], dtype=self.dtype)
        self.offsets = array("Q", [1])
        self.in_document = 0  # tokens of a document that has not ended
        self.text_bytes = 0
        self.shard_tokens = shard_tokens
        self.partials: list[Path] = []
        self.in_file = 0  # tokens of the file that is being written

    @property
    def n_tokens(self) -> int:
        return self.offsets[-1]

    @property
    def n_documents(self) -> int:
        return len(self.offsets) - 1

    def write(self, tokens: np.ndarray, text_bytes: int) -> None:
        """Append one document (integers [n]) that stands for so many bytes of text.

        Raises:
            ValueError: for an id outside of the vocabulary.
        """
        self.append(tokens)
        self.end_document(text_bytes)

    def append(self, tokens: np.ndarray) -> None:
        """Append a part of a document, as `write` does a whole one."""
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise ValueError(f"token {int(tokens.max())} is outside of the vocabulary of {self.vocab_size}")
        self._put(tokens.astype(self.dtype))
        self.in_document += tokens.size

    def end_document(self, text_bytes: int) -> None:
        """End the document whose parts have been appended; they stand for so many bytes of text."""
        self._put(self.end)
        self.offsets.append(self.offsets[-1] + self.in_document + 1)
        self.in_document = 0
        self.text_bytes += text_bytes

    def _put(self, tokens: np.ndarray) -> None:
        most = self.shard_tokens
        while most is not None and self.in_file + len(tokens) > most:
            first, tokens = tokens[: most - self.in_file], tokens[most - self.in_file :]
            self._write(first)
            self._end_shard()
            self._begin_file()
        self._write(tokens)

    def _write(self, tokens: np.ndarray) -> None:
        content = tokens.tobytes()
        self.file.write(content)
        self.digest.update(content)
        self.in_file += len(tokens)

    def _begin_file(self) -> None:
        partial = self.path.with_name(f".{self.path.name}.{len(self.partials)}.{os.getpid()}.partial")
        self.partials.append(partial)
        self.file = partial.open("wb")
        self.file.write(bytes(HEADER.size))
        self.digest, self.in_file = xxhash.xxh3_64(), 0

    def _end_shard(self) -> None:
        """A shard ends with the digest of its tokens, by which whoever fetches it knows that it is whole."""
        self.file.write(DIGEST.pack(self.digest.intdigest()))
        self._end_file(SHARD_MAGIC, self.in_file)

    def _end_file(self, magic: bytes, n_tokens: int) -> None:
        self.file.seek(0)
        counts = (self.n_documents, self.text_bytes, self.shard_tokens or 0) if magic == MAGIC else (0, 0, 0)
        if len(self.partials) == 1:
            counts = (*counts[:2], 0)  # all in one file
        self.file.write(HEADER.pack(magic, VERSION, self.dtype.itemsize, self.vocab_size, n_tokens, *counts))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def __enter__(self) -> "StoreWriter":
        self._begin_file()
        self._write(self.end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                self.file.close()
                return
            if len(self.partials) > 1:
                self._end_shard()
                self._begin_file()
            else:
                self.file.write(bytes(-self.n_tokens * self.dtype.itemsize % 8))
            self.file.write(np.asarray(self.offsets, dtype="<u8").tobytes())
            self._end_file(MAGIC, self.n_tokens)
            *shards, whole = self.partials
            for number, partial in enumerate(shards):
                os.replace(partial, shard_path(self.path, number))
            os.replace(whole, self.path)
        finally:
            for partial in self.partials:
                partial.unlink(missing_ok=True)
