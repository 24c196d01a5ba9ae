"""A table of hashed pairs of tokens beside the embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Odd, and far from each other in their bits, so that pairs spread over the rows.
_BEFORE, _TOKEN = 0x9E3779B1, 0x85EBCA77


class BigramEmbedding(nn.Embedding):
    """A vector for each hashed pair of a token and the one before it, to be added to the token's embedding.

    What a short training learns are the statistics of short runs of tokens; looked up, they cost no matrix product
    (Svenstrup et al. 2017, hash embeddings; Huang et al. 2025, over-tokenized transformer, section 3.2). Pairs that
    fall on one row share it. No other program can load such a model.
    """

    def forward(self, tokens: Tensor, before: Tensor | None = None, first: Tensor | None = None) -> Tensor:
        """Vectors [B, T, d_model] for `tokens` int64 [B, T].

        The last of `before` int64 [B, 1 or more] stands before them, if anything does; nothing stands before those
        that `first`, bool [B, T], marks.
        """
        pad = torch.full_like(tokens[:, :1], -1) if before is None else before[:, -1:]
        previous = torch.cat([pad, tokens[:, :-1]], 1)
        if first is not None:
            previous = previous.masked_fill(first, -1)
        return F.embedding(((previous + 1) * _BEFORE ^ tokens * _TOKEN) % self.num_embeddings, self.weight)
