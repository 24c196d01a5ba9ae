import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.tasks import Meet, Square

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
    assert os.getpid() not in {r["process"] for _, r in results}


def test_two_workers_work_at_the_same_time(tmp_path: Path) -> None:
    tasks = [Meet(tmp_path / own, tmp_path / other) for own, other in (("a", "b"), ("b", "a"))]
    assert all(result["met"] for _, result in Engine(workers=2).run(tasks))


def test_workers_stay_for_the_next_step() -> None:
    first, second = ({r["process"] for _, r in Engine(workers=2).run([Square(n) for n in range(9)])} for _ in range(2))
    assert first & second


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
import time
from support.tasks import Meet, Square
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


@pytest.mark.skipif(sys.platform == "win32", reason="there, a process does not tell that its parent is gone")
def test_workers_end_soon_after_a_run_that_was_killed(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from support.tasks import Sleep
from datamodules.corpus.engine import Engine
list(Engine(workers=2).run([Sleep(0.2, Path({str(tmp_path)!r}) / str(n)) for n in range(200)]))
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    while len(list(tmp_path.iterdir())) < 3:
        time.sleep(0.05)
    process.kill()
    process.wait()
    time.sleep(1)
    done = len(list(tmp_path.iterdir()))
    assert done < 20
    time.sleep(1)
    assert len(list(tmp_path.iterdir())) == done
