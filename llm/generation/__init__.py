"""A trained model writes."""

from llm.generation.generate import generate
from llm.generation.sampling import sample
from llm.generation.stream import stream_text

__all__ = ["generate", "sample", "stream_text"]
