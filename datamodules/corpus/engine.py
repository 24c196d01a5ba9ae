"""Where the work of a corpus is done: in this process, in several on this machine, or on a Ray cluster.

The one file that knows the engines: loky's processes, which stay from step to step, and Daft on Ray. Work comes as
tasks: objects that can be pickled, called without arguments, and that write their own output under a name of their own,
so that a task may be run again at any time.
"""

import json
import logging
import os
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal

from datamodules.cores import available_cores
from datamodules.errors import DataError

log = logging.getLogger(__name__)

Task = Callable[[], dict[str, Any]]  # what comes back must be JSON

IDLE = 5.0  # seconds after which processes without work end; the steps of a run follow each other faster
SMALL_BYTES = 64 << 20  # of input; two workers are as fast as one there
ATTEMPTS = 3  # a worker that died (a node that went away, memory that ran out) is replaced this often


class WorkerDiedError(Exception):
    """A worker is gone, and with it what it had in hand."""


class TaskError(Exception):
    """A task raised what it should not have: an error in the program, with the traceback of its worker."""


@dataclass(frozen=True)
class Engine:
    """Runs tasks and yields what they return as each one ends.

    Args:
        kind: `local`, or `ray` for the cluster that `RAY_ADDRESS` names (or one started on this machine). All nodes
            of a cluster must see the inputs and the cache folder under the same paths.
        workers: tasks at once on this machine; None is one a core, and one for a small corpus. With one, everything is
            done in this process. A cluster does one a core.

    Raises:
        DataError: for no workers; what a task raised as such, or that workers died again and again.
    """

    kind: Literal["local", "ray"] = "local"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise DataError(f"workers is {self.workers}; it can be 1 or more")

    def fit(self, size: int) -> "Engine":
        """The engine for so many bytes of input: where nobody said how many workers, few bytes are not worth starting
        processes, a second each.
        """
        return replace(self, workers=1) if self.workers is None and size < SMALL_BYTES else self

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
            except WorkerDiedError as error:
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
        with closing(_in_processes(tasks, workers) if self.kind == "local" else _on_ray(tasks)) as finished:
            for done in map(json.loads, finished):
                if "refused" in done:
                    raise DataError(done["refused"])
                if "failed" in done:
                    raise TaskError(f"in a worker:\n{done['failed']}")
                yield done["number"], done["result"]


def _in_processes(tasks: dict[int, Task], workers: int) -> Generator[str, None, None]:
    """What `_do` tells of each task, done in processes of this machine that live on until they were idle for long."""
    import loky

    executor = loky.get_reusable_executor(max_workers=workers, timeout=IDLE)
    running: list[Future[str]] = []
    try:
        for number, task in tasks.items():
            running.append(executor.submit(_do_for, os.getpid(), number, task))
        for done in as_completed(running):
            yield done.result()
    except BrokenProcessPool as error:
        raise WorkerDiedError(str(error)) from error
    finally:
        if not all(done.done() for done in running):
            executor.shutdown(wait=True, kill_workers=True)


def _on_ray(tasks: dict[int, Task]) -> Generator[str, None, None]:
    """What `_do` tells of each task, done on a cluster, one a core.

    Processes that Daft reserves for a step would be waited for when their node is gone; single tasks go on wherever
    there is room.
    """
    # Daft would report its use to a third party and draw bars of its own.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    try:
        import daft
        import daft.pickle
        import ray
        import ray.exceptions
    except ImportError:
        raise DataError("engine ray needs Ray and Daft: pip install 'labyrinth-llm[ray]'") from None
    for name in ("daft", "daft_local_execution"):  # they tell of errors that we tell of, and of every operator
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    daft.set_runner_ray(noop_if_initialized=True)
    packed = {"number": list(tasks), "task": [daft.pickle.dumps(task) for task in tasks.values()]}
    frame = daft.from_pydict(packed).into_partitions(len(tasks))
    done = daft.func(_do_packed)(daft.col("number"), daft.col("task"))
    finished: Any = frame.select(done.alias("done")).iter_rows(results_buffer_size=1)
    try:
        for row in finished:
            yield row["done"]
    except (RuntimeError, ray.exceptions.RayError) as error:  # Daft's and Ray's own, when a worker is gone
        raise WorkerDiedError(str(error)) from error
    finally:
        finished.close()


def _do(number: int, task: Task) -> str:
    """In a worker: JSON of the task's number and what it returned, or what went wrong, for the user or to be mended."""
    try:
        return json.dumps({"number": number, "result": task()})
    except DataError as error:
        return json.dumps({"number": number, "refused": str(error)})
    except Exception:
        return json.dumps({"number": number, "failed": traceback.format_exc()})


def _do_for(parent: int, number: int, task: Task) -> str:
    """`_do` as long as the process that wants it is there: a run that was killed leaves tasks behind in its workers."""
    if os.getppid() != parent:
        os._exit(1)
    return _do(number, task)


def _do_packed(number: int, task: bytes) -> str:
    """`_do` of a pickled task."""
    import daft.pickle

    return _do(number, daft.pickle.loads(task))
