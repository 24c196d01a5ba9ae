"""A trained model writes."""

from llm.generation.generate import generate
from llm.generation.sampling import sample
from llm.generation.stream import stream_text
from llm.generation.text import continue_text

__all__ = ["continue_text", "generate", "sample", "stream_text"]
