"""The table of bigrams: what is looked up, also with a cache, and what it leaves alone."""

import torch

from llm.model import GPT, GPTConfig, KVCache
from llm.model.bigrams import BigramEmbedding

SHAPE = {"vocab_size": 50, "context_length": 12, "n_layers": 2, "d_model": 24, "n_heads": 4}


def test_a_row_depends_on_the_token_and_the_one_before_it() -> None:
    table = BigramEmbedding(1009, 8)
    got = table(torch.tensor([[5, 7, 5, 7], [7, 5, 7, 9]]))
    assert torch.equal(got[0, 1], got[0, 3])
    assert torch.equal(got[0, 1], got[1, 2])
    assert torch.equal(got[0, 2], got[1, 1])
    different = torch.stack([got[0, 0], got[0, 1], got[0, 2], got[1, 0], got[1, 3]])
    assert len(different.unique(dim=0)) == 5  # the first token of a row follows none


def test_pairs_spread_over_the_rows() -> None:
    table = BigramEmbedding(4096, 1)
    with torch.no_grad():
        table.weight.copy_(torch.arange(4096.0)[:, None])
    pairs = torch.cartesian_prod(torch.arange(64), torch.arange(64))
    rows = table(pairs)[:, 1, 0].long().bincount(minlength=4096)
    assert (rows == 0).float().mean() < 0.45  # e^-1 of them if by chance
    assert rows.max() < 12


def test_it_starts_without_effect_and_then_learns() -> None:
    tokens = torch.arange(12)[None]
    with_table, without = GPT(GPTConfig(**SHAPE, bigram_rows=64)), GPT(GPTConfig(**SHAPE))
    assert torch.equal(with_table(tokens), without(tokens))
    with_table(tokens, tokens)[0].backward()
    assert with_table.bigrams is not None
    assert with_table.bigrams.weight.grad is not None
    assert with_table.bigrams.weight.grad.abs().sum() > 0
    assert sum(p.numel() for p in with_table.parameters()) == with_table.config.n_parameters()


def test_the_cache_changes_nothing() -> None:
    model = GPT(GPTConfig(**SHAPE, bigram_rows=64)).eval()
    assert model.bigrams is not None
    torch.nn.init.normal_(model.bigrams.weight, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(1))
    cache = KVCache(model.config, batch_size=2)
    with torch.inference_mode():
        for _ in range(2):  # the second time after the first was forgotten
            parts = [model(part, cache=cache) for part in tokens.split([5, 1, 1, 5], 1)]
            torch.testing.assert_close(torch.cat(parts, 1), model(tokens))
            cache.clear()
