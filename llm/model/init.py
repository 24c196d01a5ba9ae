"""The starting weights of a GPT, by formula.

Matrices are drawn from a normal distribution with mean 0; norm weights start at one, biases, a table of bigrams and
the gate of counts at zero.

`gpt2` (Radford et al. 2019, section 2.3, and their released code): std 0.02, and 0.02 / √(2 n_layers) for the matrices
that write to the residual stream, of which there are two a layer, so that its variance does not grow with the depth.

`fan_in`: std 1/√fan_in (LeCun et al. 1998, section 4.6), which keeps a normalised input at unit variance whatever the
width, and 1/√(fan_in · 2 n_layers) for those that write to the residual stream. An untied embedding has std 1, so that
the token is still heard beside the blocks' sum, whose variance is of the same order. An untied head has std 1/d_model
(Yang et al. 2022, muP, table 8): the logits start near zero, and the loss near ln(vocab_size).

A tied matrix is both, and the head decides: std 0.02, and less where d_model exceeds 768 (GPT-2's own), as 1/√d_model,
so that the logits' std stays at 0.55; at a width of 1,600, std 0.02 would start 3 % above ln(vocab_size).
"""

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llm.model.config import GPTConfig
from llm.model.parts import fill_part

_GPT2_STD = 0.02
_GPT2_WIDTH = 768  # for which that std was chosen


def weight_std(config: GPTConfig, name: str, shape: torch.Size) -> float:
    """Standard deviation with which the matrix called `name` in a GPT of `config` starts.

    `shape` is [..., fan_out, fan_in]: experts' matrices are stacked, and each starts as it would by itself.
    """
    layer = name.removesuffix(".weight").rsplit(".", 1)[-1]
    if layer == "embedding" and config.tie_embeddings:
        return _GPT2_STD * min(1.0, math.sqrt(_GPT2_WIDTH / config.d_model))
    if layer == "head" and config.zero_init_head:
        return 0.0
    writes_residual = layer in ("output", "down")
    if writes_residual and config.zero_init_residual:
        return 0.0
    depth = math.sqrt(2 * config.n_layers) if writes_residual else 1.0
    if config.init == "gpt2":
        return _GPT2_STD / depth
    if layer in ("embedding", "position_embedding"):
        return 1.0
    if layer == "head":
        return 1 / config.d_model
    return 1 / (math.sqrt(shape[-1]) * depth)


@torch.no_grad()
def init_weights(model: nn.Module, config: GPTConfig, seed: int) -> None:
    """Draw every parameter of `model` in place, each from a stream of its own named by (seed, parameter name).

    So the weights depend neither on the order of construction nor on what drew random numbers before.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or name in ("bigrams.weight", "ngrams.gate.weight"):
            parameter.zero_()
        elif parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            _draw(parameter, weight_std(config, name, parameter.shape), stream(name, seed, parameter.device))
    for buffer in model.buffers():  # of routers, whose experts start level
        buffer.zero_()


def _draw(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    if not isinstance(parameter, DTensor):
        parameter.normal_(0.0, std, generator=generator)
        return
    # Of a matrix that is cut over processes each draws the whole, and keeps its part.
    whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    fill_part(parameter, whole.normal_(0.0, std, generator=generator))


def stream(name: str, seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of the parameter called `name` in a run of that seed."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=4).digest()  # the CPU generator takes 32 bits
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))
