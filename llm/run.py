"""The folder of a run: `runs/NAME/` with its configuration, metrics, checkpoints and samples."""

import logging
import os
import re
from pathlib import Path

from callbacks.checkpoints import BEST, checkpoints_by_step
from llm.checkpoint import damage
from llm.errors import UserError
from llm.ranks import launched_rank

log = logging.getLogger(__name__)

# The first process decides where a run lies; the processes that a strategy starts inherit it.
_ENVIRONMENT_KEY = "LABYRINTH_RUN"


def reserve_run_folder(runs: str | Path, name: str) -> Path:
    """Make and return `runs/name`, or `runs/name-2`, `-3`, ... where that exists: no run overwrites another."""
    if _ENVIRONMENT_KEY in os.environ:
        return Path(os.environ[_ENVIRONMENT_KEY])
    if launched_rank() > 0:
        return Path(runs) / name  # only rank 0 writes, into the folder that it tells the others
    if name in ("", ".", "..") or "/" in name or os.sep in name:
        raise UserError(f"--name {name!r} is no name of a folder; give one without slashes, and the place with --runs")
    number = 1
    while True:
        folder = Path(runs) / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        except OSError as error:
            raise UserError(
                f"cannot make the folder of the run, {folder}: {error.strerror}; grant access there, or choose "
                "another folder with --runs, another name with --name"
            ) from error
        os.environ[_ENVIRONMENT_KEY] = str(folder)
        return folder


def release_if_empty(folder: Path) -> None:
    """Give a reserved folder back when the run ended before it wrote anything."""
    os.environ.pop(_ENVIRONMENT_KEY, None)
    for path in (folder / "checkpoints", folder, folder.parent):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def newest_checkpoint(runs: str | Path, name: str, which: str) -> Path:
    """The `last` or `best` whole checkpoint of the newest run called `name` (or `name-2`, ...) in `runs`.

    A damaged last one is named, and the one before it taken.

    Raises:
        UserError: there is none, or the best one is damaged.
    """
    newest = newest_run(runs, name)
    if newest is None:
        raise UserError(
            f"--ckpt_path {which}: no run called {name!r} in {runs}/ has a checkpoint; give the path of a checkpoint, "
            "or leave --ckpt_path out to start a new run"
        )
    folder = newest / "checkpoints"
    if which == "best" and not (folder / BEST).exists():
        raise UserError(f"--ckpt_path best: {folder} has no {BEST}; give --ckpt_path last, or the path of a checkpoint")
    by_step = checkpoints_by_step(folder)
    candidates = [folder / BEST] if which == "best" else [by_step[step] for step in reversed(by_step)]
    for path in candidates:
        problem = damage(path)
        if problem is None:
            return path
        log.warning("%s is damaged (%s)%s", path, problem, "" if path == candidates[-1] else "; the one before is used")
    raise UserError(f"--ckpt_path {which}: no checkpoint in {folder} is whole; start a new run without --ckpt_path")


def newest_run(runs: str | Path, name: str) -> Path | None:
    """The folder of the run called `name`, `name-2`, ... whose checkpoints were written last, or None."""
    written = {
        folder: max(path.lstat().st_mtime for path in checkpoints.values())
        for folder in Path(runs).glob("*")
        if re.fullmatch(rf"{re.escape(name)}(-\d+)?", folder.name)
        and (checkpoints := checkpoints_by_step(folder / "checkpoints"))
    }
    return max(written, key=lambda folder: written[folder]) if written else None


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that `path` names: itself, or the best (else the last) one of a run's folder."""
    path = Path(path)
    newest = list(checkpoints_by_step(path / "checkpoints").values())[-1:]
    for candidate in (path / "checkpoints" / BEST, *newest, path):
        if candidate.is_file() or (candidate.is_dir() and candidate.suffix == ".ckpt"):
            return candidate
    raise UserError(f"no checkpoint at {path}: give a .ckpt, or the folder of a run that has checkpoints/{BEST}")
