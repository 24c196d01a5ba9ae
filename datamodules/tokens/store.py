"""Flat files of tokens, mapped into memory.

Layout, little-endian: a header of 64 bytes; the tokens as uint16 or uint32; zeros up to a multiple of 8 bytes;
n_documents + 1 offsets as uint64, where document d is tokens[offsets[d] : offsets[d + 1]], its end token included.
"""

import os
import struct
from array import array
from pathlib import Path
from types import TracebackType

import numpy as np

from datamodules.errors import DataError

MAGIC = b"LABYTOKS"
VERSION = 1
HEADER = struct.Struct("<8sIIQQQQ16x")  # magic, version, bytes a token, vocabulary, tokens, documents, text bytes
REMEDY = "delete its folder and run again: it is then made anew"


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 for up to 65,536 tokens, else uint32: an id never wraps."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class StoreWriter:
    """Writes documents of tokens one after the other, opened by one `end` token and each followed by one.

    The file appears under its name when the writer is closed without an exception; before that it has a temporary one.
    """

    def __init__(self, path: Path, *, vocab_size: int, end: int) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self.vocab_size = vocab_size
        self.dtype = token_dtype(vocab_size)
        self.end = np.array([end], dtype=self.dtype)
        self.offsets = array("Q", [1])
        self.in_document = 0  # tokens of a document that has not ended
        self.text_bytes = 0

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
        self.file.write(tokens.astype(self.dtype).tobytes())
        self.in_document += tokens.size

    def end_document(self, text_bytes: int) -> None:
        """End the document whose parts have been appended; they stand for so many bytes of text."""
        self.file.write(self.end.tobytes())
        self.offsets.append(self.offsets[-1] + self.in_document + 1)
        self.in_document = 0
        self.text_bytes += text_bytes

    def __enter__(self) -> "StoreWriter":
        self.file = self.partial.open("wb")
        self.file.write(bytes(HEADER.size))
        self.file.write(self.end.tobytes())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.file.write(bytes(-self.n_tokens * self.dtype.itemsize % 8))
                self.file.write(np.asarray(self.offsets, dtype="<u8").tobytes())
                self.file.seek(0)
                self.file.write(
                    HEADER.pack(
                        MAGIC,
                        VERSION,
                        self.dtype.itemsize,
                        self.vocab_size,
                        self.n_tokens,
                        self.n_documents,
                        self.text_bytes,
                    )
                )
                self.file.flush()
                os.fsync(self.file.fileno())
            self.file.close()
            if kind is None:
                os.replace(self.partial, self.path)
        finally:
            self.partial.unlink(missing_ok=True)


class TokenStore:
    """A store opened for reading; pickles as its path, so that workers map the file themselves.

    Attributes:
        tokens: uint16 or uint32 [n_tokens], mapped from the file.
        offsets: uint64 [n_documents + 1], mapped too.
        text_bytes: bytes of the raw text that the tokens stand for, special tokens left out.

    Raises:
        DataError: where the file is missing, damaged or of another kind.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as file:
                header = file.read(HEADER.size)
        except OSError as error:
            raise DataError(f"cannot open the token store {self.path} ({error.strerror}); {REMEDY}") from error
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise DataError(f"{self.path} is not a token store; {REMEDY}")
        _, version, width, self.vocab_size, self.n_tokens, self.n_documents, self.text_bytes = HEADER.unpack(header)
        if version != VERSION:
            raise DataError(f"the token store {self.path} has version {version} instead of {VERSION}; {REMEDY}")
        dtype = token_dtype(self.vocab_size)
        offsets_at = HEADER.size + self.n_tokens * width + -self.n_tokens * width % 8
        expected = offsets_at + 8 * (self.n_documents + 1)
        if width != dtype.itemsize or size != expected:
            raise DataError(f"the token store {self.path} is damaged ({size} bytes instead of {expected}); {REMEDY}")
        self.tokens = np.memmap(self.path, dtype=dtype, mode="r", offset=HEADER.size, shape=(self.n_tokens,))
        self.offsets = np.memmap(self.path, dtype="<u8", mode="r", offset=offsets_at, shape=(self.n_documents + 1,))

    def __reduce__(self) -> tuple[type["TokenStore"], tuple[Path]]:
        return TokenStore, (self.path,)
