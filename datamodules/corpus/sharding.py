"""Inputs cut into shards, the pieces in which the work is done and kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.corpus.sources import Input


@dataclass(frozen=True)
class Shard:
    """Inputs that are read together."""

    inputs: tuple[Input, ...]

    @property
    def identity(self) -> str:
        return "|".join(item.name for item in self.inputs)

    @property
    def name(self) -> str:
        return self.inputs[0].name


def plan_shards(inputs: Sequence[Input], shard_bytes: int) -> list[Shard]:
    """Group small inputs, in the order of their names, into shards of about `shard_bytes`."""
    shards: list[Shard] = []
    group: list[Input] = []
    size = 0
    for item in sorted(inputs, key=lambda item: (item.source, item.shard)):
        group.append(item)
        size += item.path.stat().st_size if item.path is not None and item.path.is_file() else shard_bytes
        if size >= shard_bytes:
            shards.append(Shard(tuple(group)))
            group, size = [], 0
    return shards + ([Shard(tuple(group))] if group else [])
