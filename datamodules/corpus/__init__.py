"""Documents in, clean unique documents out; needs neither torch nor Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.corpus.curation import Curation
    from datamodules.corpus.engine import Engine
    from datamodules.corpus.pipeline import Pipeline
    from datamodules.corpus.shards import read_batches, shards_of

__all__ = ["Curation", "Engine", "Pipeline", "read_batches", "shards_of"]

MODULES = {
    "Curation": "curation",
    "Engine": "engine",
    "Pipeline": "pipeline",
    "read_batches": "shards",
    "shards_of": "shards",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: a worker that needs one stage does not import the whole pipeline."""
    if name in MODULES:
        return getattr(import_module(f"datamodules.corpus.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
