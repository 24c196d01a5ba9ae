"""Data sets of the `datasets` library, streamed: from the hub, from a folder of data files, or saved to disk."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    return loaded.to_iterable_dataset()


def stream_hub(spec: str) -> Any:
    """The rows of a split, nothing of it kept on disk. Raises DataError where it cannot be opened."""
    import datasets

    path, config, split = parse(spec)
    try:
        return datasets.load_dataset(path, config, split=split, streaming=True)
    except Exception as error:  # whatever the library, its file systems or the network raise
        raise DataError(f"cannot open {spec} ({_first_line(error)}); check name, split and network") from error


def rows_of(spec: str, rows: Any, text_field: str) -> Iterator[tuple[int, str | None, str]]:
    """(number, text, complaint) of each row; text is None where it cannot be used, and the complaint says why."""
    iterator = enumerate(rows)
    while True:
        try:
            number, row = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # the network, or a damaged file
            raise DataError(f"reading {spec} failed ({_first_line(error)}); run again, or check the network") from error
        if number == 0 and text_field not in row:
            fields = ", ".join(map(repr, row))
            raise DataError(f"{spec} has no field {text_field!r}, it has {fields}; set text_field to one of them")
        text = row.get(text_field)
        if isinstance(text, str):
            yield number, text, ""
        else:
            yield number, None, f"at row {number + 1} ({text_field!r} is {type(text).__name__}, not text)"


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
