"""Embedding and head that begin as the corpus' bigram model.

What a model learns in its first steps is which token follows which. That table can be counted in a second, and a
low-rank factorisation of its logarithm is just an embedding and a head: with blocks that begin as identities, the
first logits of the model are those of the smoothed bigrams. The factorisation is that of Levy & Goldberg (2014,
"Neural word embedding as implicit matrix factorization"), weighted and of successive tokens; its computation is that
of Halko et al. (2011, "Finding structure with randomness", algorithm 4.4). What it gains stands in docs/log.md.
"""

import torch
from torch import Tensor

from llm.model.config import GPTConfig
from llm.model.errors import ConfigError
from llm.model.gpt import GPT
from llm.model.parts import fill_part

# Pseudo-counts, spread like single tokens, that each token's followers are smoothed by; half or twice as many do not
# matter (docs/log.md).
SMOOTHING = 100.0
_OVERSAMPLING, _ITERATIONS = 8, 4
_LARGEST_NORM = 0.98  # quantile of the embeddings' norms above which they are shortened


def check_spectral_start(config: GPTConfig) -> None:
    """ConfigError where a model of this shape cannot begin as bigrams."""
    for name, value, needed in (
        ("tie_embeddings", config.tie_embeddings, False),
        ("norm", config.norm, "rmsnorm"),
        ("position", config.position, "rope"),
    ):
        if value != needed:
            raise ConfigError(
                f"a spectral start needs {name} {str(needed).lower()}, not {str(value).lower()}: drop one"
            )


@torch.no_grad()
def start_as_bigrams(model: GPT, pairs: Tensor, counts: Tensor, seed: int = 0) -> None:
    """Overwrite the embedding and the head of `model` by those that stand for the counts.

    Args:
        model: untied, with RMSNorm and without learned positions.
        pairs: int64 [2, N], distinct pairs of a token and its follower.
        counts: [N], how often each stands in the corpus.
        seed: of the random numbers of the factorisation.
    """
    check_spectral_start(model.config)
    device, (size, width) = model.embedding.weight.device, model.embedding.weight.shape
    generator = torch.Generator().manual_seed(seed)
    left, right = _factors(pairs.cpu(), counts.cpu().float(), size, min(width, size) - 1, generator)
    # The last norm gives every token the same length: one more dimension, which the head does not look at, makes up
    # the difference. A random turn then spreads everything over all dimensions.
    norms = left.norm(dim=1)
    radius = norms.quantile(_LARGEST_NORM)
    left = left * (radius / norms.clamp(min=1e-12)).clamp(max=1)[:, None]
    rest = (radius**2 - left.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    scale = width**0.5 / radius
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    turn = turn[: left.shape[1] + 1]
    fill_part(model.embedding.weight, (torch.cat([left, rest], 1) * scale @ turn).to(device))
    assert model.head is not None
    fill_part(model.head.weight, (right / scale @ turn[:-1]).to(device))


def _factors(pairs: Tensor, counts: Tensor, size: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two float matrices [size, rank] with the smoothed bigrams' log-probabilities as product, less a constant a row.

    A follower's logit is log u + log(1 + count / (SMOOTHING u)) with u its share of all tokens: sparse, but for one
    column vector and the constants. Errors weigh by the root of how often a token comes, on either side.
    """
    rows, columns = pairs
    row_totals = torch.zeros(size).index_add_(0, rows, counts)
    share = torch.zeros(size).index_add_(0, columns, counts) + 0.5
    share /= share.sum()
    excess = torch.log1p(counts / (SMOOTHING * share[columns]))
    mean = torch.zeros(size).index_add_(0, rows, excess * share[columns]) + (share * share.log()).sum()
    row_weight = (row_totals + 1).sqrt() / (row_totals + 1).sqrt().mean()
    column_weight = share.sqrt() / share.sqrt().mean()
    values = excess * row_weight[rows] * column_weight[columns]
    weighted = torch.sparse_coo_tensor(pairs, values, (size, size), check_invariants=True).coalesce()
    turned = weighted.t().coalesce()
    outer = [(row_weight, column_weight * share.log()), (-row_weight * mean, column_weight)]

    def times(x: Tensor) -> Tensor:
        return weighted @ x + sum(torch.outer(a, b @ x) for a, b in outer)

    def transposed_times(x: Tensor) -> Tensor:
        return turned @ x + sum(torch.outer(b, a @ x) for a, b in outer)

    basis = torch.linalg.qr(times(torch.randn(size, min(rank + _OVERSAMPLING, size), generator=generator))).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(transposed_times(basis)).Q
        basis = torch.linalg.qr(times(basis)).Q
    inner, strengths, right = torch.linalg.svd(transposed_times(basis).t(), full_matrices=False)
    half = strengths[:rank].sqrt()
    return (basis @ inner[:, :rank]) * half / row_weight[:, None], right[:rank].t() * half / column_weight[:, None]
