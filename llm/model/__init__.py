"""The model in pure PyTorch: it knows no Lightning, no data and no files."""

from llm.model.cache import KVCache
from llm.model.config import ConfigError, GPTConfig
from llm.model.fusing import fuse_projections
from llm.model.gpt import GPT
from llm.model.loss import next_token_loss

__all__ = ["GPT", "ConfigError", "GPTConfig", "KVCache", "fuse_projections", "next_token_loss"]
