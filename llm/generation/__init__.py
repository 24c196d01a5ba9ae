"""A trained model writes."""

from llm.generation.engine import Continuation, Engine
from llm.generation.generate import generate, generate_batch
from llm.generation.sampling import Sampling
from llm.generation.stream import TextStream, stream_text
from llm.generation.text import Written, continue_text, continue_texts

__all__ = [
    "Continuation",
    "Engine",
    "Sampling",
    "TextStream",
    "Written",
    "continue_text",
    "continue_texts",
    "generate",
    "generate_batch",
    "stream_text",
]
