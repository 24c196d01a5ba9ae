import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.artefacts import Recipe, find, make, remove_stale
from datamodules.errors import DataError

RECIPE = Recipe("thing", 1, {"size": 3}, {"a.txt": "11"})


def build(folder: Path) -> dict[str, Any]:
    (folder / "data.bin").write_bytes(b"12345")
    return {"counts": 5}


def test_made_once_and_then_reused(tmp_path: Path) -> None:
    first = make(RECIPE, tmp_path / "cache", build)
    assert first.reason == "there is none yet"
    assert first.folder.name == f"thing-{RECIPE.fingerprint}"
    assert first.manifest["counts"] == 5
    second = make(RECIPE, tmp_path / "cache", lambda folder: pytest.fail("was not reused"))
    assert second.reused
    assert second.manifest == first.manifest
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.folder.name]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Recipe("thing", 2, {"size": 3}, {"a.txt": "11"}), "version of the code 1 -> 2"),
        (Recipe("thing", 1, {"size": 4}, {"a.txt": "11"}), "size 3 -> 4"),
        (Recipe("thing", 1, {"size": 3}, {"a.txt": "12"}), "changed: a.txt"),
        (Recipe("thing", 1, {"size": 3}, {"b.txt": "11"}), "new: b.txt; gone: a.txt"),
        (
            Recipe("thing", 1, {"size": 3}, {f"{n}.txt": "" for n in range(9)} | {"a.txt": "11"}),
            "new: 0.txt.* and 4 more",
        ),
    ],
)
def test_what_changed_is_said(tmp_path: Path, other: Recipe, reason: str) -> None:
    make(RECIPE, tmp_path, build)
    made = make(other, tmp_path, build)
    assert not made.reused
    assert re.search(reason, made.reason)
    assert make(RECIPE, tmp_path, build).reused  # the earlier one is still there


@pytest.mark.parametrize("damage", ["truncate", "delete", "manifest"])
def test_a_damaged_one_is_made_anew(tmp_path: Path, damage: str) -> None:
    folder = make(RECIPE, tmp_path, build).folder
    match damage:
        case "truncate":
            (folder / "data.bin").write_bytes(b"123")
        case "delete":
            (folder / "data.bin").unlink()
        case "manifest":
            (folder / "manifest.json").write_text("{")
    assert find(RECIPE, tmp_path) is None
    made = make(RECIPE, tmp_path, build)
    assert "the one there is damaged" in made.reason
    assert (folder / "data.bin").read_bytes() == b"12345"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted(folder: Path) -> dict[str, Any]:
        build(folder)
        raise error

    with pytest.raises(error):
        make(RECIPE, tmp_path, interrupted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_full_disk_is_one_clear_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*values: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DataError, match=r"cannot write .*: No space left on device; make room .* cache_dir"):
        make(RECIPE, tmp_path, build)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_the_size_of_files_is_told_of_as_a_full_disk(tmp_path: Path) -> None:
    def too_large(_: Path) -> dict[str, Any]:
        raise OSError(errno.EFBIG, "Error writing bytes to file. Detail: [errno 27] File too large")  # as Arrow does

    with pytest.raises(DataError, match=r"cannot write .*: File too large; make room .* cache_dir"):
        make(RECIPE, tmp_path, too_large)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_removed_meanwhile(tmp_path: Path) -> None:
    def removed(_: Path) -> dict[str, Any]:
        shutil.rmtree(tmp_path / "cache")
        return {}

    with pytest.raises(DataError, match=r"cache was removed or emptied while it was written to; run again"):
        make(RECIPE, tmp_path / "cache", removed)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system in which no folder can be made")
def test_a_folder_that_cannot_be_made() -> None:
    with pytest.raises(DataError, match=r"cannot write /proc/self/cache: No such file or directory; .* cache_dir"):
        make(RECIPE, Path("/proc/self/cache"), build)


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(DataError, match=r"cannot write .*cache: Permission denied; .* cache_dir"):
        make(RECIPE, tmp_path / "cache", build)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*cache: File exists"):
        make(RECIPE, tmp_path / "cache", build)


MAKER = """
import sys, time
from pathlib import Path
from datamodules.artefacts import Recipe, make
def build(folder):
    (folder / "data.bin").write_bytes(b"12345")
    with open(sys.argv[2], "a") as log: log.write("built\\n")
    time.sleep(float(sys.argv[3]))
    return {}
made = make(Recipe("thing", 1, {"size": int(sys.argv[4])}, {"a.txt": "11"}), Path(sys.argv[1]), build)
print(made.reused)
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    def run(seconds: float, size: int = 3) -> "subprocess.Popen[str]":
        arguments = [str(tmp_path / "cache"), str(tmp_path / "log"), str(seconds), str(size)]
        return subprocess.Popen([sys.executable, "-c", MAKER, *arguments], stdout=subprocess.PIPE, text=True)

    return run


def wait_for(path: Path, lines: int = 1) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() or path.read_text().count("\n") < lines:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_at_once_make_it_once(tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]) -> None:
    processes = [start(1.0), start(1.0), start(1.0)]
    answers = [process.communicate(timeout=30)[0].strip() for process in processes]
    assert sorted(answers) == ["False", "True", "True"]
    assert (tmp_path / "log").read_text() == "built\n"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [RECIPE.name]


def test_after_a_kill_the_next_run_makes_it_and_tidies_up(
    tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    killed = [start(60), start(60, size=4)]
    wait_for(tmp_path / "log", 2)
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert find(RECIPE, tmp_path / "cache") is None
    assert list((tmp_path / "cache").glob(".*.partial"))
    make(RECIPE, tmp_path / "cache", build)
    left = {path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")}
    assert left == {RECIPE.name}


def test_what_another_process_is_making_is_not_tidied_up(
    tmp_path: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    other = start(2, size=4)
    wait_for(tmp_path / "log")
    make(RECIPE, tmp_path / "cache", build)
    assert other.communicate(timeout=30)[0].strip() == "False"
    assert find(Recipe("thing", 1, {"size": 4}, {"a.txt": "11"}), tmp_path / "cache")


def test_what_the_making_cannot_find_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        make(RECIPE, tmp_path, lambda folder: {"size": len((folder / "absent").read_bytes())})
    assert not list(tmp_path.iterdir())


def test_a_lock_that_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".tokens-0123.lock").touch()
    remove_stale(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_held_is_left(tmp_path: Path) -> None:
    path = tmp_path / ".tokens-0123.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_stale(tmp_path)
    assert path.exists()
