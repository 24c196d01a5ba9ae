"""Documents in, clean unique documents out; needs neither torch nor Lightning."""

from datamodules.corpus.curation import Curation
from datamodules.corpus.engine import Engine
from datamodules.corpus.pipeline import Pipeline
from datamodules.corpus.shards import read_batches, shards_of

__all__ = ["Curation", "Engine", "Pipeline", "read_batches", "shards_of"]
