"""Data sets of the `datasets` library, streamed: from the hub, from a folder of data files, or saved to disk."""

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.corpus.reading.files import printable
from datamodules.corpus.reading.records import Record, from_row
from datamodules.errors import DataError

log = logging.getLogger(__name__)

HUB = "hf:"


def parse(spec: str) -> tuple[str, str | None, str]:
    """(path, config, split) of `hf:owner/name[/config][:split]` or `hf:folder[:split]`; the split is train by default.

    Raises:
        DataError: where the spec is neither.
    """
    name, _, split = spec.removeprefix(HUB).partition(":")
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return str(folder), None, split or "train"
    parts = name.split("/")
    if len(parts) > 3 or not all(parts) or parts[0] in (".", "..", "~"):
        raise DataError(
            f"{spec!r} names no data set; write hf:owner/name, hf:owner/name/config, hf:owner/name:split, "
            "or the path of a folder that is there"
        )
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None, split or "train"


def local_folder(spec: str) -> Path | None:
    """The folder that a spec names, None where it names a data set of the hub."""
    path, config, _ = parse(spec)
    return Path(path) if config is None and Path(path).is_dir() else None


def stream_saved(folder: Path) -> Any:
    """The rows of a folder that `save_to_disk` made, of its train split where it has several."""
    import datasets

    loaded = datasets.load_from_disk(str(folder))
    if isinstance(loaded, datasets.DatasetDict):
        if "train" not in loaded:
            raise DataError(f"{folder} has no split 'train', it has {', '.join(map(repr, loaded))}; name one's folder")
        loaded = loaded["train"]
    return loaded.to_iterable_dataset(num_shards=max(1, min(len(loaded.cache_files), len(loaded))))


def stream_hub(spec: str) -> Any:
    """The rows of a split, nothing of it kept on disk. Raises DataError where it cannot be opened."""
    import datasets

    path, config, split = parse(spec)
    try:
        return datasets.load_dataset(path, config, split=split, streaming=True)
    except Exception as error:  # whatever the library, its file systems or the network raise
        raise DataError(f"cannot open {spec} ({_first_line(error)}); check name, split and network") from error


def n_files(kind: str, spec: str, folder: Path | None) -> int:
    """How many files, each of which can be read alone, a data set of the hub (kind hub) or a saved one has."""
    return max(1, _stream(kind, spec, folder).num_shards)


def read_rows(
    kind: str, spec: str, folder: Path | None, start: int, end: int | None, text_field: str
) -> Iterator[Record]:
    """The rows of files [start, end) of a data set; the key is file:row, so no part needs to know the files before it.

    Raises:
        DataError: where it cannot be opened or read, or has another number of files than at planning.
    """
    stream = _stream(kind, spec, folder)
    name = spec if kind == "hub" else printable(folder or spec)
    files = max(1, stream.num_shards)
    if end is not None and end > files:
        raise DataError(f"{name} has {files} files now and had more at the start of the run; run again")
    for file in range(start, files if end is None else end):
        rows = enumerate(stream.shard(files, file) if files > 1 else stream)
        while True:
            try:
                number, row = next(rows)
            except StopIteration:
                break
            except Exception as error:  # the network, or a damaged file
                raise DataError(
                    f"reading {name} failed ({_first_line(error)}); run again, or check the network"
                ) from error
            yield from_row(
                row, f"{file}:{number}", text_field, partial("at row {1} of file {0}".format, file, number + 1)
            )


def _stream(kind: str, spec: str, folder: Path | None) -> Any:
    if kind == "hub":
        return stream_hub(spec)
    assert folder is not None
    return stream_saved(folder)


def revision(spec: str, known: str | None) -> str:
    """The commit at which a hub data set stands; `known` from an earlier run where the hub cannot be asked.

    Raises:
        DataError: where it cannot be asked and nothing is known.
    """
    from huggingface_hub import HfApi

    path, _, _ = parse(spec)
    try:
        return str(HfApi().dataset_info(path).sha)
    except Exception as error:
        if known is not None:
            log.warning("cannot ask the hub for %s (%s): taken as unchanged", spec, _first_line(error))
            return known
        raise DataError(f"cannot ask the hub for {spec} ({_first_line(error)}); check name and network") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
