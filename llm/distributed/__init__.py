"""Strategies by name: `fsdp2` besides those of Lightning."""

from llm.distributed.choice import check_strategy, register_strategies
from llm.distributed.strategy import FSDP2

__all__ = ["FSDP2", "check_strategy", "register_strategies"]
