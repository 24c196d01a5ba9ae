"""Which attention kernel runs: chosen here and nowhere else.

All of them compute softmax(query · key / √D) · value, in which a token sees itself and those before it: of its own
document where `documents` are given, and no farther back than a window where there is one. `masked_attention` is the
reference; the others are tested against it, forwards and backwards.
"""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.model.attention_cuda import has_varlen_kernel, varlen_attention
from llm.model.functions import causal_attention

SHORT_DOCUMENT = 192  # tokens; in longer ones the CPU is faster in bfloat16


class Documents:
    """Which tokens of a batch belong together; built once a forward pass, as on CUDA it waits for the device once.

    Args:
        ids: integers [B, T]; within a row, tokens of one document lie side by side and share a number.

    Attributes:
        first: bool [B, T], the first token of each document in a row.
        starts: int32 [N + 1], where each of N documents begins in the B · T tokens, row by row, and their number.
    """

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        self.first = first_of_documents(ids)
        starts = self.first.flatten().nonzero().squeeze(1)
        self.starts = F.pad(starts, (0, 1), value=ids.numel()).int()

    @cached_property
    def lengths(self) -> list[int]:
        """Of the documents, row by row, in tokens; on CUDA, asking for them waits for the device."""
        lengths: list[int] = self.starts.diff().tolist()
        return lengths

    def positions(self) -> Tensor:
        """int64 [B, T]: the place of each token within its document, from 0."""
        places = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
        return places - torch.where(self.first, places, 0).cummax(1).values


def first_of_documents(ids: Tensor) -> Tensor:
    """Which tokens are the first of a document in their row, bool [B, T]; arguments as of `Documents`."""
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    return first


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: int | None = None,
    documents: Documents | None = None,
    visible: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention by the fastest kernel that gives these results here.

    Args:
        query: [B, T, H, D]; the last T tokens of those that key and value hold.
        key: [B, S, H or a divisor of it, D], S ≥ T; longer than `query` where a cache holds earlier tokens.
        value: like `key`.
        window: how many tokens each token sees, itself included.
        documents: of the batch; without a cache alone.
        visible: bool [B, 1, 1, S], where T is 1 and rows of a cache are uneven: the keys that each row's token sees.
        dropout: share of the probabilities to drop.

    Returns:
        [B, T, H, D].
    """
    # The lengths of the documents are other ones in every batch: compiled, each would be a program of its own.
    if documents is not None and query.device.type == "cpu" and not torch.compiler.is_compiling():
        return _document_by_document(query, key, value, documents, window, dropout)
    hidden = window is not None and key.shape[1] > window
    if visible is not None or (query.shape[1] == 1 and documents is None and not hidden):
        return _of_one_token(query, key, value, visible)
    if documents is None and not hidden and query.shape[1] == key.shape[1]:
        return causal_attention(query, key, value, dropout)
    if query.shape[1] == key.shape[1] and has_varlen_kernel(query, dropout):
        starts = None if documents is None else documents.starts
        return varlen_attention(query, key, value, starts, window if hidden else None)
    return masked_attention(query, key, value, window=window, documents=documents, dropout=dropout)


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: int | None = None,
    documents: Documents | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """As `attend`, by a mask of every pair of tokens: quadratic in the row's length, whatever hides."""
    n_queries, n_keys = query.shape[1], key.shape[1]
    before = n_keys - n_queries
    mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=query.device).tril(before)
    if window is not None:
        mask = mask.triu(before - window + 1)
    if documents is not None:
        mask = (mask & (documents.ids[:, :, None] == documents.ids[:, None, :])).unsqueeze(1)  # B 1 T T
    return _scaled_dot_product(query, key, value, mask, dropout)


def _document_by_document(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, window: int | None, dropout: float
) -> Tensor:
    """One call for each document: on a CPU far less work than a mask, which computes what it then hides.

    In bfloat16, the CPU's gradient of short documents takes three times as long as in float32, so they go there.
    """
    lengths = documents.lengths
    short = query.dtype == torch.bfloat16 and sum(lengths) < SHORT_DOCUMENT * len(lengths)
    dtype = torch.float32 if short else query.dtype
    parts = [tensor.to(dtype).flatten(0, 1).unsqueeze(0).split(lengths, 1) for tensor in (query, key, value)]
    mixed = []
    with torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu") and not short):
        for q, k, v in zip(*parts, strict=True):  # 1 n H D each
            if window is not None and q.shape[1] > window:
                mixed.append(masked_attention(q, k, v, window=window, dropout=dropout))
            else:
                mixed.append(_scaled_dot_product(q, k, v, None, dropout, is_causal=True))
    return torch.cat(mixed, 1).view_as(query).to(query.dtype)


def _of_one_token(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
    """The heads that share a key stand for the tokens of a row: no key is read more than once."""
    grouped = query.view(*query.shape[:1], key.shape[2], -1, query.shape[3])  # B H' H/H' D
    mixed = F.scaled_dot_product_attention(grouped, key.transpose(1, 2), value.transpose(1, 2), visible)
    return mixed.reshape(query.shape)


def _scaled_dot_product(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, is_causal: bool = False
) -> Tensor:
    grouped = query.shape[2] != key.shape[2]
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))  # B H T D
    mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal, enable_gqa=grouped)
    return mixed.transpose(1, 2)
