import os
from pathlib import Path

import pytest

from datamodules import digests
from datamodules.digests import FileDigests


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))  # the clock of the test does not wait for files to settle
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    return path


def remembered(cache: Path, path: Path) -> str:
    files = FileDigests(cache)
    digest = files.digest(path)
    files.save()
    return digest


def test_a_known_file_is_not_read_again(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = remembered(tmp_path, path)
    files = FileDigests(tmp_path)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("was read again"))
    assert files.digest(path) == digest


def test_a_change_is_seen_even_where_size_and_mtime_are_kept(tmp_path: Path, path: Path) -> None:
    before, stat = remembered(tmp_path, path), path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert remembered(tmp_path, path) != before
    path.write_bytes(b"one")
    assert remembered(tmp_path, path) == before


def test_the_path_takes_no_part(tmp_path: Path, path: Path) -> None:
    before = remembered(tmp_path, path)
    assert remembered(tmp_path, path.rename(tmp_path / "b.txt")) == before


def test_a_file_that_has_just_changed_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one")
    files = FileDigests(tmp_path)
    files.digest(tmp_path / "a.txt")
    assert files.memo == {}


def test_a_damaged_memo_is_forgotten(tmp_path: Path, path: Path) -> None:
    before = remembered(tmp_path, path)
    for content in ("{", "[]", ""):
        (tmp_path / digests.MEMO).write_text(content)
        assert remembered(tmp_path, path) == before


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, path: Path) -> None:
    (tmp_path / "file").write_text("")
    remembered(tmp_path / "file", path)
