"""GPT: the one model class; its configuration makes it a GPT-2, a Llama or a Qwen3."""

from collections.abc import Mapping
from typing import Literal, Self, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.attention import Attention
from llm.model.attention_kernels import Documents, first_of_documents
from llm.model.bigrams import BigramEmbedding
from llm.model.cache import Appending, KVCache
from llm.model.checkpointing import Checkpointing, run_block
from llm.model.config import GPTConfig
from llm.model.feedforward import dense_feedforward
from llm.model.init import init_weights
from llm.model.loss import head_and_loss, soft_cap, token_losses
from llm.model.mixture import NGramMixture
from llm.model.moe import MixtureOfExperts
from llm.model.norm import build_norm
from llm.model.position import Angles, rotary_angles


def _unchanged(x: Tensor) -> Tensor:
    return x


class Block(nn.Module):
    """One layer: attention between the tokens, then a feed-forward within each, both added to the stream."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config, layer)
        self.feedforward_norm = build_norm(config)
        self.feedforward = MixtureOfExperts(config) if config.n_experts else dense_feedforward(config, config.d_ff)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else _unchanged

    def forward(
        self,
        x: Tensor,
        angles: Angles | None,
        held: Appending | None = None,
        documents: Documents | None = None,
    ) -> Tensor:
        """Map x [B, T, d_model] to the same shape; `angles` are RoPE's, for the positions of x."""
        x = x + self.dropout(self.attention(self.attention_norm(x), angles, held, documents))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class GPT(nn.Module):
    """A decoder-only transformer that gives the logits of each next token.

    On the meta device it is described without memory; `to_empty(device=...)` and `init_weights(seed)` then make the
    same weights as building it there with that seed. A tied head is no parameter of its own, so nothing can untie it.

    Two attributes say how it is trained, and change no prediction: `checkpointing`, what is kept of each block for the
    backward pass (llm/model/checkpointing.py), and `z_loss`, its weight in the loss (llm/model/loss.py).

    Args:
        config: its shape.
        seed: of the starting weights, which depend on nothing else.
    """

    def __init__(self, config: GPTConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.checkpointing: Checkpointing = "none"
        self.z_loss = 0.0
        device = torch.get_default_device()
        # PyTorch's own starting weights would be drawn only to be overwritten.
        with torch.device("meta"):
            self.embedding = nn.Embedding(config.vocab_size, config.d_model)
            self.bigrams = BigramEmbedding(config.bigram_rows, config.d_model) if config.bigram_rows else None
            learned = config.position == "learned"
            self.position_embedding = nn.Embedding(config.context_length, config.d_model) if learned else None
            self.dropout = nn.Dropout(config.dropout) if config.dropout else _unchanged
            self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
            self.norm = build_norm(config)
            self.head = None if config.tie_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)
            order = config.ngram_order
            self.ngrams = NGramMixture(config.vocab_size, config.d_model, order) if order else None
        if device.type != "meta":
            self.to_empty(device=device)
            self.init_weights(seed)

    @classmethod
    def from_state(cls, config: GPTConfig, state: Mapping[str, Tensor]) -> Self:
        """A model of `config` in eval mode whose weights are the tensors of `state`, without a copy of them."""
        with torch.device("meta"):
            model = cls(config)
        model.load_state_dict(state, assign=True)
        return model.eval()

    def init_weights(self, seed: int = 0) -> None:
        """Draw the starting weights anew; the formulas stand in llm/model/init.py."""
        init_weights(self, self.config, seed)
        if self.ngrams is not None:
            self.ngrams.counts.reset()

    @overload
    def forward(
        self, tokens: Tensor, targets: None = None, *, cache: KVCache | None = None, documents: Tensor | None = None
    ) -> Tensor: ...

    @overload
    def forward(
        self, tokens: Tensor, targets: Tensor, *, documents: Tensor | None = None, each: Literal[False] = False
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self, tokens: Tensor, targets: Tensor, *, documents: Tensor | None = None, each: Literal[True]
    ) -> Tensor: ...

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        *,
        cache: KVCache | None = None,
        documents: Tensor | None = None,
        each: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [B, T, vocab_size] of the token after each of `tokens` int64 [B, T]; beside counts, log-probabilities.

        With `targets` int64 [B, T] (-100: none), what `next_token_loss` makes of those logits instead: their summed
        negative log-likelihood in nats and how many there are. Training asks this way, because the logits of a whole
        batch, the largest tensor of all, are then never needed at once. With `each` it is the negative log-likelihood
        of each target, float32 [B, T], 0 where there is none.

        With a `cache`, `tokens` follow those that it holds, and it holds them too afterwards.

        With `documents`, integers [B, T] that number the documents packed into each row, no token sees another
        document, and positions begin anew in each. A cache holds one document a row, so the two exclude each other.
        """
        before = None if cache is None or self.ngrams is None else cache.last_tokens.clone()
        x = self.hidden(tokens, cache=cache, documents=documents)
        beside = None
        if self.ngrams is not None:
            first = None if documents is None else first_of_documents(documents)
            beside = self.ngrams(x, tokens, targets, before, first)
        weight, cap = (self.embedding if self.head is None else self.head).weight, self.config.logit_soft_cap
        if targets is not None and not each:
            return head_and_loss(x, weight, targets, cap, self.z_loss, beside)
        logits = soft_cap(F.linear(x, weight), cap)  # B T V
        if targets is not None:
            return token_losses(logits, targets, beside)
        return logits if beside is None else beside.mix(logits.log_softmax(-1, torch.float32))

    def hidden(self, tokens: Tensor, *, cache: KVCache | None = None, documents: Tensor | None = None) -> Tensor:
        """What the head makes logits of: [B, T, d_model], of the arguments of `forward`."""
        config = self.config
        if documents is not None and cache is not None:
            raise ValueError("a cache holds one document a row; documents cannot be packed into it")
        packed = None if documents is None else Documents(documents)
        held = None if cache is None else cache.append(tokens)
        length = tokens.shape[1] if held is None else held.longest
        if length > config.context_length:
            raise ValueError(f"{length} tokens do not fit in a context of {config.context_length}")
        x = self.embedding(tokens)  # B T d_model
        if self.bigrams is not None:
            before = None if held is None else held.before
            x = x + self.bigrams(tokens, before, None if packed is None else packed.first)
        positions = torch.arange(length, device=tokens.device) if held is None else held.positions
        angles = None
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions if packed is None else packed.positions())
        elif held is not None and cache is not None and cache.angles is not None:
            angles = held.at_positions(cache.angles[0]), held.at_positions(cache.angles[1])
        else:
            # Scores depend on differences of positions alone, so within a document they need not begin at 0.
            angles = rotary_angles(positions, config.n_heads, config.head_dim, config.rope_theta, config.rope_scaling)
        x = self.dropout(x)
        for block in self.blocks:
            x = run_block(self.checkpointing, block, x, angles, held, packed)
        return self.norm(x)
