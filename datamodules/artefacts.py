"""Folders of derived data, each named by the fingerprint of what made it.

An artefact is made under a temporary name, synced and renamed, so a folder under its final name is always complete.
What is complete is reused, what is not is made, and the log says which input or setting made the difference.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from datamodules.errors import DataError

try:
    import fcntl
except ImportError:  # not on Windows: there, two first runs at once make the same thing twice, and one of them wins
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
INPUTS = "inputs.json"  # apart from the manifest: with many input files it is large, and reuse must not read it
PARTIAL = ".partial"
LOCK = ".lock"
UNWRITABLE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST}
UNWRITABLE |= {errno.EFBIG, errno.EIO}
SHOWN_CHANGES = 5


@dataclass(frozen=True)
class Recipe:
    """What an artefact is made from: its name is a digest of all of this.

    `inputs` maps the name of each input to its digest, `settings` holds JSON primitives, and `version` is raised
    whenever the code that makes this kind of artefact makes something else from the same inputs.
    """

    kind: str
    version: int
    settings: dict[str, Any]
    inputs: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits."""
        canonical = json.dumps([self.kind, self.version, self.settings, self.inputs], sort_keys=True)
        return xxhash.xxh3_64_hexdigest(canonical.encode())

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.fingerprint}"


@dataclass(frozen=True)
class Artefact:
    """A complete folder, its manifest, and why it was made (empty where it was reused)."""

    folder: Path
    manifest: dict[str, Any]
    reason: str = ""

    @property
    def reused(self) -> bool:
        return not self.reason


def find(recipe: Recipe, cache_dir: Path) -> Artefact | None:
    """The complete artefact of this recipe, or None."""
    folder = cache_dir / recipe.name
    manifest = _read_json(folder / MANIFEST)
    if manifest is None or _damage(folder, manifest):
        return None
    return Artefact(folder, manifest)


def make(
    recipe: Recipe, cache_dir: Path, build: Callable[[Path], dict[str, Any]], *, reason: str | None = None
) -> Artefact:
    """Reuse the artefact of this recipe, or let `build(folder)` fill a folder and return what its manifest shall tell.

    Safe in several processes at once: the first one builds, the others wait for it. A caller that makes many of a kind
    finds the `reason` once, tells of it himself, and gives it.

    Raises:
        DataError: where the cache cannot be written; nothing is left behind then, nor after any other exception.
    """
    if found := find(recipe, cache_dir):
        if reason is None:
            log.info("%s: reused %s (inputs and settings are unchanged)", recipe.kind, found.folder)
        return found
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _lock(cache_dir, recipe.name, wait=True):
            if found := find(recipe, cache_dir):  # another process made it meanwhile
                log.info("%s: reused %s (another process has just made it)", recipe.kind, found.folder)
                return found
            if reason is None:
                reason = why(recipe, cache_dir)
                log.info("%s: making %s (%s)", recipe.kind, cache_dir / recipe.name, reason)
                remove_stale(cache_dir, recipe.name)
            return _build(recipe, cache_dir, build, reason)
    except OSError as error:
        if error.errno in UNWRITABLE or (error.errno == errno.ENOENT and not cache_dir.exists()):
            where = error.filename or cache_dir / recipe.name
            raise DataError(
                f"cannot write {where}: {os.strerror(error.errno)}; make room or grant access there, "
                "or choose another folder with cache_dir"
            ) from error
        raise


def _build(recipe: Recipe, cache_dir: Path, build: Callable[[Path], dict[str, Any]], reason: str) -> Artefact:
    final = cache_dir / recipe.name
    partial = cache_dir / f".{recipe.name}.{os.getpid()}{PARTIAL}"
    start = time.perf_counter()
    try:
        partial.mkdir()
        told = build(partial)
        files = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        manifest = {
            "kind": recipe.kind,
            "fingerprint": recipe.fingerprint,
            "version": recipe.version,
            "settings": recipe.settings,
            "files": files,
            "seconds": round(time.perf_counter() - start, 3),
            "made": time.time(),
            **told,
        }
        (partial / INPUTS).write_text(json.dumps(recipe.inputs, indent=0))
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2))
        for path in partial.iterdir():
            _sync(path)
        _sync(partial)
        if final.exists():  # only a damaged one: `find` did not accept it
            shutil.rmtree(final)
        try:
            os.rename(partial, final)
        except OSError:
            if (found := find(recipe, cache_dir)) is None:  # without locks another process may have been first
                raise
            return found
        _sync(cache_dir)
        return Artefact(final, manifest, reason)
    except FileNotFoundError as error:
        if partial.exists():
            raise
        raise DataError(
            f"{cache_dir} was removed or emptied while it was written to; run again, and leave it alone meanwhile"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def why(recipe: Recipe, cache_dir: Path) -> str:
    """The difference between this recipe and the newest artefact of its kind, in words."""
    if (manifest := _read_json(cache_dir / recipe.name / MANIFEST)) is not None:
        return f"the one there is damaged: {_damage(cache_dir / recipe.name, manifest)}"
    if (cache_dir / recipe.name).exists():
        return "the one there is damaged: it has no readable manifest"
    newest, manifest = None, None
    for folder in cache_dir.glob(f"{recipe.kind}-*"):
        found = _read_json(folder / MANIFEST)
        if found is not None and (manifest is None or found["made"] > manifest["made"]):
            newest, manifest = folder, found
    if newest is None or manifest is None:
        return "there is none yet"
    changes = []
    if manifest["version"] != recipe.version:
        changes.append(f"version of the code {manifest['version']} -> {recipe.version}")
    old, new = manifest["settings"], recipe.settings
    changes += [
        f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in sorted(old | new) if old.get(key) != new.get(key)
    ]
    before, after = _read_json(newest / INPUTS) or {}, recipe.inputs
    changes += _few("changed", [name for name in after if name in before and before[name] != after[name]])
    changes += _few("new", [name for name in after if name not in before])
    changes += _few("gone", [name for name in before if name not in after])
    return f"against {newest.name}: " + "; ".join(changes)


def _few(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    rest = f" and {len(names) - SHOWN_CHANGES} more" if len(names) > SHOWN_CHANGES else ""
    return [f"{what}: {', '.join(sorted(names)[:SHOWN_CHANGES])}{rest}"]


def _damage(folder: Path, manifest: dict[str, Any]) -> str:
    """What is wrong with the files that a manifest lists; empty where nothing is."""
    for name, size in manifest.get("files", {}).items():
        try:
            actual = (folder / name).stat().st_size
        except OSError:
            return f"{folder / name} is missing"
        if actual != size:
            return f"{folder / name} has {actual} bytes instead of {size}"
    return ""


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _sync(path: Path) -> None:
    """Force a file or a folder to the disk, so that a power cut after the rename finds all of it."""
    if os.name == "nt":  # which can sync neither a folder nor a file that is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(cache_dir: Path, own: str = "") -> None:
    """Remove what killed processes left: partial folders and locks that nobody holds."""
    if fcntl is None:
        return
    for path in cache_dir.glob(f".*{PARTIAL}"):
        name = path.name[1:].removesuffix(PARTIAL).rpartition(".")[0]
        if name == own:  # its lock is the caller's
            shutil.rmtree(path, ignore_errors=True)
            continue
        with contextlib.suppress(BlockingIOError), _lock(cache_dir, name, wait=False):
            shutil.rmtree(path, ignore_errors=True)
    for path in cache_dir.glob(f".*{LOCK}"):
        name = path.name[1:].removesuffix(LOCK)
        if name != own:
            with contextlib.suppress(BlockingIOError), _lock(cache_dir, name, wait=False):
                pass  # whoever gives it back removes it


@contextlib.contextmanager
def _lock(cache_dir: Path, name: str, *, wait: bool) -> Iterator[None]:
    """Hold the lock of one artefact. The system drops it with the process, so no stale lock can remain.

    Raises:
        BlockingIOError: where another process holds it and `wait` is false.
    """
    if fcntl is None:
        yield
        return
    path = cache_dir / f".{name}{LOCK}"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise
                log.info("%s: another process is making it; waiting", name)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:  # a network disk without locks
                log.debug("no lock on %s: %s", path, error)
                yield
                return
            if _is_still(path, descriptor):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                    fcntl.flock(descriptor, fcntl.LOCK_UN)  # or a process that was forked meanwhile would keep it
                return
            # its holder removed the file between our open and our lock: that lock guards nothing, so take a new one
        finally:
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether a path is still the file that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
