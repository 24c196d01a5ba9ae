"""A checkpoint as a folder to which many processes wrote their parts (torch.distributed.checkpoint).

It holds what the file of one process holds, in the same tree of dicts and lists: `skeleton.pt` is that tree with a
mark in place of each tensor, the tensors lie in the files of the processes, and `manifest.json` lists size and digest
of each file, which tells a damaged one.
"""

import io
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import xxhash
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

SKELETON, MANIFEST = "skeleton.pt", "manifest.json"
_MARK = "tensor of the folder"  # the only key of the dict that stands for a tensor
_PIECE = 1 << 24  # bytes read at once


def key_of(path: tuple[Any, ...]) -> str:
    """The name in the folder of the tensor at such a place of the tree."""
    return "/".join(str(part) for part in path)


def taken_apart(tree: Any, path: tuple[Any, ...] = ()) -> tuple[Any, dict[str, Tensor]]:
    """The tree with marks in place of its tensors, and these by their names."""
    if isinstance(tree, Tensor):
        return {_MARK: key_of(path)}, {key_of(path): tree}
    if isinstance(tree, dict):
        parts = {key: taken_apart(value, (*path, key)) for key, value in tree.items()}
        return {k: part[0] for k, part in parts.items()}, {k: t for part in parts.values() for k, t in part[1].items()}
    if type(tree) in (list, tuple):
        many = [taken_apart(value, (*path, number)) for number, value in enumerate(tree)]
        return type(tree)(part[0] for part in many), {k: t for part in many for k, t in part[1].items()}
    return tree, {}


def put_together(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree again, from what `taken_apart` gave."""
    if isinstance(skeleton, dict):
        if skeleton.keys() == {_MARK}:
            return tensors[skeleton[_MARK]]
        return {key: put_together(value, tensors) for key, value in skeleton.items()}
    if type(skeleton) in (list, tuple):
        return type(skeleton)(put_together(value, tensors) for value in skeleton)
    return skeleton


def is_folder_checkpoint(path: Path) -> bool:
    """Whether `path` is such a folder."""
    return (path / SKELETON).is_file()


def read_folder(path: Path, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The checkpoint, every tensor whole and on the CPU.

    Args:
        path: of the folder.
        without: keys of the tree whose tensors are not read, and are on the meta device.
    """
    skeleton = torch.load(path / SKELETON, weights_only=True)
    reader = SafeReader(path)
    stored = {
        k: v for k, v in reader.read_metadata().state_dict_metadata.items() if isinstance(v, TensorStorageMetadata)
    }
    wanted = {key for key in stored if key.partition("/")[0] not in without}
    tensors = {
        key: torch.empty(info.size, dtype=info.properties.dtype, device="cpu" if key in wanted else "meta")
        for key, info in stored.items()
    }
    read_tensors(path, {key: tensors[key] for key in wanted})
    tree: dict[str, Any] = put_together(skeleton, tensors)
    return tree


def read_tensors(path: Path, targets: dict[str, Tensor]) -> None:
    """Fill `targets`, whole ones or parts (DTensor), with the folder's tensors of these names, without the others."""
    if targets:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single process.*")
            dcp.load(targets, storage_reader=SafeReader(path), no_dist=True)


def digest(path: Path) -> str:
    """Of a file's bytes, xxh3 in hexadecimal."""
    found = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def folder_damage(path: Path) -> str | None:
    """What is wrong with a folder, or None: its files are compared with the sizes and digests of its manifest."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        for name, (size, known) in files.items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if (path / name).stat().st_size != size:
                return f"{name} has {(path / name).stat().st_size} bytes instead of {size}"
            if digest(path / name) != known:
                return f"the digest of {name} is wrong"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    return None


class SafeReader(FileSystemReader):
    """Reads the list of contents without running what a stranger may have put there: it is a pickle."""

    def read_metadata(self, *arguments: Any, **settings: Any) -> Metadata:
        """As FileSystemReader does, with the classes of such lists alone.

        Raises:
            pickle.UnpicklingError: it names anything else.
        """
        content = (Path(self.path) / ".metadata").read_bytes()
        metadata: Metadata = _Contents(io.BytesIO(content)).load()
        metadata.storage_meta = getattr(metadata, "storage_meta", None) or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Contents(pickle.Unpickler):
    MODULES = (
        "torch.distributed.checkpoint.metadata",
        "torch.distributed.checkpoint.filesystem",
        "torch.serialization",
    )
    NAMES = frozenset({"torch.Size", "torch._utils._rebuild_device", "collections.OrderedDict", "pathlib.PosixPath"})

    def find_class(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}"
        if module in self.MODULES or whole in self.NAMES or isinstance(getattr(torch, name, None), torch.dtype):
            return super().find_class(module, name)
        if whole in ("torch.layout", "torch.memory_format", "torch.serialization._get_layout"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"the list of contents names {whole}")
