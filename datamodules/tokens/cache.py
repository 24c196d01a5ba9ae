"""Files of a bucket, or of anything that fsspec opens, kept in a folder of bounded size."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import xxhash

from datamodules.errors import DataError

try:
    import fcntl
except ImportError:  # not on Windows: there, two processes may fetch the same file twice
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

TRIES, PAUSE = 4, 0.5  # of a transfer that fails; seconds before the second try, doubled each time
PARTIAL = ".partial"
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "cloud", "gcs": "cloud"}  # by protocol, what to install


class RemoteFiles:
    """The files under a URL, fetched whole into a folder that all processes of a machine share.

    The folder never holds more than `most_bytes`: before a file is fetched, those that were not used for the longest
    time make room. What a process has mapped goes on to be there for it. A file appears under its name when it is
    complete, has the size that was expected, and passed its check.

    Args:
        url: of the folder, such as `s3://bucket/tokens-0123456789abcdef`.
        cache_dir: in which the folder of this URL lies.
        most_bytes: that the folder may take.

    Raises:
        DataError: what is named cannot be had, in one sentence.
    """

    def __init__(self, url: str, cache_dir: Path, most_bytes: int) -> None:
        self.url, self.cache_dir, self.most_bytes = url.rstrip("/"), cache_dir, most_bytes
        self.folder = cache_dir / f"remote-{xxhash.xxh3_64_hexdigest(self.url.encode())}"
        self._system: Any = None
        self._process = -1  # which opened `_system`: a connection is each process's own, also of one that was forked

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_system": None}

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of a file, without the rest of it."""
        cached = self.folder / name
        if cached.is_file():
            with cached.open("rb") as file:
                return file.read(size)
        content: bytes = self._tried(name, lambda system, path: system.cat_file(path, start=0, end=size))
        return content

    def read(self, name: str) -> bytes:
        """A small file, whole."""
        content: bytes = self._tried(name, lambda system, path: system.cat_file(path))
        return content

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._tried(name, lambda system, path: system.exists(path)))

    def local(self, name: str, size: int | None = None, check: Callable[[Path], str | None] | None = None) -> Path:
        """A file's copy here, fetched if it is not there yet."""
        path = self.folder / name
        if self._is_used(path):
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / f".{name}.lock"):
            if self._is_used(path):  # fetched by another process meanwhile
                return path
            if size is None:
                size = int(self._tried(name, lambda system, remote: system.size(remote)))
            partial = self._reserve(name, size)
            try:
                self._tried(name, lambda system, remote: self._fetch(system, remote, partial, size, check))
                with self._room():  # or one who counts would find it under neither name
                    os.replace(partial, path)
            finally:
                with self._room():
                    partial.unlink(missing_ok=True)
        return path

    def _is_used(self, path: Path) -> bool:
        try:
            os.utime(path)  # the time of its last use, by which room is made
        except FileNotFoundError:
            return False
        return True

    def _reserve(self, name: str, size: int) -> Path:
        """Make room for a file, and take it, so that no other process gives it away."""
        if size > self.most_bytes:
            raise DataError(
                f"{self.url}/{name} has {size:,} bytes, more than cache_bytes ({self.most_bytes:,}): raise it"
            )
        partial = self.folder / f".{name}.{os.getpid()}{PARTIAL}"
        with self._room():
            self._remove_stale()
            held = {path: path.stat() for path in self.folder.iterdir() if not path.name.endswith(".lock")}
            total = sum(status.st_size for status in held.values())
            for path, status in sorted(held.items(), key=lambda item: item[1].st_mtime_ns):
                if total + size <= self.most_bytes:
                    break
                if not path.name.endswith(PARTIAL):
                    path.unlink(missing_ok=True)
                    total -= status.st_size
            if total + size > self.most_bytes:
                raise DataError(
                    f"cache_bytes ({self.most_bytes:,}) has no room for {self.url}/{name} beside what other processes "
                    "are fetching: raise it"
                )
            with partial.open("wb") as file:
                file.truncate(size)
        return partial

    def _room(self) -> contextlib.AbstractContextManager[None]:
        """Alone in counting, making and taking room."""
        return _locked(self.folder / ".room.lock")

    def _remove_stale(self) -> None:
        """Drop what processes that are no longer there had begun to fetch."""
        for path in self.folder.glob(f".*{PARTIAL}"):
            process = int(path.name.removesuffix(PARTIAL).rpartition(".")[2])
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                path.unlink(missing_ok=True)
            except PermissionError:
                pass

    def _fetch(
        self, system: Any, remote: str, partial: Path, size: int, check: Callable[[Path], str | None] | None
    ) -> None:
        system.get_file(remote, str(partial))
        found = partial.stat().st_size
        problem = f"it has {found:,} bytes instead of {size:,}" if found != size else check(partial) if check else None
        if problem:
            raise _DamagedError(problem)

    def _file_system(self) -> Any:
        if self._system is None or self._process != os.getpid():
            self._system, _ = fsspec.core.url_to_fs(self.url)
            self._process = os.getpid()
        return self._system

    def _tried(self, name: str, work: Callable[[Any, str], Any]) -> Any:
        """What `work(file system, path)` gives, tried again where it fails in a way that may pass."""
        where = f"{self.url}/{name}"
        for attempt in range(TRIES):
            try:
                system = self._file_system()
                return work(system, system._strip_protocol(where))
            except ImportError as error:
                extra = EXTRAS.get(self.url.partition("://")[0])
                advice = f"pip install 'labyrinth-llm[{extra}]'" if extra else f"install it ({error})"
                raise DataError(f"{self.url} needs a package that is not installed: {advice}") from error
            except FileNotFoundError as error:
                raise DataError(f"there is no {where}: name a folder of prepared tokens in tokens") from error
            except ValueError as error:
                raise DataError(f"{self.url} cannot be opened ({error})") from error
            except Exception as error:  # each file system has kinds of its own
                if attempt == TRIES - 1 or isinstance(error, PermissionError) or "credentials" in str(error).lower():
                    remedy = (
                        "upload that file again"
                        if isinstance(error, _DamagedError)
                        else "check the address, the network and the credentials"
                    )
                    reason = " ".join(str(error).split())[:200] or type(error).__name__
                    raise DataError(f"cannot read {where} ({reason}): {remedy}") from error
                log.warning("%s: %s; trying again", where, " ".join(str(error).split())[:200])
                time.sleep(PAUSE * 2**attempt)
        raise AssertionError


class _DamagedError(Exception):
    """A file did not arrive as it should be."""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes of this machine; the system drops the lock with its process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if fcntl is not None:  # by name: to close it would leave the lock to a worker that was forked meanwhile
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
