"""Data sets of the `datasets` library, streamed: from the hub by name, from a folder of data files, or saved to disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.corpus.sources import HUB, Input
from datamodules.errors import DataError


def parse(spec: str) -> tuple[str, str | None, str]:
    """(path, config, split) of `hf:owner/name[/config][:split]` or `hf:./folder[:split]`; the split is train by default."""
    name, _, split = spec.removeprefix(HUB).partition(":")
    if not name or name.endswith("/"):
        raise DataError(f"{spec!r} names no data set; write hf:owner/name, hf:owner/name/config or hf:owner/name:split")
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser()), None, split or "train"
    parts = name.split("/")
    if len(parts) > 3 or name.startswith((".", "~", "/")):
        raise DataError(f"{spec!r}: there is no folder {name!r}; on the hub a name is owner/name or owner/name/config")
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None, split or "train"


def rows_of(item: Input, text_field: str) -> Iterator[tuple[int, str | None, str]]:
    """(row, text, complaint) of a streamed split."""
    for number, row in enumerate(_stream(item)):
        if number == 0 and text_field not in row:
            raise DataError(
                f"{item.name} has no field {text_field!r}; it has {', '.join(map(repr, row))}: set text_field"
            )
        text = row.get(text_field)
        if isinstance(text, str):
            yield number, text, ""
        else:
            yield number, None, f"at row {number + 1} ({text_field!r} is not text)"


def _stream(item: Input) -> Any:
    import datasets

    if item.format == "saved":
        loaded = datasets.load_from_disk(str(item.path))
        if isinstance(loaded, datasets.DatasetDict):
            if "train" not in loaded:
                raise DataError(f"{item.path} has no split 'train'; it has {', '.join(map(repr, loaded))}")
            loaded = loaded["train"]
        return loaded.to_iterable_dataset()
    path, config, split = parse(item.source)
    try:
        return datasets.load_dataset(path, config, split=split, streaming=True)
    except Exception as error:  # whatever the library, its file systems or the network raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"cannot open {item.source} ({reason}); check the name, the split and the network") from error


def revision(spec: str) -> str:
    """What identifies the contents of a hub data set without reading them: the commit that it stands at.

    Raises:
        DataError: where the hub cannot be asked.
    """
    path, _, _ = parse(spec)
    if Path(path).is_dir():
        from datamodules.corpus.sources import resolve

        return repr(
            sorted((file.path.name, file.path.stat().st_mtime_ns) for file in resolve(path) if file.path is not None)
        )
    from huggingface_hub import HfApi

    try:
        return str(HfApi().repo_info(path, repo_type="dataset").sha)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"cannot ask the hub for {spec} ({reason}); check the name and the network") from error
