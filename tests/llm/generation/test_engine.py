"""Engine: a text is what it is alone, whatever is written beside it, before it in its row, or from the same prompt."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import random_model

from llm.errors import UserError
from llm.generation import Engine, Sampling, generate, generate_batch
from llm.model import GPT

CONTEXT, VOCAB = 16, 40


def build(**change: object) -> GPT:
    return random_model(3.0, vocab_size=VOCAB, context_length=CONTEXT, **change)


MODELS = {
    "rope": {},
    "learned positions": {"position": "learned", "n_kv_heads": 2},
    "window": {"sliding_window": 5, "n_kv_heads": 1},
    "bigrams": {"bigram_rows": 64},
    "n-grams": {"ngram_order": 4},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 4.0, "original_context_length": 6}},
}
PROMPTS = [list(range(length)) for length in (1, 5, 15, 16, 3, 3, 9)]
GREEDY, DRAWN = {"temperature": 0}, {"temperature": 1.0, "top_k": 10, "seed": 3}
PENALIZED = {"temperature": 1.0, "min_p": 0.05, "repetition_penalty": 1.3, "seed": 3}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, PENALIZED], ids=["greedy", "drawn", "penalized"])
def test_a_text_is_what_it_is_alone(name: str, sampling: dict[str, float]) -> None:
    model = build(**MODELS[name])
    shift = 1 if "seed" in sampling else 0

    def alone(prompt: list[int], sample: int) -> list[int]:
        changed = {**sampling, "seed": 3 + sample} if shift else sampling
        return list(generate(model, prompt, 30, **changed))

    expected = [[alone(prompt, sample) for sample in range(2)] for prompt in PROMPTS]
    for batch_size in (1, 3, 32):
        written = generate_batch(model, PROMPTS, 30, n_samples=2, batch_size=batch_size, **sampling)
        assert [[text.tokens for text in texts] for texts in written] == expected


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=CONTEXT), min_size=1, max_size=6),  # many begin alike
    st.integers(1, 4),
    st.lists(st.integers(1, 30), min_size=6, max_size=6),
    st.sampled_from([{"sliding_window": 7}, {"bigram_rows": 64}, {"ngram_order": 5}]),
)
def test_texts_of_any_length_in_any_number_of_rows(
    prompts: list[list[int]], rows: int, lengths: list[int], change: dict[str, int]
) -> None:
    model, sampling = build(**change), {"temperature": 0, "repetition_penalty": 1.5}
    engine = Engine(model, Sampling(**sampling), batch_size=rows)
    texts = [engine.submit(prompt, length)[0] for prompt, length in zip(prompts, lengths, strict=False)]
    while engine.step():
        assert len(engine.active) <= rows
    for text in texts:
        assert text.tokens == list(generate(model, text.prompt, text.max_new_tokens, **sampling))
        assert text.finish_reason == "length"


def test_a_stop_id_ends_its_text_alone() -> None:
    model = build()
    whole = [list(generate(model, prompt, 30, temperature=0)) for prompt in PROMPTS]
    stop = whole[1][6]
    written = generate_batch(model, PROMPTS, 30, temperature=0, stop_ids={stop})
    for (text,), tokens in zip(written, whole, strict=True):
        assert text.tokens == (tokens[: tokens.index(stop)] if stop in tokens else tokens)
        assert text.finish_reason == ("stop" if stop in tokens else "length")


def read_counts(model: GPT) -> list[tuple[int, int]]:
    """Rows and columns of every pass through the model from now on."""
    passes: list[tuple[int, int]] = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: passes.append(tuple(inputs[0].shape[:2])))
    return passes


def test_a_prompt_is_read_once_for_all_its_samples() -> None:
    model = build()
    passes = read_counts(model)
    generate_batch(model, [list(range(10))], 4, n_samples=5)
    assert passes == [(1, 9), *[(5, 1)] * 4]
    passes.clear()
    generate_batch(model, [list(range(10))], 4, n_samples=3, batch_size=1)  # one after the other, in the same row
    assert passes == [(1, 9), *[(1, 1)] * 12]


def test_prompts_of_about_one_length_are_read_together() -> None:
    for change, expected in (({}, [(4, 11), (1, 3), (1, 15)]), ({"sliding_window": 8}, [(1, 9), (2, 11), (1, 9)])):
        model = build(**change)
        passes = read_counts(model)
        prompts = [[i, *range(1, length)] for i, length in enumerate([10, 12, 12, 10, 4, 16])]
        written = generate_batch(model, prompts, 1, temperature=0)
        assert passes[: len(expected)] == expected
        assert passes[-1] == (6, 1)
        for (text,), prompt in zip(written, prompts, strict=True):
            assert text.tokens == list(generate(model, prompt, 1, temperature=0))


def test_a_conversation_is_read_from_where_it_was_left() -> None:
    model = build()
    engine = Engine(model, Sampling(temperature=0))
    (first,) = engine.submit([1, 2, 3], 4)
    while engine.step():
        pass
    conversation = [1, 2, 3, *first.tokens, 7, 8]
    passes = read_counts(model)
    (second,) = engine.submit(conversation, 3)
    while engine.step():
        pass
    assert passes == [(1, 2), *[(1, 1)] * 3]  # the last token of the answer, which nothing had read, and 7
    assert second.tokens == list(generate(model, conversation, 3, temperature=0))


def test_new_prompts_on_both_sides_of_one_that_goes_on() -> None:
    model = build()
    engine = Engine(model, Sampling(temperature=0), batch_size=3)
    (first,) = engine.submit(list(range(8)), 2)
    while engine.step():
        pass
    prompts = [list(range(20, 30)), [*range(8), *first.tokens, 9], list(range(30, 40))]
    texts = [engine.submit(prompt, 3)[0] for prompt in prompts]
    while engine.step():
        pass
    assert [text.tokens for text in texts] == [list(generate(model, prompt, 3, temperature=0)) for prompt in prompts]


def test_log_probabilities_are_the_models_own() -> None:
    model = build().eval()
    ((text,),) = generate_batch(model, [[1, 2, 3]], 8, temperature=0.5, top_k=3, seed=1, logprobs=True)
    with torch.inference_mode():
        logits = model(torch.tensor([[1, 2, 3, *text.tokens]]))[0, 2:-1]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(text.tokens)[:, None]).squeeze(1)
    torch.testing.assert_close(torch.tensor(text.logprobs), expected, rtol=1e-5, atol=2e-4)


def test_the_penalty_is_that_of_transformers() -> None:
    model = build().eval()
    prompt, penalty = [1, 2, 3, 2], 1.7
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(10):
            tokens.append(int(processor(torch.tensor([tokens]), model(torch.tensor([tokens]))[:, -1]).argmax()))
    assert list(generate(model, prompt, 10, temperature=0, repetition_penalty=penalty)) == tokens[4:]


def test_a_text_can_be_ended_from_outside() -> None:
    model = build()
    engine = Engine(model, Sampling(temperature=0), batch_size=2)
    texts = [engine.submit(prompt, 10)[0] for prompt in PROMPTS[:4]]
    engine.step()
    engine.finish(texts[0], "stop")  # one that is being written, and one that waits
    engine.finish(texts[3], "stop")
    while engine.step():
        pass
    assert [len(text.tokens) for text in texts] == [1, 10, 10, 0]
    assert texts[1].tokens == list(generate(model, PROMPTS[1], 10, temperature=0))
    assert texts[2].tokens == list(generate(model, PROMPTS[2], 10, temperature=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
        ({"n_samples": 0}, "n_samples is 0: it must be at least 1"),
        ({"seed": -1}, "seed is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
    ],
)
def test_what_cannot_be_done_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate_batch(build(), [[1]], **{"max_new_tokens": 3, **change})


def test_a_text_longer_than_the_room_for_it_is_refused() -> None:
    engine = Engine(build(), Sampling(), capacity=8)
    engine.submit([1, 2, 3], 6)
    with pytest.raises(UserError, match="a text of 9 tokens does not fit in a capacity of 8"):
        engine.submit([1, 2, 3], 7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    model = build()
    with torch.no_grad():
        model.norm.weight[3] = value
    with pytest.raises(UserError, match="the model's logits are not finite"):
        list(generate(model, [1], 3))


def test_nothing_to_write() -> None:
    model = build()
    assert generate_batch(model, [], 5) == []
    ((text,),) = generate_batch(model, [[1]], 0)
    assert (text.tokens, text.finish_reason) == ([], "length")
