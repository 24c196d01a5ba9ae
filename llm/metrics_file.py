"""`metrics.csv` of a run."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only


class _ContinuingWriter(ExperimentWriter):
    """Lightning's CSV writer, which deletes the file of an earlier run in the folder; this one goes on with it.

    What it has written is whole at every moment, but for the last line of a run that was killed.
    """

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = list(csv.DictReader(file).fieldnames or [])

    def rewind(self, step: int) -> None:
        """Drop the rows at and after `step`, which a resumed run will write again."""
        if Path(self.metrics_file_path).is_file():
            self._write_all([row for row in self._read() if int(row["step"]) < step])

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write_all(self._read())

    def _read(self) -> list[dict[str, str]]:
        with Path(self.metrics_file_path).open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [row for row in rows if None not in row.values()]  # a line that was cut off has too few values

    def _write_all(self, rows: list[dict[str, str]]) -> None:
        path = Path(self.metrics_file_path)
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
