"""generate: cache and no cache agree, the window moves on, and the model is left as it was."""

import itertools
import random

import pytest
import torch
from support.models import random_model

from llm.errors import UserError
from llm.generation import Sampling, generate
from llm.model import GPT, GPTConfig

CONTEXT = 16


def build(**change: object) -> GPT:
    return random_model(3.0, context_length=CONTEXT, **change)


def without_cache(model: GPT, prompt: list[int], length: int, seed: int = 0, **sampling: float) -> list[int]:
    """The same, where every token is read again for each new one."""
    window, draws = list(prompt), random.Random(seed)
    for _ in range(length):
        if len(window) > CONTEXT:
            window = window[-(CONTEXT // 2) :]
        with torch.inference_mode():
            logits = model(torch.tensor([window]))[:, -1]
        window.append(int(Sampling(**sampling).draw(logits, torch.tensor([draws.random()], dtype=torch.float64))))
        prompt = [*prompt, window[-1]]
    return prompt[-length:]


CHANGES = [
    {},
    {"position": "learned", "n_kv_heads": 2, "tie_embeddings": True},
    {"sliding_window": 5},
    {"bigram_rows": 64},
    {"ngram_order": 4},
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("prompt_length", [1, 5, CONTEXT - 1, CONTEXT])
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.9, "top_k": 10, "top_p": 0.9, "seed": 5}])
def test_the_cache_changes_nothing_not_even_beyond_the_context(
    change: dict[str, object], prompt_length: int, settings: dict[str, float]
) -> None:
    model, prompt = build(**change).eval(), list(range(prompt_length))
    with_cache = list(generate(model, prompt, 3 * CONTEXT, **settings))
    assert with_cache == without_cache(model, prompt, 3 * CONTEXT, **settings)
    assert len(with_cache) == 3 * CONTEXT
    assert with_cache == list(generate(model, prompt, 3 * CONTEXT, **settings))  # and the model kept nothing


def test_a_full_context_keeps_its_last_half() -> None:
    model, prompt = build(), list(range(CONTEXT))
    first, second = generate(model, prompt, 2, temperature=0)
    expected = list(generate(model, [*prompt, first][-CONTEXT // 2 :], 1, temperature=0))
    assert [second] == expected


def test_a_context_of_one_token_still_moves_on() -> None:
    model = GPT(GPTConfig(vocab_size=40, context_length=1, n_layers=1, d_model=32, n_heads=4))
    assert len(list(generate(model, [3], 5))) == 5


def test_greedy_takes_the_likeliest() -> None:
    model = build().eval()
    (token,) = generate(model, [1, 2, 3], 1, temperature=0)
    assert token == model(torch.tensor([[1, 2, 3]]))[0, -1].argmax().item()


def test_a_seed_repeats_the_text_and_another_does_not() -> None:
    model = build()
    texts = [list(generate(model, [1], 12, temperature=20.0, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    free = [list(generate(model, [1], 12, temperature=20.0)) for _ in range(2)]
    assert free[0] != free[1]


def test_random_numbers_of_others_are_untouched() -> None:
    model = build()
    state = torch.get_rng_state()
    list(generate(model, [1], 3, seed=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stop_id_ends_the_text_and_is_not_part_of_it() -> None:
    model = build()
    text = list(generate(model, [1], 12, temperature=0))
    stop = text[6]
    assert list(generate(model, [1], 12, temperature=0, stop_ids={stop})) == text[: text.index(stop)]


def test_tokens_stream() -> None:
    assert len(list(itertools.islice(generate(build(), [1], 10**9), 3))) == 3


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_its_own_again(training: bool) -> None:
    model = build(dropout=0.5).train(training)
    stream = generate(model, [1], 4, temperature=0)
    first = next(stream)
    assert model.training is training  # between two tokens as well
    stream.close()
    assert model.training is training
    model.eval()
    assert first == next(generate(model, [1], 4, temperature=0))  # and dropout was off


def test_the_mode_comes_back_after_an_error() -> None:
    model = build().train()
    model.norm.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(generate(model, [1], 1))
    assert model.training


@pytest.mark.parametrize(
    ("tokens", "settings", "message"),
    [
        (list(range(17)), {}, "the prompt has 17 tokens but the model's context is 16: shorten the prompt"),
        ([], {}, "the prompt has 0 tokens"),
        ([40], {}, "the id 40 but the model knows 0 to 39"),
        ([1], {"temperature": -1}, "temperature is -1"),
        ([1], {"temperature": float("nan")}, "temperature is nan"),
        ([1], {"top_k": 0}, "top_k is 0"),
        ([1], {"top_p": 0}, "top_p is 0"),
        ([1], {"top_p": 1.5}, "top_p is 1.5"),
        ([1], {"min_p": -0.1}, "min_p is -0.1"),
        ([1], {"min_p": 1.1}, "min_p is 1.1"),
        ([1], {"repetition_penalty": 0}, "repetition_penalty is 0"),
        ([1], {"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
        ([1], {"max_new_tokens": -1}, "max_new_tokens is -1"),
        ([1], {"seed": -1}, "seed is -1: it must be 0 to"),
        ([1], {"seed": 2**64}, "seed is 18446744073709551616"),
    ],
)
def test_what_cannot_be_done_is_refused_at_the_call(tokens: list[int], settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(build(), tokens, **settings)
