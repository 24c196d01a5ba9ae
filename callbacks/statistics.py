"""What happens in each layer of a model in training, every so many steps."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from callbacks.records import Records

STATISTICS = "statistics.jsonl"


class Statistics(L.Callback):
    """Write for each layer, every so many steps, how large its gradients, weights, updates and activations are.

    A layer is a block (the longest `nn.ModuleList` of the model has them), or a module with parameters outside of the
    blocks. Each line of `statistics.jsonl` in the trainer's `default_root_dir` is a step and a layer (docs/guards.md);
    all its values are of the whole global batch and of whole weights, also where these are sharded. Between those steps
    nothing is looked at, and nothing is paid. The module must call `on_gradients`, as for `Guard`.

    Args:
        every_n_steps: optimizer steps between two looks; null for none.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise MisconfigurationException(f"statistics.every_n_steps is {every_n_steps}: it can be 1 or more")
        self.every_n_steps = every_n_steps
        self._step: int | None = None  # that is looked at
        self._hooks: list[RemovableHandle] = []
        self._moments: dict[str, Moments] = {}
        self._gradients: dict[str, float] = {}
        self._before: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop the lines that a resumed run will write again."""
        if self.every_n_steps is not None and trainer.is_global_zero:
            self._records(trainer).rewind(trainer.global_step)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to look at activations in the steps whose turn it is."""
        step = trainer.global_step
        if self.every_n_steps is None or step % self.every_n_steps or self._step == step:
            return
        self._stop()
        self._step = step
        for name, block in blocks_of(pl_module).items():
            self._moments[name] = moments = Moments(trainer.strategy.root_device)
            self._hooks.append(block.register_forward_hook(moments.see))

    def on_gradients(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: float, norm: float) -> bool:
        """Measure the gradients, before they are clipped, and keep the weights as they are before the step."""
        if self._step is not None:
            gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
            self._gradients = norms_by_layer(pl_module, gradients)
            self._before = {name: p.detach().clone() for name, p in pl_module.named_parameters()}
        return True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Write the lines of the step, once it has taken place."""
        if self._step is None or trainer.fit_loop._should_accumulate():
            return
        weights = norms_by_layer(pl_module, self._before)
        moved = {name: p.detach() - self._before[name] for name, p in pl_module.named_parameters()}
        updates = norms_by_layer(pl_module, moved)
        activations = {name: moments.reduced(trainer) for name, moments in self._moments.items()}
        for layer, weight in weights.items() if trainer.is_global_zero else ():
            record = {
                "step": self._step,
                "layer": layer,
                "gradient_norm": self._gradients.get(layer, 0.0),
                "weight_norm": weight,
                "update_ratio": updates[layer] / weight if weight else None,
                **activations.get(layer, NO_ACTIVATIONS),
            }
            self._records(trainer).append(record)
        self._stop()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave no hook behind, however the run ended."""
        self._stop()

    def _stop(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._step, self._hooks, self._moments, self._gradients, self._before = None, [], {}, {}, {}

    def _records(self, trainer: L.Trainer) -> Records:
        return Records(Path(trainer.default_root_dir) / STATISTICS)


class Moments:
    """Sums of the first four powers of what a module gives, and its largest size."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(5, device=device)  # of powers 0 to 4
        self.largest = torch.zeros((), device=device)

    def see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A forward hook."""
        if not module.training:
            return
        x = (output[0] if isinstance(output, tuple) else output).detach().float()
        square = x.square()
        sums = [x.new_tensor(x.numel()), x.sum(), square.sum(), (square * x).sum(), square.square().sum()]
        self.sums += torch.stack(sums)
        self.largest = torch.maximum(self.largest, x.abs().max())

    def reduced(self, trainer: L.Trainer) -> dict[str, float]:
        """Mean, standard deviation, largest size, and kurtosis (3 of a normal distribution) over all ranks."""
        sums: Tensor = trainer.strategy.reduce(self.sums, reduce_op="sum")
        largest: Tensor = trainer.strategy.reduce(self.largest, reduce_op="max")
        count, *powers = sums.tolist()
        mean, second, third, fourth = (power / count if count else 0.0 for power in powers)
        variance = max(second - mean**2, 0.0)
        central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
        kurtosis = central / variance**2 if variance else 0.0
        return dict(zip(NO_ACTIVATIONS, (mean, variance**0.5, float(largest), kurtosis), strict=True))


NO_ACTIVATIONS = dict.fromkeys(
    ("activation_mean", "activation_std", "activation_largest", "activation_kurtosis"), None
)  # of layers that are no blocks


def blocks_of(module: nn.Module) -> dict[str, nn.Module]:
    """The members of the longest ModuleList by name; the outermost one of equally long ones."""
    lists = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.ModuleList) and len(part)]
    if not lists:
        return {}
    name, longest = max(lists, key=lambda named: len(named[1]))
    return {f"{name}.{number}": block for number, block in enumerate(longest)}


def norms_by_layer(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, float]:
    """Norm of each layer's tensors together, which have the names of parameters; all ranks must call."""
    squares: defaultdict[str, float] = defaultdict(float)
    blocks = blocks_of(module)
    for name, square in _squares(tensors):
        layer = next((block for block in blocks if name.startswith(f"{block}.")), name.rpartition(".")[0])
        squares[layer] += square
    return {layer: square**0.5 for layer, square in squares.items()}


def _squares(tensors: dict[str, Tensor]) -> Iterator[tuple[str, float]]:
    norms = []
    for tensor in tensors.values():
        norm = torch.linalg.vector_norm(tensor, dtype=torch.float32)
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    values = torch.stack(norms).square().tolist() if norms else []
    return zip(tensors, values, strict=True)
