"""How fast batches come, and how soon the first one does: loader tokens/s, and start-up against the corpus' size.

    taskset -c 0,1 python benchmarks/loader.py
    taskset -c 0,1 python benchmarks/loader.py --sizes 1e6 1e8 1e9

Three ways to read the same memory-mapped tokens are compared in one run: ours, which takes all rows of a batch at once
(`__getitems__`); a data set that is asked row by row, as a DataLoader does by default; and slices at random places that
are stacked, as in small training scripts. The bucket is a local S3 server (moto), if that is installed.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from datamodules import PretrainDataModule
from datamodules.tokens.store import TokenStore
from datamodules.tokens.store_writer import StoreWriter

VOCABULARY, LENGTH, ROWS = 30_000, 1024, 32
CHUNK = 5_000_000  # tokens written at once


def make_store(folder: Path, n_tokens: int, shard_tokens: int | None) -> None:
    """Random tokens in documents of a million, as `prepare` lays them out."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    counts = {}
    for split, size in (("train", n_tokens), ("validation", 100_000)):
        with StoreWriter(folder / f"{split}.bin", vocab_size=VOCABULARY, end=0, shard_tokens=shard_tokens) as writer:
            while writer.n_tokens + writer.in_document < size:
                writer.append(draw.integers(1, VOCABULARY, min(CHUNK, size), dtype=np.int64))
                writer.end_document(1)
        counts[split] = {"documents": writer.n_documents, "tokens": writer.n_tokens}
    (folder / "tokenizer.json").write_text(tokenizer_json(folder.parent))
    (folder / "manifest.json").write_text(json.dumps({"fingerprint": f"{n_tokens:016}", "splits": counts}))


def tokenizer_json(cache: Path) -> str:
    """Any tokenizer: what it knows is not asked here."""
    data = PretrainDataModule(sources=str(Path(__file__)), vocab_size=300, cache_dir=str(cache / "any"), workers=1)
    data.prepare()
    return data.tokenizer.to_str()


class OneByOne(Dataset[dict[str, torch.Tensor]]):
    """The same rows, asked for one at a time."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // LENGTH

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        window = torch.from_numpy(self.tokens[row * LENGTH : (row + 1) * LENGTH + 1].astype(np.int64))
        return {"tokens": window[:-1], "targets": window[1:]}


def random_slices(tokens: np.ndarray) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of slices at random places."""
    draw = np.random.default_rng(0)
    while True:
        starts = draw.integers(0, len(tokens) - LENGTH - 1, ROWS)
        windows = [torch.from_numpy(tokens[start : start + LENGTH + 1].astype(np.int64)) for start in starts]
        yield {"tokens": torch.stack([w[:-1] for w in windows]), "targets": torch.stack([w[1:] for w in windows])}


def rate(batches: Iterator[dict[str, torch.Tensor]], n: int) -> float:
    """Tokens a second of `n` batches."""
    next(batches)
    start = time.perf_counter()
    total = sum(next(batches)["targets"].numel() for _ in range(n))
    return total / (time.perf_counter() - start)


def loaders(one: Path, many: Path) -> dict[str, Callable[[], Iterator[dict[str, torch.Tensor]]]]:
    """The ways to read, by name."""

    def ours(folder: Path, window: int | None = None, workers: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        data = PretrainDataModule(
            tokens=str(folder),
            context_length=LENGTH,
            global_batch_tokens=LENGTH * ROWS,
            batch_size=ROWS,
            shuffle_window=window,
            num_workers=workers,
        )
        data.setup("fit")
        return iter(data.train_dataloader())

    stored = TokenStore(one / "train.bin").tokens
    assert isinstance(stored, np.ndarray)
    return {
        "ours, one file": lambda: ours(one),
        "ours, many files": lambda: ours(many),
        "ours, many files, window of 16,384 rows": lambda: ours(many, 16_384),
        "ours, one file, 1 worker": lambda: ours(one, workers=1),
        "row by row, shuffled by torch": lambda: iter(DataLoader(OneByOne(stored), ROWS, shuffle=True)),
        "slices at random places": lambda: random_slices(stored),
    }


class Nothing(LightningModule):
    """Trains nothing: what is timed is the start."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        self.began = getattr(self, "began", None) or time.perf_counter()
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def start_up(tokens: str, cache: Path, checkpoint: Path | None, **settings: Any) -> tuple[float, Trainer]:
    """Seconds from making the data module to its first batch in training."""
    start = time.perf_counter()
    data = PretrainDataModule(
        tokens=tokens,
        context_length=LENGTH,
        global_batch_tokens=LENGTH * 64,
        cache_dir=str(cache),
        validation_fraction=0.0,
        **settings,
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3 if checkpoint is None else 4,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    module = Nothing()
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=False)
    return module.began - start, trainer


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e6, 1e8, 1e9])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=1000)
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes]
    torch.set_num_threads(2)
    for name in ("lightning.pytorch", "werkzeug"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for size in sizes:
            make_store(place / f"one-{size}", size, None)
            make_store(place / f"many-{size}", size, max(200_000, size // 50))
        middle = sorted(sizes)[len(sizes) // 2]
        ways = loaders(place / f"one-{middle}", place / f"many-{middle}")
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.repeats):
            for way, made in ways.items():
                found[way].append(rate(made(), options.batches))
        ours = statistics.median(found["ours, one file"])
        print(
            f"{middle:,} tokens, batches of {ROWS} x {LENGTH}\n\n| loader | M tokens/s | ours, one file, is faster by |"
            "\n|---|---|---|"
        )
        for way, rates in found.items():
            print(f"| {way} | {statistics.median(rates) / 1e6:.0f} | {ours / statistics.median(rates):.2f} |")
        print("\n| corpus | tokens | files | first batch, s | first batch of a resumed run, s |\n|---|---|---|---|---|")
        for size in sizes:
            for kind in ("one", "many"):
                folder = place / f"{kind}-{size}"
                seconds, trainer = start_up(str(folder), place, None)
                trainer.save_checkpoint(place / "saved.ckpt")
                resumed, _ = start_up(str(folder), place, place / "saved.ckpt")
                files = max(1, len(list(folder.glob("train-*.bin"))))
                print(f"| on disk | {size:,} | {files} | {seconds:.2f} | {resumed:.2f} |", flush=True)
        from_bucket(place, sizes)


def from_bucket(place: Path, sizes: list[int]) -> None:
    """The start from a local S3, with nothing of it here and with the files here."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        print("moto is not installed: no bucket")
        return
    import fsspec

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.mkdir("corpus")
    for size in [size for size in sizes if size <= 2e8]:  # the server holds all of it in memory
        folder = place / f"many-{size}"
        for path in folder.iterdir():
            system.put_file(str(path), f"corpus/{folder.name}/{path.name}")
        cold, trainer = start_up(f"s3://corpus/{folder.name}", place / "cold", None, shuffle_window=2048)
        trainer.save_checkpoint(place / "saved.ckpt")
        warm, _ = start_up(f"s3://corpus/{folder.name}", place / "cold", place / "saved.ckpt", shuffle_window=2048)
        files = max(1, len(list(folder.glob("train-*.bin"))))
        fetched = sum(path.stat().st_size for path in (place / "cold").glob("remote-*/train-*.bin")) / 1e6
        print(f"| bucket, {fetched:.1f} MB fetched so far | {size:,} | {files} | {cold:.2f} | {warm:.2f} |", flush=True)
    server.stop()


if __name__ == "__main__":
    main()
