"""Digests of input files, remembered by their size and times so that unchanged large files are not read again."""

import contextlib
import errno
import json
import os
import stat
import time
from pathlib import Path

import xxhash

MEMO = ".input-digests.json"
BLOCK = 4 << 20
SETTLED_NS = 2_000_000_000  # a file changed within this time of its reading may change again within one clock tick


class FileDigests:
    """128-bit xxh3 digests of file contents; the path takes no part, so a moved file keeps its digest.

    The memo in `cache_dir` is keyed by path and trusted only where size, inode, mtime and ctime are all unchanged.
    """

    def __init__(self, cache_dir: Path) -> None:
        self.path = cache_dir / MEMO
        try:
            memo = json.loads(self.path.read_text())
        except (OSError, ValueError):
            memo = {}
        self.memo: dict[str, list[int | str]] = memo if isinstance(memo, dict) else {}
        self.changed = False

    def digest(self, path: Path) -> str:
        """32 hexadecimal digits. Raises OSError where the file cannot be read, or is a pipe, which might never end."""
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe, a device or a folder, not a file", str(path))
        key = str(path.absolute())
        state = [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
        known = self.memo.get(key)
        if known is not None and known[:4] == state:
            return str(known[4])
        hasher = xxhash.xxh3_128()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                hasher.update(block)
        digest = hasher.hexdigest()
        if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > SETTLED_NS:
            self.memo[key] = [*state, digest]
            self.changed = True
        return digest

    def recall(self, name: str) -> str | None:
        """What `remember` was last told under this name, in this process or an earlier one."""
        known = self.memo.get(name)
        return str(known[0]) if known else None

    def remember(self, name: str, digest: str) -> str:
        """Keep the digest of something that is no file, and give it back."""
        if self.recall(name) != digest:
            self.memo[name] = [digest]
            self.changed = True
        return digest

    def save(self) -> None:
        """Write the memo if it grew. It only saves time, so a folder that cannot be written is no error here."""
        if not self.changed:
            return
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(self.memo))
            os.replace(partial, self.path)
            self.changed = False
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
