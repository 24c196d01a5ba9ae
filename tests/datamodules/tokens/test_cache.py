"""Files of a bucket arrive whole or not at all, and never take more room than they may."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from datamodules.errors import DataError
from datamodules.tokens import cache
from datamodules.tokens.cache import RemoteFiles


@pytest.fixture
def bucket() -> Iterator[Any]:
    """Six files of 1,000 bytes in memory."""
    system = fsspec.filesystem("memory")
    for number in range(6):
        system.pipe_file(f"/bucket/{number}.bin", bytes([number]) * 1000)
    yield system
    system.rm("/bucket", recursive=True)


@pytest.fixture
def files(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteFiles:
    monkeypatch.setattr(cache, "PAUSE", 0.001)
    return RemoteFiles("memory://bucket", tmp_path, 3000)


def held(files: RemoteFiles) -> list[str]:
    return sorted(path.name for path in files.folder.iterdir() if not path.name.endswith(".lock"))


def test_what_was_not_used_for_longest_makes_room(files: RemoteFiles) -> None:
    for number in (0, 1, 2, 0, 3):
        assert files.local(f"{number}.bin").read_bytes() == bytes([number]) * 1000
        time.sleep(0.01)
        assert sum(path.stat().st_size for path in files.folder.glob("*.bin")) <= 3000
    assert held(files) == ["0.bin", "2.bin", "3.bin"]


def test_a_file_is_fetched_once(files: RemoteFiles, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    get = type(bucket).get_file
    monkeypatch.setattr(type(bucket), "get_file", lambda self, *a, **k: (fetched.append(a[0]), get(self, *a, **k))[1])
    for _ in range(3):
        files.local("1.bin", 1000)
    assert files.head("1.bin", 4) == b"\1\1\1\1"
    assert len(fetched) == 1


def test_a_transfer_that_fails_is_tried_again_and_then_told(
    files: RemoteFiles, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError("reset"), TimeoutError("slow")]
    get = type(bucket).get_file

    def sometimes(self: Any, *arguments: Any, **options: Any) -> None:
        if failures:
            raise failures.pop()
        get(self, *arguments, **options)

    monkeypatch.setattr(type(bucket), "get_file", sometimes)
    assert files.local("1.bin", 1000).stat().st_size == 1000
    failures += [OSError("the cable is cut")] * cache.TRIES
    with pytest.raises(DataError, match=r"cannot read memory://bucket/2.bin \(the cable is cut\): check the address"):
        files.local("2.bin", 1000)
    assert held(files) == ["1.bin"]


@pytest.mark.parametrize(
    ("size", "check", "told"),
    [
        (999, None, "it has 1,000 bytes instead of 999"),
        (1000, lambda path: "its digest is wrong", "its digest is wrong"),
    ],
)
def test_a_file_that_does_not_arrive_as_it_should_be_is_told(
    files: RemoteFiles, size: int, check: Any, told: str
) -> None:
    with pytest.raises(DataError, match=rf"1.bin \({told}\): upload that file again"):
        files.local("1.bin", size, check)
    assert held(files) == []


def test_what_cannot_be_had_is_one_sentence(files: RemoteFiles, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no memory://bucket/nothing.bin: name a folder of prepared tokens"):
        files.read("nothing.bin")
    with pytest.raises(DataError, match="nowhere://x cannot be opened"):
        RemoteFiles("nowhere://x", tmp_path, 10).read("a")
    with pytest.raises(DataError, match=r"1.bin has 1,000 bytes, more than cache_bytes \(999\): raise it"):
        RemoteFiles("memory://bucket", tmp_path / "small", 999).local("1.bin")


def test_a_missing_package_is_named(files: RemoteFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(cache.fsspec.core, "url_to_fs", missing)
    with pytest.raises(
        DataError, match=r"s3://b needs a package that is not installed: pip install 'labyrinth-llm\[s3\]'"
    ):
        RemoteFiles("s3://b", tmp_path, 10).read("a")


def test_what_a_killed_process_began_to_fetch_is_dropped(files: RemoteFiles) -> None:
    files.folder.mkdir(parents=True)
    gone = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    gone.start()
    gone.join()
    (files.folder / f".5.bin.{gone.pid}.partial").write_bytes(b"x" * 2500)
    files.local("0.bin", 1000)
    assert held(files) == ["0.bin"]


def read_all(files: RemoteFiles, order: list[int], most: Any) -> None:
    for number in order * 5:
        path = files.local(f"{number}.bin", 1000)
        with files._room():  # while none is removed
            size = sum(each.stat().st_size for each in files.folder.glob("[0-9]*.bin"))
        with most.get_lock():
            most.value = max(most.value, size)
        try:
            assert path.read_bytes() == bytes([number]) * 1000
        except FileNotFoundError:  # the other one made room
            continue


def test_processes_share_the_folder_and_its_bound(files: RemoteFiles) -> None:
    context = multiprocessing.get_context("fork")
    most = context.Value("i", 0)
    readers = [context.Process(target=read_all, args=(files, order, most)) for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1])]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0, 0]
    assert 1000 <= most.value <= 3000
