"""Which strategies can be named, and which cannot be had."""

from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.strategies import StrategyRegistry

from llm.configuration import nearest
from llm.distributed.strategy import FSDP2
from llm.errors import UserError

NAMES = ("auto", "ddp", "fsdp", "fsdp2")


def register_strategies() -> None:
    """Make `--trainer.strategy=fsdp2` known to Lightning."""
    if "fsdp2" not in StrategyRegistry.available_strategies():
        StrategyRegistry.register("fsdp2", FSDP2, description="fully sharded data parallel, of torch's second kind")


def check_strategy(trainer: Namespace) -> None:
    """Refuse what cannot be had here; `fsdp` becomes `fsdp2`, which PyTorch has put in its place.

    Args:
        trainer: its options.

    Raises:
        UserError: a strategy or a precision that does not go with the device or the strategy.
    """
    name = trainer.get("strategy")
    if isinstance(name, str) and name not in (*NAMES, *StrategyRegistry.available_strategies()):
        raise UserError(f"trainer.strategy {name!r} is not known{nearest(name, NAMES)}; usual are {', '.join(NAMES)}")
    if name == "fsdp":
        if trainer.get("accelerator") == "cpu" or not torch.cuda.is_available():
            raise UserError(
                "trainer.strategy fsdp needs a CUDA device: on a CPU take fsdp2, which shards there as well"
            )
        trainer.strategy = name = "fsdp2"
    if is_fsdp2(name) and trainer.get("precision") in ("16", 16, "16-mixed"):
        raise UserError(
            "trainer.precision 16-mixed does not go with fsdp2: its loss scaler cannot see all shards; take bf16-mixed"
        )

    parts = name.get("init_args", {}).get("tensor_parallel_size", 1) if isinstance(name, Namespace) else 1
    if isinstance(trainer.get("devices"), int) and trainer.devices * trainer.num_nodes % parts:
        raise UserError(
            f"trainer.strategy.tensor_parallel_size {parts} does not divide the {trainer.devices * trainer.num_nodes} "
            "processes of this run: change one of them"
        )


def is_fsdp2(strategy: Any) -> bool:
    """Whether the trainer's option names it, as a word or as a class."""
    if isinstance(strategy, Namespace):
        return str(strategy.get("class_path")).rpartition(".")[2] == FSDP2.__name__
    return strategy == "fsdp2" or isinstance(strategy, FSDP2)
