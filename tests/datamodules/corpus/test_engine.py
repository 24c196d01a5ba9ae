import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tasks import Square

from datamodules.corpus.engine import Engine, TaskError
from datamodules.errors import DataError

TESTS = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes find the tasks."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


def squares(engine: Engine, *tasks: Square) -> dict[int, int]:
    return {number: result["square"] for number, result in engine.run(tasks)}


def test_one_worker_needs_no_other_process() -> None:
    results = list(Engine(workers=1).run([Square(n) for n in range(3)]))
    assert [(n, r["square"]) for n, r in results] == [(0, 0), (1, 1), (2, 4)]
    assert {r["process"] for _, r in results} == {os.getpid()}


def test_several_workers_do_every_task_once() -> None:
    results = list(Engine(workers=2).run([Square(n) for n in range(20)]))
    assert sorted((n, r["square"]) for n, r in results) == [(n, n * n) for n in range(20)]
    processes = {r["process"] for _, r in results}
    assert os.getpid() not in processes
    assert len(processes) == 2


def test_what_a_task_tells_the_user_arrives_as_it_was_said() -> None:
    with pytest.raises(DataError, match=r"^file 3 is damaged; mend it$"):
        squares(Engine(workers=2), *(Square(n, "refused") for n in range(6)))


def test_an_error_of_ours_is_not_tried_again() -> None:
    with pytest.raises(TaskError, match="a slip of ours"):
        squares(Engine(workers=2), *(Square(n, "error") for n in range(6)))


def test_a_worker_that_died_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = squares(Engine(workers=2), *(Square(n, "killed", once=tmp_path / "killed") for n in range(8)))
    assert done == {n: n * n for n in range(8)}
    assert "a worker died" in caplog.text


def test_workers_that_die_again_and_again_end_the_work() -> None:
    with pytest.raises(DataError, match=r"workers died 3 times .* fewer workers"):
        squares(Engine(workers=2), *(Square(n, "killed") for n in range(6)))


@pytest.mark.parametrize("trouble", ["refused", "killed"])
def test_the_process_ends_with_the_exit_code_it_chose(trouble: str) -> None:
    program = f"""
import sys
from support.tasks import Square
from datamodules.corpus.engine import Engine
from datamodules.errors import DataError
try:
    list(Engine(workers=2).run([Square(n, {trouble!r}) for n in range(6)]))
except DataError as error:
    sys.exit(7)
"""
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 7


def test_no_worker_is_an_error_before_any_work() -> None:
    with pytest.raises(DataError, match="workers is 0; it can be 1 or more"):
        Engine(workers=0)
    assert Engine(workers=1).workers == 1
