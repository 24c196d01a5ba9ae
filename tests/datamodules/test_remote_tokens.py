"""From a bucket (a local S3) come the batches of the disk, fetched in parts (B23, B24)."""

import fcntl
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from support.command_line import TINY, llm, write_texts

from datamodules import PretrainDataModule
from datamodules.errors import DataError
from datamodules.tokens.cache import RemoteFiles, _locked
from datamodules.tokens.store import ShardedTokens

moto = pytest.importorskip("moto.server")
SETTINGS: dict[str, Any] = {"context_length": 32, "global_batch_tokens": 256, "batch_size": 4}
SHARD = 2000  # tokens


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A local S3, and what tells everyone to use it."""
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    _, port = running.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    yield told["AWS_ENDPOINT_URL"]
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    running.stop()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tokens in about ten files."""
    folder = tmp_path_factory.mktemp("local")
    write_texts(folder)
    data = PretrainDataModule(
        sources=[str(folder / "texts")],
        vocab_size=300,
        shard_tokens=SHARD,
        cache_dir=str(folder / "cache"),
        workers=1,
        **SETTINGS,
    )
    made = Path(data.prepare()["folder"])
    assert len(list(made.glob("train-*.bin"))) == 10
    return made


@pytest.fixture(scope="module")
def url(server: str, local: Path) -> str:
    """The same in a bucket."""
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.mkdir("corpus")
    for path in local.iterdir():
        system.put_file(str(path), f"corpus/{local.name}/{path.name}")
    return f"s3://corpus/{local.name}"


def rows_of(data: PretrainDataModule) -> list[list[int]]:
    return [row for batch in data.train_dataloader() for row in batch["tokens"].tolist()]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., PretrainDataModule]]:
    made = []

    def build(tokens: str | Path, **settings: Any) -> PretrainDataModule:
        data = PretrainDataModule(tokens=str(tokens), cache_dir=str(tmp_path), **SETTINGS, **settings)
        data.prepare_data()
        data.setup("fit")
        made.append(data)
        return data

    yield build
    for data in made:
        data.teardown()


@pytest.mark.parametrize("settings", [{}, {"shuffle_window": 60}, {"document_mask": True}])
def test_a_bucket_gives_the_rows_of_the_disk(
    opened: Callable[..., PretrainDataModule], local: Path, url: str, settings: dict[str, Any]
) -> None:
    disk, bucket = opened(local, **settings), opened(url, **settings)
    assert bucket.fingerprint == disk.fingerprint
    assert bucket.vocab_size == disk.vocab_size == 300
    assert rows_of(bucket) == rows_of(disk)
    for one, other in zip(disk.val_dataloader(), bucket.val_dataloader(), strict=True):
        assert torch.equal(one["targets"], other["targets"])


class Counted:
    """What is asked of the bucket."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: list[str] = []
        self.heads: list[str] = []
        tried = RemoteFiles._tried
        fetch = RemoteFiles._fetch

        def count(files: RemoteFiles, name: str, work: Any) -> Any:
            self.heads.append(name)
            return tried(files, name, work)

        def count_fetch(files: RemoteFiles, system: Any, remote: str, *arguments: Any) -> None:
            self.files.append(remote.rpartition("/")[2])
            fetch(files, system, remote, *arguments)

        monkeypatch.setattr(RemoteFiles, "_tried", count)
        monkeypatch.setattr(RemoteFiles, "_fetch", count_fetch)


def test_to_open_it_takes_four_small_requests_and_a_rank_fetches_what_it_reads(
    opened: Callable[..., PretrainDataModule], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    data = opened(url, shuffle_window=60)
    # The validation text is small: it lies in one file, which is fetched when it is opened.
    assert counted.heads == ["manifest.json", "tokenizer.json", "train.bin", "validation.bin", "validation.bin"]
    assert counted.files == ["validation.bin"]
    sampler = data.train_dataloader().batch_sampler
    tokens = data.prepared.train.tokens
    assert isinstance(tokens, ShardedTokens)
    data.teardown()
    counted.files.clear()
    for path in data.prepared.folder.glob("train-*.bin"):
        path.unlink()
    tokens._open.clear()
    data.rows_of_split("train").__getitems__(sampler.rows_of(0))  # type: ignore[union-attr]
    needed = tokens.shards_of(sampler.rows_of(0) * 32, 33)  # type: ignore[union-attr]
    assert 1 <= len(needed) < 10
    assert sorted(counted.files) == [f"train-{number:05}.bin" for number in needed]


def test_a_connection_is_not_taken_over_by_a_forked_worker(url: str, local: Path, tmp_path: Path) -> None:
    files = RemoteFiles(url, tmp_path, 10**9)
    expected = (local / "train-00001.bin").read_bytes()
    assert files.local("train-00000.bin").is_file()  # opens the connection here

    def end_with_what_came() -> None:
        os._exit(0 if files.local("train-00001.bin").read_bytes() == expected else 3)

    worker = multiprocessing.get_context("fork").Process(target=end_with_what_came)
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0


def test_a_worker_that_is_forked_while_a_file_is_fetched_does_not_keep_its_lock(tmp_path: Path) -> None:
    lock, (end, begin) = tmp_path / "lock", os.pipe()
    with _locked(lock):
        worker = os.fork()
        if not worker:
            os.close(begin)
            os.read(end, 1)  # until the test is over
            os._exit(0)
    os.close(end)
    try:
        with lock.open() as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError where it is still held
    finally:
        os.close(begin)
        os.waitpid(worker, 0)


def test_files_are_there_before_they_are_read_and_the_bound_holds(
    opened: Callable[..., PretrainDataModule], url: str, local: Path
) -> None:
    size = (local / "train-00000.bin").stat().st_size
    data = opened(url, shuffle_window=60, cache_bytes=5 * size)
    loader = data.train_dataloader()
    (ahead,) = [thread for thread in threading.enumerate() if thread.name == "fetch-ahead"]
    for _ in loader:
        held = 0
        for path in data.prepared.folder.glob("*.bin"):
            held += path.stat().st_size if path.exists() else 0
        assert held <= 5 * size
    data.teardown()
    assert not ahead.is_alive()


def test_a_damaged_file_of_the_bucket_is_told(
    opened: Callable[..., PretrainDataModule], url: str, local: Path, tmp_path: Path
) -> None:
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    content = bytearray((local / "train-00003.bin").read_bytes())
    content[100] ^= 1
    for path in local.iterdir():
        system.put_file(str(path), f"corpus/broken/{path.name}")
    system.pipe_file("corpus/broken/train-00003.bin", bytes(content))
    data = opened("s3://corpus/broken")
    with pytest.raises(
        DataError, match=r"train-00003.bin \(the digest of its tokens is wrong\): upload that file again"
    ):
        rows_of(data)


@pytest.mark.parametrize(
    ("tokens", "settings", "told"),
    [
        ("nowhere", {}, r"tokens: cannot read .*nowhere/manifest.json \(No such file or directory\); name a folder"),
        ("s3://corpus/nothing", {}, "there is no s3://corpus/nothing/manifest.json: name a folder of prepared tokens"),
        ("x", {"sources": ["a.txt"], "packing": "best_fit"}, "are made already: leave out sources, packing"),
        ("x", {"shuffle_window": 0}, "shuffle_window is 0; it can be 1 or more"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    server: str, opened: Callable[..., PretrainDataModule], tokens: str, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        opened(tokens, **settings)


@pytest.mark.slow
def test_a_run_begun_on_the_disk_goes_on_from_the_bucket(url: str, local: Path, tmp_path: Path) -> None:
    """Saved by one process that reads the disk; gone on with by two that read the bucket, with workers."""
    flags = [flag for flag in TINY if not flag.startswith(("--data.sources", "--data.vocab_size"))]
    common = [*flags, "--trainer.callbacks+=callbacks.SampleLog", "--data.shuffle_window=60"]
    shutil.copytree(local, tmp_path / "tokens")
    whole = llm("fit", *common, "--data.tokens=tokens", "--name=whole", folder=tmp_path)
    assert whole.returncode == 0, whole.stderr
    path = "runs/whole/checkpoints/step-00000024.ckpt"
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.num_workers=1"]
    rest = llm("fit", *common, f"--data.tokens={url}", "--name=rest", f"--ckpt_path={path}", *two, folder=tmp_path)
    assert rest.returncode == 0, rest.stderr
    assert "another order" not in rest.stderr

    def samples(run: str) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for log in sorted((tmp_path / "runs" / run).glob("samples-*.log")):
            for line in log.read_text().splitlines():
                step, _, *rows = line.split(" ")
                if step != "from":
                    found.setdefault(int(step), []).extend(rows)
        return {step: sorted(rows) for step, rows in found.items()}

    one, other = samples("whole"), samples("rest")
    assert sorted(other) == list(range(24, 32))
    assert other == {step: one[step] for step in other}
    assert all(len(set(rows)) == len(rows) == 8 for rows in other.values())
