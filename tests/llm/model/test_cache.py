"""KVCache: rows of unequal length, views, copies, and a window that costs no more than its tokens."""

import pytest
import torch
from support.models import random_model

from llm.model import GPT, KVCache

CONTEXT = 24


def build(**change: object) -> GPT:
    return random_model(context_length=CONTEXT, n_kv_heads=2, **change).eval()


def draw(rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, 40, (rows, length), generator=torch.Generator().manual_seed(7))


CHANGES = [{}, {"sliding_window": 5}, {"position": "learned"}, {"bigram_rows": 32}, {"ngram_order": 4}]


@pytest.mark.parametrize("change", CHANGES)
@torch.inference_mode()
def test_rows_of_unequal_length_read_on_as_if_alone(change: dict[str, object]) -> None:
    model, tokens, held = build(**change), draw(4, CONTEXT), [1, 9, 4, 15]
    cache = KVCache(model.config, 4)
    for row, length in enumerate(held):
        model(tokens[row : row + 1, :length], cache=cache.rows(row, row + 1))
    assert cache.lengths.tolist() == held
    for step in range(8):
        new = torch.stack([tokens[row, length + step] for row, length in enumerate(held)]).unsqueeze(1)
        logits = model(new, cache=cache)[:, 0]
        for row, length in enumerate(held):
            alone = model(tokens[row : row + 1, : length + step + 1])[0, -1]
            torch.testing.assert_close(logits[row], alone, rtol=0, atol=1e-5 * float(alone.abs().max()))


@torch.inference_mode()
def test_a_copied_row_reads_on_as_its_source() -> None:
    model, tokens = build(ngram_order=4), draw(1, 12)
    cache = KVCache(model.config, 3)
    model(tokens[:, :11], cache=cache.rows(2, 3))
    cache.copy_row(2, 0)
    logits = [model(tokens[:, 11:], cache=cache.rows(row, row + 1)) for row in (0, 2)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


@torch.inference_mode()
def test_what_follows_a_cut_was_never_there() -> None:
    model, tokens = build(bigram_rows=32, ngram_order=4), draw(1, 12)
    cache = KVCache(model.config)
    model(draw(1, 20), cache=cache)
    cache.clear()
    model(torch.cat([tokens[:, :5], tokens[:, :5]], 1), cache=cache)
    cache.cut([tokens[0, :5].tolist()])
    torch.testing.assert_close(model(tokens[:, 5:], cache=cache), model(tokens)[:, 5:], rtol=1e-5, atol=1e-4)


def test_a_window_takes_no_more_room_than_its_tokens() -> None:
    windowed, whole = (KVCache(build(sliding_window=window).config) for window in (6, None))
    assert windowed._store.numel() * CONTEXT == whole._store.numel() * 6


@torch.inference_mode()
def test_unequal_rows_are_read_one_token_at_a_time() -> None:
    model = build()
    cache = KVCache(model.config, 2)
    model(draw(1, 3), cache=cache.rows(0, 1))
    with pytest.raises(ValueError, match="read one token at a time"):
        model(draw(2, 2), cache=cache)
    with pytest.raises(ValueError, match=r"unequal numbers of tokens: \[0, 3\]"):
        _ = cache.length
    assert cache.lengths.tolist() == [3, 0]
