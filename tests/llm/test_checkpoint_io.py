"""A checkpoint is whole under its name, is what was saved at that moment, and fails without a trace."""

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from llm import checkpoint_io
from llm.checkpoint import damage
from llm.checkpoint_io import BackgroundCheckpointIO, Snapshot, write_checkpoint


def contents(value: float) -> dict[str, Any]:
    return {"step": int(value), "state": {"w": torch.full((3, 4), value)}, "list": [(torch.full((2,), value), "a")]}


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["step"] == other["step"]
    assert one["state"]["w"].tolist() == other["state"]["w"].tolist()
    assert one["list"][0][0].tolist() == other["list"][0][0].tolist()


@pytest.mark.parametrize("background", [True, False])
def test_what_is_written_is_what_was_there_when_it_was_saved(
    background: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    writer = BackgroundCheckpointIO(background)
    may_write, plain = threading.Event(), torch.save

    def slow_save(*arguments: Any) -> None:
        assert may_write.wait(10) or not background
        plain(*arguments)

    if background:
        monkeypatch.setattr(torch, "save", slow_save)
    state = contents(1.0)
    writer.save_checkpoint(state, tmp_path / "a.ckpt")
    state["state"]["w"].fill_(7.0)  # training goes on
    assert (tmp_path / "a.ckpt").exists() != background
    may_write.set()
    writer.wait()
    same(torch.load(tmp_path / "a.ckpt", weights_only=True), contents(1.0))
    writer.save_checkpoint(contents(2.0), tmp_path / "b.ckpt")
    writer.teardown()
    same(torch.load(tmp_path / "b.ckpt", weights_only=True), contents(2.0))
    assert {path.name for path in tmp_path.iterdir()} == {"a.ckpt", "b.ckpt"}


def test_a_snapshot_uses_its_memory_again():
    snapshot = Snapshot()
    first = snapshot.take(contents(1.0))
    place = first["state"]["w"].data_ptr()
    second = snapshot.take(contents(2.0))
    same(second, contents(2.0))
    assert second["state"]["w"].data_ptr() == place
    other = snapshot.take({"w": torch.arange(5), "v": torch.ones(2, dtype=torch.bfloat16)})
    assert (other["w"].tolist(), other["v"].dtype) == ([0, 1, 2, 3, 4], torch.bfloat16)


@pytest.mark.parametrize("background", [True, False])
def test_a_write_that_fails_leaves_what_was_there(background: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.ckpt"
    write_checkpoint(contents(1.0), path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_io.os, "fsync", full)
        writer = BackgroundCheckpointIO(background)
        writer.save_checkpoint(contents(2.0), path)
        assert writer.pending is not None
        assert isinstance(writer.pending.exception(), OSError)
    same(torch.load(path, weights_only=True), contents(1.0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]
    writer.save_checkpoint(contents(3.0), path)  # there is room again
    writer.teardown()
    same(torch.load(path, weights_only=True), contents(3.0))


def test_every_kind_of_damage_is_found(tmp_path: Path):
    path = tmp_path / "a.ckpt"
    write_checkpoint({"w": torch.arange(1000.0)}, path)
    whole = path.read_bytes()
    assert damage(path) is None
    for at in range(0, len(whole), 97):
        path.write_bytes(whole[:at])
        assert damage(path), f"cut at byte {at}"
    weights = whole.index(torch.arange(500.0, 600.0).numpy().tobytes())
    for at in (weights, weights + 399):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert "checksum" in str(damage(path))
    assert "No such file" in str(damage(tmp_path / "none.ckpt"))
