"""Writing checkpoints so that none is ever half there, beside the training and not in its way."""

import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.distributed.tensor import DTensor

from llm.checkpoint import read_checkpoint

log = logging.getLogger(__name__)


class BackgroundCheckpointIO(TorchCheckpointIO):
    """Copies what is to be saved, and writes the copy in a thread while training goes on.

    A checkpoint is written under a temporary name, synced and renamed: under its own name it is complete. One is
    written at a time; the next waits for it.

    Attributes:
        pending: the newest write, with its error if it failed; None before the first.

    Args:
        background: False writes at once, without a copy.
    """

    def __init__(self, background: bool = True) -> None:
        self.background = background
        self.pending: Future[None] | None = None
        self._snapshot = Snapshot()
        self._writer: ThreadPoolExecutor | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Take a copy of `checkpoint` and begin to write it; errors of writing are those of `pending`."""
        self.submit(partial(write_checkpoint, self.copied(checkpoint), Path(path)))

    def copied(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """What can be written while training goes on: a copy; `checkpoint` itself if nothing is in the background."""
        self.wait()
        copy: dict[str, Any] = self._snapshot.take(checkpoint) if self.background else checkpoint
        return copy

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` after the write that is under way, in the background or now."""
        self.wait()
        if self.background:
            self._writer = self._writer or ThreadPoolExecutor(1, "checkpoint")
            self.pending = self._writer.submit(job)
            return
        self.pending = Future()
        try:
            job()
            self.pending.set_result(None)
        except OSError as error:
            self.pending.set_exception(error)

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self.pending is not None:
            self.pending.exception()

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The contents of a checkpoint, tensors on the CPU."""
        return read_checkpoint(Path(path))

    def teardown(self) -> None:
        """Wait for the last write; the memory of the copy is given back."""
        self.wait()
        if self._writer is not None:
            self._writer.shutdown()
        self._writer, self._snapshot = None, Snapshot()


class Snapshot:
    """Copies of nested tensors in the CPU's memory, which is used again: to get new memory takes longer than to copy.

    A copy is overwritten by the next one.
    """

    def __init__(self) -> None:
        self._held: list[Tensor] = []
        self._used = 0

    def take(self, tree: Any) -> Any:
        """`tree` of dicts, lists and tuples with each tensor copied, and everything else as it is."""
        self._used = 0
        copied = self._copy(tree)
        del self._held[self._used :]
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # copies from a GPU were only begun
        return copied

    def _copy(self, value: Any) -> Any:
        if isinstance(value, DTensor):  # of which this process has a part
            part = self._copy(value.to_local())
            return DTensor.from_local(
                part, value.device_mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
            )
        if isinstance(value, Tensor):
            place = self._place(value)
            place.copy_(value.detach(), non_blocking=True)
            return place
        if isinstance(value, dict):
            return {key: self._copy(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(map(self._copy, value))
        return value

    def _place(self, like: Tensor) -> Tensor:
        held = self._held[self._used] if self._used < len(self._held) else None
        if held is None or held.shape != like.shape or held.dtype != like.dtype:
            held = torch.empty(like.shape, dtype=like.dtype, device="cpu", pin_memory=like.is_cuda)
            self._held[self._used : self._used + 1] = [held]
        self._used += 1
        return held


def write_checkpoint(contents: dict[str, Any], path: Path) -> None:
    """Write a checkpoint file under a temporary name, sync it, and rename it.

    Raises:
        OSError: where it cannot be written; what was there before is then still there, and nothing else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = temporary_name(path)
    try:
        with partial_path.open("wb") as file:
            try:
                torch.save(contents, file)
            except RuntimeError as error:  # how torch's writer tells of a full disk
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
            file.flush()
            os.fsync(file.fileno())
        if path.is_dir():  # of a run that was sharded then
            shutil.rmtree(path)
        os.replace(partial_path, path)
        sync_folder(path.parent)
    finally:
        partial_path.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """The name under which `path` is written until it is complete."""
    return path.with_name(f".{path.name}.partial")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
