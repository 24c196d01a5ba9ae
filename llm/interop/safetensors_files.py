"""Weights in safetensors files: read one tensor at a time, written in shards.

A pickle file can run anything when it is opened, so none is ever opened here.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llm.errors import UserError

FILE = "model.safetensors"
INDEX = f"{FILE}.index.json"
SHARD_BYTES = 5 * 10**9  # as transformers; a file system or a hub may not take much larger files
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Entry:
    """What the header of a file says of one tensor."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    start: int  # of its bytes in the file
    n_bytes: int


def headers(folder: Path) -> dict[str, Entry]:
    """Every tensor of the folder's safetensors files; UserError where there are none, or one is missing or damaged."""
    entries: dict[str, Entry] = {}
    for path in _files(folder):
        try:
            with safe_open(path, framework="pt"):  # checks the header, and that the file is as long as it says
                pass
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            for name, told in header.items():
                if name != "__metadata__":
                    first, end = told["data_offsets"]
                    entries[name] = Entry(path, tuple(told["shape"]), told["dtype"], 8 + length + first, end - first)
        except (SafetensorError, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path} is not a whole safetensors file ({reason}): it may have been cut off; download it again"
            ) from error
    return entries


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            paths = [folder / Path(name).name for name in sorted(named)]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{index} is no index of safetensors files: download it again") from error
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"{folder} lacks {missing[0]}{more}, which {INDEX} names: download the folder again")
        return paths
    if (folder / FILE).is_file():
        return [folder / FILE]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise UserError(f"{folder} holds {len(found)} safetensors files but no {INDEX}: download the folder again")
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder} holds weights as a pickle file alone ({pickles[0]}), which can run any program when it is "
            "opened: get them as safetensors"
        )
    raise UserError(f"{folder} holds no weights: there is no {FILE} and no {INDEX}")


def tensors(entries: dict[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """The tensors by name, file by file, each read when its turn comes and held by the caller alone.

    Not by mapping the file: its pages would stay in memory beside what is made of them, as long as one tensor is used.
    """
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].path, item[1].start)):
        raw = np.fromfile(entry.path, dtype=np.uint8, count=entry.n_bytes, offset=entry.start)
        yield name, torch.from_numpy(raw).view(DTYPES[entry.dtype]).view(entry.shape)


def write_shards(folder: Path, named: Iterable[tuple[str, Tensor]], shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors as one file, or as several of at most `shard_bytes` with an index; one shard at a time is held."""
    held: dict[str, Tensor] = {}
    held_bytes, total = 0, 0
    shards: list[tuple[Path, list[str]]] = []

    def flush() -> None:
        path = folder / f"shard-{len(shards)}.safetensors"
        save_file(held, path, metadata={"format": "pt"})
        shards.append((path, list(held)))
        held.clear()

    for name, tensor in named:
        size = tensor.numel() * tensor.element_size()
        if held and held_bytes + size > shard_bytes:
            flush()
            held_bytes = 0
        held[name] = tensor
        held_bytes += size
        total += size
    flush()
    if len(shards) == 1:
        shards[0][0].rename(folder / FILE)
        return
    weight_map: dict[str, str] = {}
    for number, (path, names) in enumerate(shards, 1):
        final = f"model-{number:05}-of-{len(shards):05}.safetensors"
        path.rename(folder / final)
        weight_map |= dict.fromkeys(names, final)
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(content, indent=2), encoding="utf-8")
