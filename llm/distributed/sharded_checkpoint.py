"""Checkpoints to which every process writes its part, and from which each takes its part."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import distributed
from torch.distributed.checkpoint import CheckpointException, FileSystemWriter
from torch.distributed.tensor import DTensor

from llm.checkpoint import read_checkpoint
from llm.checkpoint_folder import (
    MANIFEST,
    SKELETON,
    digest,
    is_folder_checkpoint,
    read_folder,
    read_tensors,
    taken_apart,
)
from llm.checkpoint_io import BackgroundCheckpointIO, sync_folder, temporary_name
from llm.model.parts import part_of

_OPENED_FROM = "opened from"
_CUT = ("state_dict", "optimizer_states")  # what each process takes its part of


class ShardedWriter:
    """Writes folders beside the training, through the thread of a BackgroundCheckpointIO.

    The processes agree on what each writes over a gloo group of their own, so nothing of it gets in the way of
    training's collectives.
    """

    def __init__(self, checkpoint_io: Any) -> None:
        assert isinstance(checkpoint_io, BackgroundCheckpointIO)
        self.io = checkpoint_io
        self.group = distributed.new_group(backend="gloo")

    def save(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Copy this process's parts, and begin to write them; errors are those of `io.pending`."""
        contents = self.io.copied(checkpoint)
        self.io.submit(partial(_write, contents, path, self.group))


def _write(contents: dict[str, Any], path: Path, group: Any) -> None:
    """Write a folder under a temporary name, all processes of `group` together; sync and rename it."""
    rank = distributed.get_rank(group)
    folder = temporary_name(path)
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
    _together(group, lambda: folder.mkdir(parents=True) if rank == 0 else None)
    skeleton, tensors = taken_apart(contents)
    try:
        dcp.save(tensors, storage_writer=FileSystemWriter(folder, sync_files=True), process_group=group)
    except CheckpointException as error:
        _give_up(folder, rank)
        found = [_cause(each) for each in error.failures.values()]
        raise next((each for each in found if isinstance(each, OSError)), found[0]) from None
    own = sorted(folder.glob(f"__{rank}_*")) + ([folder / ".metadata"] if rank == 0 else [])

    def describe() -> dict[str, tuple[int, str]]:
        if rank == 0:
            with (folder / SKELETON).open("wb") as file:
                torch.save(skeleton, file)
                os.fsync(file.fileno())
            own.append(folder / SKELETON)
        return {file.name: (file.stat().st_size, digest(file)) for file in own}

    def finish() -> None:
        if rank == 0:
            files = {name: entry for part in described for name, entry in part.items()}
            with (folder / MANIFEST).open("w") as file:
                json.dump({"files": files}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(folder)
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(folder, path)
            sync_folder(path.parent)

    try:
        described = _together(group, describe)
        _together(group, finish)
    except OSError:
        _give_up(folder, rank)
        raise


def _together(group: Any, work: Callable[[], Any]) -> list[Any]:
    """What `work` gave in each process; OSError in all of them where it failed in one."""
    outcome: Any = None
    try:
        outcome = work()
    except OSError as error:
        outcome = error
    outcomes = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(outcomes, outcome, group=group)
    for each in outcomes:
        if isinstance(each, OSError):
            raise each
    return outcomes


def _give_up(folder: Path, rank: int) -> None:
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)


def _cause(failure: Any) -> BaseException:
    """The innermost error of what torch wraps with its traceback."""
    error = failure[0] if isinstance(failure, tuple) else failure
    while isinstance(error, BaseException) and (error.__cause__ or error.__context__) is not None:
        error = error.__cause__ or error.__context__
    assert isinstance(error, BaseException)
    return error


# ---- loading --------------------------------------------------------------------------------------------------------


def opened(path: Path) -> dict[str, Any]:
    """A checkpoint whose weights and optimizer states are not read yet; UserError where there is none."""
    if not is_folder_checkpoint(path):
        return read_checkpoint(path)  # mapped into memory
    return {**read_folder(path, without=_CUT), _OPENED_FROM: str(path)}


def load_shards(checkpoint: Mapping[str, Any], place: tuple[Any, ...], target: dict[Any, Any]) -> None:
    """Fill the tensors of `target`, this process's parts, from what an `opened` checkpoint has at `place`."""
    _, tensors = taken_apart(target, place)
    if _OPENED_FROM in checkpoint:
        read_tensors(Path(checkpoint[_OPENED_FROM]), tensors)
        return
    for part in place:
        checkpoint = checkpoint[part]
    _, saved = taken_apart(checkpoint, place)
    with torch.no_grad():
        for key, tensor in tensors.items():
            whole = saved[key].to(tensor.device)
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            local.copy_(part_of(whole, tensor))
