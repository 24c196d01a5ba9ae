"""KVCache: the keys and values of the tokens that a model has already read."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from llm.model.config import GPTConfig
from llm.model.position import Angles, rotary_angles


class KVCache:
    """Room for the keys and values of `capacity` tokens a row in every layer, allocated once.

    Rows can hold unequal numbers of tokens; they are then read one token at a time. Where the model has a sliding
    window shorter than `capacity`, no more is kept than the window: a new token takes the place of the oldest. No
    gradient passes through what is held.

    Args:
        config: of the model that fills it.
        batch_size: number of rows.
        capacity: tokens a row can hold; default: the model's context.
        dtype: of the model's activations.
        device: of the model.

    Attributes:
        lengths: int64 [batch_size], on the CPU: the tokens that each row holds.
        last_tokens: int64 [batch_size, n_remembered of the config], the last of them, -1 where there are fewer.
        angles: RoPE's for every position [capacity, 1, head_dim], or None where there are none, or none that last.
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
        self.n_places = min(self.capacity, config.sliding_window or self.capacity)
        # Each head's keys lie side by side, as attention reads them.
        shape = (config.n_layers, 2, batch_size, config.n_kv_heads, self.n_places, config.head_dim)
        # Zeros: what is masked counts nothing times its value, which is not nothing if the value is NaN.
        self._store = torch.zeros(shape, dtype=dtype, device=device)
        self._layers = _parts(self._store)
        self.angles = _angles_of(config, self.capacity, device)
        self.lengths = torch.zeros(batch_size, dtype=torch.int64)
        self.last_tokens = torch.full((batch_size, config.n_remembered), -1, device=device)

    def rows(self, first: int, end: int) -> Self:
        """The rows from `first` up to `end`, as a cache that shares their memory."""
        view = object.__new__(type(self))
        view.capacity, view.n_places, view.angles = self.capacity, self.n_places, self.angles
        view._store = self._store[:, :, first:end]
        view._layers = _parts(view._store)
        view.lengths, view.last_tokens = self.lengths[first:end], self.last_tokens[first:end]
        return view

    @property
    def length(self) -> int:
        """The tokens that every row holds. Raises ValueError where rows differ."""
        lengths = set(self.lengths.tolist())
        if len(lengths) > 1:
            raise ValueError(f"the rows of this cache hold unequal numbers of tokens: {sorted(lengths)}")
        return lengths.pop()

    def append(self, tokens: Tensor) -> "Appending":
        """Make room for `tokens` int64 [batch_size, T], which every layer then fills, and count them as held."""
        lengths, n_new = self.lengths.tolist(), tokens.shape[1]
        longest = max(lengths) + n_new
        if longest > self.capacity:
            raise ValueError(f"a KV cache for {self.capacity} tokens cannot hold {longest}")
        if min(lengths) == max(lengths):
            appending: Appending = _EvenRows(self._layers, lengths[0], n_new)
        elif n_new == 1:
            appending = _UnevenRows(self._layers, self.lengths)
        else:
            raise ValueError("rows that hold unequal numbers of tokens are read one token at a time")
        self.lengths += n_new
        if self.last_tokens.shape[1]:
            appending.before = self.last_tokens.clone()
            self.last_tokens.copy_(torch.cat([self.last_tokens, tokens], 1)[:, n_new:])
        return appending

    def copy_row(self, source: int, target: int) -> None:
        """Make row `target` hold what row `source` does."""
        held = min(int(self.lengths[source]), self.n_places)
        self._store[:, :, target, :, :held] = self._store[:, :, source, :, :held]
        self.lengths[target] = self.lengths[source]
        self.last_tokens[target] = self.last_tokens[source]

    def cut(self, kept: Sequence[Sequence[int]]) -> None:
        """Keep of each row its first tokens, which are these.

        Nothing may have been overwritten yet, unless nothing is kept.
        """
        self.lengths.copy_(torch.tensor([len(tokens) for tokens in kept]))
        width = self.last_tokens.shape[1]
        if width:
            last = [[-1] * (width - len(tokens)) + list(tokens[-width:]) for tokens in kept]
            self.last_tokens.copy_(torch.tensor(last))

    def clear(self) -> None:
        """Forget every token; the memory stays for the next sequences."""
        self.lengths.zero_()
        self.last_tokens.fill_(-1)


_Layers = list[tuple[Tensor, Tensor]]


def _parts(store: Tensor) -> _Layers:
    """The keys and the values of each layer: taken apart once, and not by every token in every layer."""
    return [(layer[0], layer[1]) for layer in (store[number] for number in range(len(store)))]


def _angles_of(config: GPTConfig, length: int, device: torch.device | str) -> Angles | None:
    if config.position != "rope" or (config.rope_scaling is not None and config.rope_scaling.type == "dynamic"):
        return None
    positions = torch.arange(length, device=device)
    return rotary_angles(positions, 1, config.head_dim, config.rope_theta, config.rope_scaling)


class Appending(ABC):
    """Where the tokens of one forward pass go, the same in every layer.

    Attributes:
        positions: int64 [T] or, where rows are uneven, [B, 1]: of the new tokens.
        longest: tokens of the longest row, the new ones included.
        before: int64 [B, n_remembered], the last tokens of each row before the new ones, -1 where there are fewer; None
            where nothing asks for them.
        visible: bool [B, 1, 1, S], which of the S keys each row's one new token sees; None where the rule of `attend`
            holds.
    """

    positions: Tensor
    longest: int
    before: Tensor | None = None
    visible: Tensor | None = None

    def __init__(self, layers: _Layers) -> None:
        self.layers = layers  # B H S D each
        self.n_places = layers[0][0].shape[2]

    @abstractmethod
    def at_positions(self, table: Tensor) -> Tensor:
        """The entries [T, ...] or, where rows are uneven, [B, 1, ...] of a table that has one for each position."""

    def __call__(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens' keys and values [B, T, H, D] of one layer.

        Returns:
            Those that the new tokens may look at, theirs included: [B, S, H, D] each. Oldest first, unless one token
            is new, which sees them all or those that are `visible`.
        """
        if keys.requires_grad or values.requires_grad:
            keys, values = keys.detach(), values.detach()
        held_keys, held_values = self.layers[layer]
        return self._put(held_keys, keys), self._put(held_values, values)

    @abstractmethod
    def _put(self, held: Tensor, new: Tensor) -> Tensor:
        """Store `new` [B, T, H, D] in `held` [B, H, S, D]; what the new tokens may look at, [B, S, H, D]."""


class _EvenRows(Appending):
    """All rows hold as many tokens."""

    def __init__(self, layers: _Layers, held: int, n_new: int) -> None:
        super().__init__(layers)
        self.held, self.longest = held, held + n_new
        device = layers[0][0].device
        self.positions = torch.arange(held, self.longest, device=device)
        self.n_seen = min(self.longest, self.n_places)
        over_the_end = self.longest > self.n_places
        self.places = self.positions[-self.n_places :] % self.n_places if over_the_end else self.positions
        # Of several tokens the first sees what the last overwrites.
        self.before_places: Tensor | None = None
        if over_the_end and n_new > 1:
            before = torch.arange(max(held - self.n_places, 0), held, device=device)
            self.before_places = before % self.n_places

    def at_positions(self, table: Tensor) -> Tensor:
        return table[self.held : self.longest]

    def _put(self, held: Tensor, new: Tensor) -> Tensor:
        new = new.transpose(1, 2).to(held.dtype)
        if self.before_places is not None:
            seen = torch.cat([held[:, :, self.before_places], new], 2)
            held[:, :, self.places] = seen[:, :, -len(self.places) :]
            return seen.transpose(1, 2)
        held.index_copy_(2, self.places, new)
        return held.narrow(2, 0, self.n_seen).transpose(1, 2)


class _UnevenRows(Appending):
    """One token a row, each to a place of its own."""

    def __init__(self, layers: _Layers, lengths: Tensor) -> None:
        super().__init__(layers)
        device = layers[0][0].device
        self.longest = int(lengths.max()) + 1
        # A tensor of its own: the cache counts on in `lengths`.
        self.positions = lengths.clone().unsqueeze(1).to(device)
        self.row = torch.arange(len(lengths), device=device)
        self.place = self.positions.squeeze(1) % self.n_places
        self.n_seen = min(self.longest, self.n_places)
        places = torch.arange(self.n_seen, device=device)
        self.visible = (places <= self.positions)[:, None, None]

    def at_positions(self, table: Tensor) -> Tensor:
        return table[self.positions]

    def _put(self, held: Tensor, new: Tensor) -> Tensor:
        held[self.row, :, self.place] = new[:, 0].to(held.dtype)
        return held.narrow(2, 0, self.n_seen).transpose(1, 2)
