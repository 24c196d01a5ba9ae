"""Flat files of tokens, mapped into memory.

A store of one file, little-endian: a header of 64 bytes; the tokens as uint16 or uint32; zeros up to a multiple of 8
bytes; n_documents + 1 offsets as uint64, where document d is tokens[offsets[d] : offsets[d + 1]], its end token
included. Of many tokens the header says how many a file has: `name.bin` then holds header and offsets alone, and the
running text lies cut into `name-00000.bin` and so on, each a header, its tokens, and the xxh3 digest of these.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import xxhash

from datamodules.errors import DataError

MAGIC, SHARD_MAGIC = b"LABYTOKS", b"LABYPART"
VERSION = 1
HEADER = struct.Struct("<8sIIQQQQQ8x")  # magic, version, bytes a token, vocabulary, tokens, documents, bytes, a shard's
DIGEST = struct.Struct("<Q")
REMEDY = "delete its folder and run again: it is then made anew"
# Files mapped at once. One that was fetched takes room on the disk for as long, also after its name was removed.
OPEN_SHARDS, OPEN_FETCHED_SHARDS = 4096, 16
OPEN_TRIES = 10  # of a file that may be removed between being fetched and being mapped


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 for up to 65,536 tokens, else uint32: an id never wraps."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def shard_path(path: Path, number: int) -> Path:
    """The file of a store's shard."""
    return path.with_name(f"{path.stem}-{number:05}{path.suffix}")


class Files(Protocol):
    """Where a store's files come from: they lie in a folder, or are fetched to one (datamodules/tokens/cache.py)."""

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of a file."""

    def read(self, name: str) -> bytes:
        """A small file, whole."""

    def local(self, name: str, size: int | None = None, check: Callable[[Path], str | None] | None = None) -> Path:
        """A file of this machine; where it must be fetched, of `size` bytes and with nothing that `check` names."""


class Folder:
    """Files that lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def head(self, name: str, size: int) -> bytes:
        """See Files."""
        with (self.folder / name).open("rb") as file:
            return file.read(size)

    def read(self, name: str) -> bytes:
        """See Files."""
        return (self.folder / name).read_bytes()

    def local(self, name: str, size: int | None = None, check: Callable[[Path], str | None] | None = None) -> Path:
        """See Files; nothing is checked here."""
        return self.folder / name


class TokenStore:
    """A store opened for reading; pickles as its path, so that workers map the files themselves.

    To open one takes as long however large it is: shards are mapped, or fetched, when a token of theirs is read.

    Attributes:
        tokens: uint16 or uint32 [n_tokens]: mapped from the file, or `ShardedTokens`.
        offsets: uint64 [n_documents + 1], mapped too.
        text_bytes: bytes of the raw text that the tokens stand for, special tokens left out.

    Args:
        path: of its file.
        files: where that and its shards come from; the folder of `path` if not given.

    Raises:
        DataError: where a file is missing, damaged or of another kind.
    """

    def __init__(self, path: str | Path, files: Files | None = None) -> None:
        self.path = Path(path)
        self.files = files or Folder(self.path.parent)
        try:
            header = self.files.head(self.path.name, HEADER.size)
        except OSError as error:
            raise DataError(f"cannot open the token store {self.path} ({error.strerror}); {REMEDY}") from error
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise DataError(f"{self.path} is not a token store; {REMEDY}")
        _, version, width, self.vocab_size, self.n_tokens, self.n_documents, self.text_bytes, self.shard_tokens = (
            HEADER.unpack(header)
        )
        if version != VERSION:
            raise DataError(f"the token store {self.path} has version {version} instead of {VERSION}; {REMEDY}")
        self.dtype = token_dtype(self.vocab_size)
        if width != self.dtype.itemsize:
            raise DataError(f"the token store {self.path} is damaged (tokens of {width} bytes); {REMEDY}")
        self._views: dict[int, np.ndarray] = {}
        self._offsets: np.ndarray | None = None
        if self.shard_tokens:
            self.tokens: np.ndarray | ShardedTokens = ShardedTokens(
                self.path, self.files, self.n_tokens, self.shard_tokens, self.dtype
            )
        else:
            self.tokens = np.memmap(
                self._whole(), dtype=self.dtype, mode="r", offset=HEADER.size, shape=(self.n_tokens,)
            )

    @property
    def offsets(self) -> np.ndarray:
        """Mapped when they are first asked for: of a store that is fetched, running text needs none."""
        if self._offsets is None:
            shape = (self.n_documents + 1,)
            self._offsets = np.memmap(self._whole(), dtype="<u8", mode="r", offset=self._offsets_at(), shape=shape)
        return self._offsets

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The `length` tokens from each of `starts`, int64 [B], on: a copy, [B, length]."""
        if isinstance(self.tokens, ShardedTokens):
            return self.tokens.windows(starts, length)
        if not len(starts):
            return np.empty((0, length), self.dtype)
        if length not in self._views:
            self._views[length] = np.lib.stride_tricks.sliding_window_view(self.tokens, length)
        return self._views[length][starts]

    def _offsets_at(self) -> int:
        if self.shard_tokens:
            return HEADER.size
        return HEADER.size + self.n_tokens * self.dtype.itemsize + -self.n_tokens * self.dtype.itemsize % 8

    def _whole(self) -> Path:
        """The store's own file, of the size that its header says."""
        expected = self._offsets_at() + 8 * (self.n_documents + 1)
        path = self.files.local(self.path.name, expected)
        if path.stat().st_size != expected:
            raise DataError(
                f"the token store {path} is damaged ({path.stat().st_size} bytes instead of {expected}); {REMEDY}"
            )
        return path

    def __reduce__(self) -> tuple[type["TokenStore"], tuple[Path, Files]]:
        return TokenStore, (self.path, self.files)


class ShardedTokens:
    """The running text of a store that lies in several files; slices, and windows of it, are copies."""

    def __init__(self, path: Path, files: Files, n_tokens: int, shard_tokens: int, dtype: np.dtype) -> None:
        self.path, self.files = path, files
        self.n_tokens, self.shard_tokens, self.dtype = n_tokens, shard_tokens, dtype
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()
        self._most_open = OPEN_SHARDS if isinstance(files, Folder) else OPEN_FETCHED_SHARDS

    def __len__(self) -> int:
        return self.n_tokens

    def __getitem__(self, place: slice) -> np.ndarray:
        first, last, step = place.indices(self.n_tokens)
        if step != 1:
            raise ValueError("a slice of a sharded store goes token by token")
        parts = []
        for number in range(first // self.shard_tokens, -(-last // self.shard_tokens)):
            begin = number * self.shard_tokens
            parts.append(self.shard(number)[max(0, first - begin) : last - begin])
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """As `TokenStore.windows`."""
        out = np.empty((len(starts), length), self.dtype)
        # Row by row: to group them by file takes longer than to copy them.
        for row, start in enumerate(starts.tolist()):
            number, place = divmod(start, self.shard_tokens)
            shard = self.shard(number)
            inside = place + length <= len(shard)
            out[row] = shard[place : place + length] if inside else self[start : start + length]
        return out

    def shards_of(self, starts: np.ndarray, length: int) -> list[int]:
        """The numbers of the files that these windows read."""
        ends = np.minimum(starts + length, self.n_tokens) - 1
        return sorted({*(starts // self.shard_tokens).tolist(), *(ends // self.shard_tokens).tolist()})

    def fetch(self, number: int) -> Path:
        """The file of a shard, on this machine."""
        size = HEADER.size + self._size(number) * self.dtype.itemsize + DIGEST.size
        path = self.files.local(shard_path(self.path, number).name, size, check_shard)
        found = path.stat().st_size
        if found != size:
            raise DataError(f"{path} is damaged ({found} bytes instead of {size}); {REMEDY}")
        return path

    def shard(self, number: int) -> np.ndarray:
        """The tokens of one file, mapped; some stay mapped, also when their file is removed meanwhile."""
        for attempt in range(OPEN_TRIES):
            if number in self._open:
                break
            try:
                path = self.fetch(number)
                self._open[number] = np.memmap(path, self.dtype, "r", HEADER.size, (self._size(number),))
            except OSError as error:  # also where another process made room for a file of its own between the two
                if attempt == OPEN_TRIES - 1 or not isinstance(error, FileNotFoundError):
                    name = shard_path(self.path, number)
                    raise DataError(f"cannot read {name} ({error.strerror}); {REMEDY}") from error
        if len(self._open) > self._most_open:
            self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def _size(self, number: int) -> int:
        return min(self.shard_tokens, self.n_tokens - number * self.shard_tokens)


def check_shard(path: Path) -> str | None:
    """What is wrong with the file of a shard, by the digest at its end, or None."""
    content = np.memmap(path, np.uint8, "r")
    if len(content) < HEADER.size + DIGEST.size or content[: len(SHARD_MAGIC)].tobytes() != SHARD_MAGIC:
        return "it is no shard of a token store"
    (expected,) = DIGEST.unpack(content[-DIGEST.size :].tobytes())
    found = xxhash.xxh3_64_intdigest(content[HEADER.size : -DIGEST.size].data)
    return None if found == expected else "the digest of its tokens is wrong"
