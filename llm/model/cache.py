"""KVCache: the keys and values of the tokens that a model has already read."""

import torch
from torch import Tensor

from llm.model.config import GPTConfig


class KVCache:
    """Room for the keys and values of `capacity` tokens in every layer, allocated once.

    Args:
        config: of the model that fills it.
        batch_size: number of sequences, all of one length.
        capacity: tokens a sequence; default: the model's context.
        dtype: of the model's activations.
        device: of the model.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int = 1,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity = config.context_length if capacity is None else capacity
        shape = (config.n_layers, 2, batch_size, self.capacity, config.n_kv_heads, config.head_dim)
        self._store = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0  # tokens that every layer holds
        self.last_token: Tensor | None = None  # int64 [B, 1], where there is one

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' keys and values [B, T, H, D] of one layer; return all of them [B, length + T, H, D].

        `length` moves only once every layer has stored its part: see `advance`.
        """
        stop = self.length + keys.shape[1]
        if stop > self.capacity:
            raise ValueError(f"a KV cache for {self.capacity} tokens cannot hold {stop}")
        self._store[layer, 0, :, self.length : stop] = keys
        self._store[layer, 1, :, self.length : stop] = values
        return self._store[layer, 0, :, :stop], self._store[layer, 1, :, :stop]

    def advance(self, tokens: Tensor) -> None:
        """Count `tokens` int64 [B, T] as held by every layer."""
        self.length += tokens.shape[1]
        self.last_token = tokens[:, -1:]

    def clear(self) -> None:
        """Forget every token; the memory stays for the next sequence."""
        self.length, self.last_token = 0, None
