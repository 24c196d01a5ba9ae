"""Causal self-attention, with shared key and value heads where the configuration says so."""

import torch
from torch import Tensor, nn

from llm.model.attention_kernels import Documents, attend
from llm.model.cache import Appending
from llm.model.config import GPTConfig
from llm.model.functions import project
from llm.model.fusing import FusedHeads, can_fuse
from llm.model.norm import RMSNorm
from llm.model.position import Angles, rotate


class Attention(nn.Module):
    """Each token looks at itself and at those before it (Vaswani et al. 2017; GQA: Ainslie et al. 2023).

    The four maps are matrices of their own: Muon orthogonalises each by itself, an export copies each by its name,
    and on a CPU one product of the fused width is not faster for many tokens (docs/log.md); for one it is.
    """

    fused: FusedHeads | None = None

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.dropout = config.dropout
        self.window = config.sliding_window
        width, kv_width = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.query = nn.Linear(config.d_model, width, bias=config.qkv_bias)
        self.key = nn.Linear(config.d_model, kv_width, bias=config.qkv_bias)
        self.value = nn.Linear(config.d_model, kv_width, bias=config.qkv_bias)
        self.output = nn.Linear(width, config.d_model, bias=config.bias)
        self.query_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.key_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(
        self,
        x: Tensor,
        angles: Angles | None,
        held: Appending | None = None,
        documents: Documents | None = None,
    ) -> Tensor:
        """Map x [B, T, d_model] to the same shape; `angles` are RoPE's, for the positions of x."""
        if self.fused is not None and not torch.is_grad_enabled() and self.fused.holds(*self._maps()):
            query, key, value = self.fused.heads(x, angles)
        else:
            query, key, value = self._heads(x, angles)
        visible = None
        if held is not None:
            key, value = held(self.layer, key, value)
            visible = held.visible
        dropout = self.dropout if self.training else 0.0
        mixed = attend(query, key, value, window=self.window, documents=documents, visible=visible, dropout=dropout)
        return self.output(mixed.flatten(2))

    def _heads(self, x: Tensor, angles: Angles | None) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value [B, T, H, D] of x [B, T, d_model], each by its own map."""
        heads = (*x.shape[:2], -1, self.head_dim)
        query, key, value = (part.view(heads) for part in project(x, self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        return query, key, value

    def _maps(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.query, self.key, self.value

    def fuse(self) -> None:
        """Lay the weights of query, key and value together, for what is read without gradients."""
        maps = self._maps()
        if can_fuse(*maps) and (self.fused is None or not self.fused.holds(*maps)):
            norms = [norm for norm in (self.query_norm, self.key_norm) if norm is not None]
            eps = norms[0].epsilon if norms else 0.0
            weights = [norm.weight for norm in norms]
            self.fused = FusedHeads(*maps, weights, self.head_dim, eps)
