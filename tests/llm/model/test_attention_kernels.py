"""Every attention kernel gives what the mask gives, and packed documents are as if each were alone."""

import pytest
import torch
from support.models import count_text
from torch import Tensor

from llm.model import GPT, GPTConfig, KVCache
from llm.model.attention_kernels import Documents, attend, masked_attention

IDS = torch.tensor([[0] * 5 + [1] + [2] * 10, [3] * 16, [4] * 15 + [5]])  # 3 rows of 16
SHAPE = {"vocab_size": 50, "context_length": 16, "n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2}
FAMILIES = {
    "llama": {},
    "gpt2": {"position": "learned", "norm": "layernorm", "feedforward": "gelu", "bias": True},
    "windowed": {"sliding_window": 4, "qk_norm": True},
    "bigrams": {"bigram_rows": 97},
    "n-grams": {"ngram_order": 4},
}


def heads(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 16, n, 8, dtype=torch.float64, generator=generator, requires_grad=True)


@pytest.mark.parametrize("window", [None, 1, 3, 16, 40])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_every_kernel_gives_what_the_mask_gives(window: int | None, packed: bool, n_kv_heads: int) -> None:
    documents = Documents(IDS) if packed else None
    results = []
    for kernel in (attend, masked_attention):
        query, key, value = heads(4, 0), heads(n_kv_heads, 1), heads(n_kv_heads, 2)
        mixed = kernel(query, key, value, window=window, documents=documents)
        weights = torch.linspace(-1, 1, mixed.numel(), dtype=torch.float64).view_as(mixed)
        (mixed * weights).sum().backward()
        results.append((mixed, query.grad, key.grad, value.grad))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_short_documents_in_bfloat16_are_as_exact_as_their_inputs(mixed_precision: bool) -> None:
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        inputs = [heads(4, seed).detach().bfloat16().to(dtype).requires_grad_() for seed in (0, 1, 2)]
        with torch.autocast("cpu", enabled=mixed_precision and dtype == torch.bfloat16):
            mixed = attend(*inputs, documents=Documents(IDS))
        assert mixed.dtype == dtype
        mixed.backward(torch.linspace(-1, 1, mixed.numel()).bfloat16().to(dtype).view_as(mixed))
        results.append([tensor.double() for tensor in (mixed, *(each.grad for each in inputs))])
    for ours, exact in zip(*results, strict=True):
        # Rounded once, at the end: the kernel in bfloat16 is off by ten times as much.
        torch.testing.assert_close(ours, exact, rtol=2**-8, atol=1e-4)


def test_the_mask_is_what_its_definition_says() -> None:
    query, key, value = heads(4, 0), heads(4, 1), heads(4, 2)
    got = masked_attention(query, key, value, window=3, documents=Documents(IDS))
    for row in range(3):
        for i in range(16):
            seen = [j for j in range(max(0, i - 2), i + 1) if IDS[row, j] == IDS[row, i]]
            scores = torch.einsum("hd,jhd->hj", query[row, i], key[row, seen]) / 8**0.5
            expected = torch.einsum("hj,jhd->hd", scores.softmax(-1), value[row, seen])
            torch.testing.assert_close(got[row, i], expected)


def test_positions_begin_anew_in_each_document_and_row() -> None:
    documents = Documents(IDS)
    expected = [[*range(5), 0, *range(10)], list(range(16)), [*range(15), 0]]
    assert documents.positions().tolist() == expected
    assert documents.lengths == [5, 1, 10, 16, 15, 1]


def test_one_number_in_two_rows_means_two_documents() -> None:
    assert Documents(torch.zeros(2, 3, dtype=torch.int32)).lengths == [3, 3]


def model_of(family: str) -> GPT:
    model = GPT(GPTConfig(**SHAPE, **FAMILIES[family]))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):  # a table that starts at zero would show nothing
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(number))
    if model.ngrams is not None:
        count_text(model.ngrams.counts, tokens_and_targets()[0].flatten().numpy())
    return model


def tokens_and_targets() -> tuple[Tensor, Tensor]:
    tokens, targets = torch.randint(50, (2, 3, 16), generator=torch.Generator().manual_seed(7)).unbind()
    targets[0, 3] = -100
    return tokens, targets


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_in_one_document_leaves_the_others_bit_identical(family: str) -> None:
    model = model_of(family).eval()
    tokens, _ = tokens_and_targets()
    changed = tokens.clone()
    changed[0, :5] = (changed[0, :5] + 1) % 50
    with torch.inference_mode():
        before, after = (model(t, documents=IDS) for t in (tokens, changed))
    assert torch.equal(before[0, 5:], after[0, 5:])
    assert torch.equal(before[1:], after[1:])
    assert not torch.allclose(before[0, :5], after[0, :5])
    with torch.inference_mode():  # the change does reach them where nothing hides it
        assert not torch.equal(model(tokens)[0, 6], model(changed)[0, 6])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_packed_documents_is_that_of_each_alone(family: str) -> None:
    tokens, targets = tokens_and_targets()
    packed, alone = model_of(family), model_of(family)
    total, count = packed(tokens, targets, documents=IDS)
    total.backward()
    summed = torch.zeros(())
    for number in IDS.unique():
        own = number == IDS
        nll, _ = alone(tokens[own][None], targets[own][None])
        nll.backward()
        summed += nll.detach()
    assert count == 47
    torch.testing.assert_close(total.detach(), summed, rtol=1e-5, atol=0)
    for (name, a), b in zip(packed.named_parameters(), alone.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-5 * max(1.0, float(b.grad.abs().max())), msg=name)


def test_documents_do_not_go_into_a_cache() -> None:
    model = model_of("llama")
    with pytest.raises(ValueError, match="cannot be packed"):
        model(IDS, cache=KVCache(model.config, batch_size=3), documents=IDS)
