"""Activation checkpointing: a block's activations are made again for the backward pass instead of being kept.

The gradients are exactly those without it: the same operations run again on the same numbers, dropout included, whose
random state is put back (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
"""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Checkpointing = Literal["none", "selective", "full"]

# What `selective` keeps: the results of the linear maps and of SDPA, which are most of a block's operations; what lies
# between them (norms, rotations, activations, sums) takes as much memory and next to no time to make again (Korthikanti
# et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 5).
_KEPT = frozenset(
    {
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)
_KEPT_BY_NAME = frozenset({"torch_attn._varlen_attn.default"})  # registered at its first use


def run_block(mode: Checkpointing, block: nn.Module, *arguments: Any) -> Tensor:
    """`block(*arguments)`; where gradients are wanted, with what `mode` says kept of it."""
    if mode == "none" or not torch.is_grad_enabled():
        output = block(*arguments)
    elif mode == "full":
        output = checkpoint(block, *arguments, use_reentrant=False)
    else:
        contexts = partial(create_selective_checkpoint_contexts, _policy)
        output = checkpoint(block, *arguments, use_reentrant=False, context_fn=contexts)
    assert isinstance(output, Tensor)
    return output


def _policy(context: Any, operation: Any, *arguments: Any, **settings: Any) -> CheckpointPolicy:
    kept = operation in _KEPT or str(operation) in _KEPT_BY_NAME
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
