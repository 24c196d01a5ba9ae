"""A GPT cut over processes: FSDP2 within the data-parallel group, tensor parallel within each of its members.

What is cut is the model, never its configuration: the names and the whole shapes of its weights stay what they are.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from llm.model.config import GPTConfig
from llm.model.errors import ConfigError
from llm.model.gpt import GPT
from llm.model.parts import fill_part


def sharded_gpt(
    config: GPTConfig,
    seed: int,
    mesh: DeviceMesh,
    half: torch.dtype | None = None,
    weights: Mapping[str, Tensor] | None = None,
    adapt: Callable[[GPT], None] | None = None,
) -> GPT:
    """A GPT of which each process holds a part; its starting weights are those of `GPT(config, seed)`, or `weights`.

    It is described without memory, cut, and only then filled: no process ever holds more than its part and one whole
    weight.

    Args:
        config: its shape.
        seed: of its starting weights.
        mesh: of the two dimensions `data_parallel` and `tensor_parallel`.
        half: dtype in which the blocks' weights are gathered and used, beside weights, gradients and a residual
            stream in float32; None uses the weights as they are.
        weights: by name, whole ones to start with instead.
        adapt: what else is done to the described model before it is cut.

    Raises:
        ConfigError: it cannot be cut into so many parts.
    """
    dtype = torch.get_default_dtype()
    with torch.device("meta"):
        model = GPT(config)
        if adapt is not None:
            adapt(model)
    tensor_parallel = mesh["tensor_parallel"]
    if tensor_parallel.size() > 1:
        check_tensor_parallel(config, tensor_parallel.size())
        for block in model.blocks:
            parallelize_module(block, tensor_parallel, _tensor_plan(config))
    data_parallel = mesh["data_parallel"]
    policy = MixedPrecisionPolicy(
        param_dtype=half, reduce_dtype=torch.float32 if half else None, cast_forward_inputs=False
    )
    for block in model.blocks:
        fully_shard(block, mesh=data_parallel, mp_policy=policy)
    # The embedding and the head, once a step: in the weights' own dtype, as under ddp.
    fully_shard(model, mesh=data_parallel)
    register_fsdp_forward_method(model, "hidden")  # for heads of other kinds
    model.to_empty(device=_device(mesh))
    model.init_weights(seed)
    if weights is not None:
        _take(model, weights)
    assert all(weight.dtype == dtype for weight in model.parameters())
    return model


@torch.no_grad()
def _take(model: GPT, weights: Mapping[str, Tensor]) -> None:
    """Fill in this process's part of each of `weights`."""
    places = model.state_dict()
    for name, weight in weights.items():
        fill_part(places[name], weight)


def check_tensor_parallel(config: GPTConfig, parts: int) -> None:
    """ConfigError where the heads or the feed-forward cannot be cut into so many equal `parts`."""
    for name in ("n_heads", "n_kv_heads", "d_ff"):
        if getattr(config, name) % parts:
            raise ConfigError(
                f"{name} {getattr(config, name)} is not divisible by tensor_parallel_size {parts}: change one of them"
            )
    if config.n_experts:
        raise ConfigError("experts are not cut by tensor parallelism: set tensor_parallel_size to 1, or n_experts to 0")


def sum_parts_of_gradients(model: nn.Module, mesh: DeviceMesh) -> None:
    """Add up the gradients of weights that each tensor-parallel process used for its own heads alone.

    Queries' and keys' norms have one weight for all heads, of which each process sees some.
    """
    if mesh["tensor_parallel"].size() == 1:
        return
    group = mesh["tensor_parallel"].get_group()
    for name, weight in model.named_parameters():
        if name.endswith(("query_norm.weight", "key_norm.weight")) and weight.grad is not None:
            grad = weight.grad
            torch.distributed.all_reduce(grad.to_local() if isinstance(grad, DTensor) else grad, group=group)


def whole_copy(model: GPT) -> GPT:
    """A GPT of one process with the same weights; all that hold a part must call, and each gets one."""
    state = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in model.state_dict().items()}
    return GPT.from_state(model.config, state)


def _tensor_plan(config: GPTConfig) -> dict[str, ParallelStyle]:
    """Each process computes some heads and some of the feed-forward's inner width; two sums a block are sent."""
    wide = ["attention.query", "attention.key", "attention.value", "feedforward.up"]
    if config.feedforward == "swiglu":
        wide.append("feedforward.gate")
    plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in wide}
    return {**plan, "attention.output": RowwiseParallel(), "feedforward.down": RowwiseParallel()}


def _device(mesh: DeviceMesh) -> torch.device:
    return (
        torch.device(mesh.device_type, torch.cuda.current_device())
        if mesh.device_type == "cuda"
        else torch.device("cpu")
    )
