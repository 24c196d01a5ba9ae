"""Where the work of a corpus is done: in this process, in several on this machine, or on a Ray cluster.

The one file that knows the engine, which is Daft. Work comes as tasks: objects that can be pickled, called without
arguments, and that write their own output under a name of their own, so that a task may be run again at any time.
"""

import json
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from datamodules.cores import available_cores
from datamodules.errors import DataError

log = logging.getLogger(__name__)

Task = Callable[[], dict[str, Any]]  # what comes back must be JSON

# Seconds that Daft's threads are given to end after a failure: a process that exits while they do is aborted.
GRACE = 1.0
ATTEMPTS = 3  # a worker that died (a node that went away, memory that ran out) is replaced this often


class TaskError(Exception):
    """A task raised what it should not have: an error in the program, with the traceback of its worker."""


@dataclass(frozen=True)
class Engine:
    """Runs tasks and yields what they return as each one ends.

    Args:
        kind: `local`, or `ray` for the cluster that `RAY_ADDRESS` names (or one started on this machine). All nodes
            of a cluster must see the inputs and the cache folder under the same paths.
        workers: tasks at once on this machine; None is one a core. With one, everything is done in this process. A
            cluster does one a core.

    Raises:
        DataError: for no workers; what a task raised as such, or that workers died again and again.
    """

    kind: Literal["local", "ray"] = "local"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise DataError(f"workers is {self.workers}; it can be 1 or more")

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number of the task, what it returned), in the order in which they end."""
        workers = min(self.workers or available_cores(), len(tasks))
        if self.kind == "local" and workers <= 1:
            yield from ((number, task()) for number, task in enumerate(tasks))
            return
        left = dict(enumerate(tasks))
        for attempt in range(1, ATTEMPTS + 1):
            try:
                for number, result in self._run(left, workers):
                    del left[number]
                    yield number, result
            except RuntimeError as error:  # what Daft raises when a worker is gone
                reason = str(error).strip().splitlines()[0]
                if attempt == ATTEMPTS:
                    raise DataError(
                        f"workers died {ATTEMPTS} times ({reason}); what they had finished is kept: run again with "
                        f"fewer workers (now {workers}) or more memory"
                    ) from error
                log.warning("a worker died (%s); %d tasks are left and go on", reason, len(left))
            else:
                return

    def _run(self, tasks: dict[int, Task], workers: int) -> Iterator[tuple[int, dict[str, Any]]]:
        # Daft would report its use to a third party and draw bars of its own.
        os.environ.setdefault("DO_NOT_TRACK", "1")
        os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
        import daft
        import daft.pickle

        self._choose_runner(daft)
        packed = {"number": list(tasks), "task": [daft.pickle.dumps(task) for task in tasks.values()]}
        frame = daft.from_pydict(packed)
        call: Any
        if self.kind == "local":
            frame = frame.into_batches(1)
            call = daft.cls(_Worker, use_process=True, max_concurrency=workers)().do
        else:
            # Processes that Daft reserves for a step would be waited for when their node is gone; single tasks go on
            # wherever there is room.
            frame = frame.into_partitions(len(tasks))
            call = daft.func(_do)
        rows = frame.select(call(daft.col("number"), daft.col("task")).alias("done"))
        finished: Any = rows.iter_rows(results_buffer_size=1)
        try:
            for row in finished:
                done = json.loads(row["done"])
                if "refused" in done:
                    raise DataError(done["refused"])
                if "failed" in done:
                    raise TaskError(f"in a worker:\n{done['failed']}")
                yield done["number"], done["result"]
        except BaseException:
            finished.close()
            time.sleep(GRACE)
            raise

    def _choose_runner(self, daft: Any) -> None:
        for name in ("daft", "daft_local_execution"):  # they tell of errors that we tell of, and of every operator
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if self.kind == "local":
            if daft.get_or_infer_runner_type() != "native":
                daft.set_runner_native()
            return
        try:
            import ray
        except ImportError:
            raise DataError("engine ray needs Ray: pip install 'labyrinth-llm[ray]'") from None
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        daft.set_runner_ray(noop_if_initialized=True)


def _do(number: int, task: bytes) -> str:
    """In a worker: JSON of the task's number and what it returned, or what went wrong, for the user or to be mended."""
    import daft.pickle

    try:
        return json.dumps({"number": number, "result": daft.pickle.loads(task)()})
    except DataError as error:
        return json.dumps({"number": number, "refused": str(error)})
    except Exception:
        return json.dumps({"number": number, "failed": traceback.format_exc()})


class _Worker:
    """A process that does tasks, one after the other."""

    def do(self, number: int, task: bytes) -> str:
        """See `_do`."""
        return _do(number, task)
