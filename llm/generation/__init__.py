"""A trained model writes."""

from llm.generation.generate import generate
from llm.generation.sampling import sample

__all__ = ["generate", "sample"]
