"""The folder of a run: `runs/NAME/` with its configuration, metrics, checkpoints and samples."""

import csv
import logging
import os
import re
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from callbacks.checkpoints import BEST, checkpoints_by_step
from llm.checkpoint import damage
from llm.errors import UserError

log = logging.getLogger(__name__)

# The first process decides where a run lies; the processes that a strategy starts inherit it.
_ENVIRONMENT_KEY = "LABYRINTH_RUN"


def reserve_run_folder(runs: str | Path, name: str) -> Path:
    """Make and return `runs/name`, or `runs/name-2`, `-3`, ... where that exists: no run overwrites another."""
    if _ENVIRONMENT_KEY in os.environ:
        return Path(os.environ[_ENVIRONMENT_KEY])
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) > 0:
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


class _ContinuingWriter(ExperimentWriter):
    """Lightning's CSV writer, which deletes the file of an earlier run in the folder; this one goes on with it."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = list(csv.DictReader(file).fieldnames or [])

    def rewind(self, step: int) -> None:
        """Drop the rows at and after `step`, which a resumed run will write again."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(path)


class MetricsFile(CSVLogger):
    """`metrics.csv` in the folder of the run; a resumed run goes on in the same file.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=50)

    @property
    def experiment(self) -> Any:
        """The writer (on rank 0)."""
        if self._experiment is None and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            Path(self.save_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _ContinuingWriter(self.save_dir)
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: the run's config.yaml holds them."""

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Forget what was logged at and after optimizer step `step`."""
        self.experiment.rewind(step)
