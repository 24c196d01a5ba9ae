"""FSDP2 and tensor parallel as a strategy of Lightning, with checkpoints that any other strategy opens."""

import logging
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from llm.distributed.sharded_checkpoint import ShardedWriter, load_shards, opened
from llm.errors import UserError

# PyTorch warns of what a weight that is cut twice costs when it is gathered, which is done to be saved alone.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)


class FSDP2(ModelParallelStrategy):
    """Every process holds a part of each weight, its gradient and its optimizer state (PyTorch's `fully_shard`).

    Unlike `ddp`, which keeps all of it everywhere, a model takes the less memory the more devices there are.
    Checkpoints are folders, to which each process writes its part; they are the same run as those of one file.

    Args:
        tensor_parallel_size: processes that share the work on each row of data, by heads and by inner width of the
            feed-forward; they should be of one node. All others divide the rows among themselves.
        save_distributed_checkpoint: False gathers a checkpoint in one file, which rank 0 must have the memory for.
        timeout_minutes: after which a process that waits for others fails.
    """

    def __init__(
        self,
        tensor_parallel_size: int = 1,
        save_distributed_checkpoint: bool = True,
        timeout_minutes: float = 30.0,
    ) -> None:
        if tensor_parallel_size < 1:
            raise UserError(f"trainer.strategy.tensor_parallel_size is {tensor_parallel_size}: it can be 1 or more")
        super().__init__(
            data_parallel_size="auto",
            tensor_parallel_size=tensor_parallel_size,
            save_distributed_checkpoint=save_distributed_checkpoint,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self._writer: ShardedWriter | None = None

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning hands the saved state over, as under other strategies."""
        return True

    def setup_environment(self) -> None:
        """Start the process group, and lay out the processes: data parallel by tensor parallel."""
        parts, processes = self._tensor_parallel_size, self.world_size
        assert isinstance(parts, int)
        if processes % parts:
            raise UserError(
                f"trainer.strategy.tensor_parallel_size {parts} does not divide the {processes} processes of this run"
            )
        self._data_parallel_size = processes // parts
        super().setup_environment()

    # ---- saving -------------------------------------------------------------------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights, each process its own parts."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state, each process its own parts; numbered as without sharding."""
        return (optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer).state_dict()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a folder, all processes together, or one file, in the background where the CheckpointIO does so."""
        path = Path(self.broadcast(str(filepath)))
        if self._save_distributed_checkpoint:
            self._writer = self._writer or ShardedWriter(self.checkpoint_io)
            self._writer.save(checkpoint, path)
            return
        whole = _gathered(checkpoint)
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(whole, path)

    # ---- loading ------------------------------------------------------------------------------------------------

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Open a file or a folder; what is cut over processes is read when it is put in place."""
        return opened(Path(self.broadcast(str(checkpoint_path))))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this process's parts of the weights; what is not cut is loaded as under other strategies.

        Such are buffers, which may have other shapes in the checkpoint: counts of n-grams.
        """
        module = self.lightning_module
        assert module is not None
        saved_ones = checkpoint["state_dict"]  # of a run that trains an adapter, that alone
        cut = {n: t for n, t in module.state_dict().items() if isinstance(t, DTensor) and n in saved_ones}
        whole = {
            name: torch.empty(saved.shape, dtype=saved.dtype) for name, saved in saved_ones.items() if name not in cut
        }
        load_shards(checkpoint, ("state_dict",), {**cut, **whole})
        module.load_state_dict(whole, strict=False)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's parts of the optimizers' state."""
        for number, optimizer in enumerate(self.optimizers):
            saved = checkpoint["optimizer_states"][number]
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            # An empty place for each saved tensor, cut as its weight is where it has the weight's shape.
            state = {
                place: {
                    name: _place_for(value, weights[place]) if isinstance(value, torch.Tensor) else value
                    for name, value in values.items()
                }
                for place, values in saved["state"].items()
            }
            load_shards(checkpoint, ("optimizer_states", number, "state"), state)
            optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})

    def teardown(self) -> None:
        """Wait for what is being written."""
        wait = getattr(self.checkpoint_io, "wait", None)
        if wait is not None:
            wait()
        super().teardown()


def _place_for(saved: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if saved.shape == weight.shape and saved.ndim:
        return torch.empty_like(weight, dtype=saved.dtype, requires_grad=False)
    return torch.empty(saved.shape, dtype=saved.dtype)


def _gathered(value: Any) -> Any:
    """Nested state with each tensor whole, on the CPU; all processes must call."""
    if isinstance(value, torch.Tensor):
        return (value.full_tensor() if hasattr(value, "full_tensor") else value).cpu()
    if isinstance(value, dict):
        return {key: _gathered(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_gathered, value))
    return value
