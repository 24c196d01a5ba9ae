"""The size dial: the size is met, the rest follows by the formulas, and what the user wrote wins."""

from typing import Any

import pytest
import torch
from support.fake_data import VOCAB, ListDataModule, make_batch, make_trainer

from llm.errors import UserError
from llm.model import GPT
from llm.modules import PretrainModule
from llm.modules.size import batch_tokens, body_of, learning_rate, parse_size, plan, shape_of, token_budget


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("120m", 120_000_000),
        ("30M", 30_000_000),
        ("1.3b", 1_300_000_000),
        ("7e7", 70_000_000),
        (7e7, 70_000_000),
        (125_000_000, 125_000_000),
        ("125000000", 125_000_000),
        ("500k", 500_000),
    ],
)
def test_any_count_is_understood(written: Any, count: int) -> None:
    assert parse_size(written) == count


@pytest.mark.parametrize("written", ["large", "", "-3m", "12", "1e99", "nan", "inf", "1.2.3m", True])
def test_what_is_no_count_is_refused(written: Any) -> None:
    with pytest.raises(UserError, match="give a number of parameters such as 120m"):
        parse_size(written)


@pytest.mark.parametrize(
    ("size", "vocabulary", "context"),
    [
        ("500k", 2048, 256),
        ("1m", 2048, 256),
        ("3m", 300, 128),
        ("10m", 8192, 512),
        ("30m", 32_768, 512),
        ("120m", 32_768, 1024),
        ("124m", 50_257, 1024),
        ("1.3b", 50_257, 2048),
        ("7b", 128_256, 4096),
    ],
)
def test_the_size_is_met_by_a_usual_shape(size: str, vocabulary: int, context: int) -> None:
    config = shape_of(parse_size(size), {"vocab_size": vocabulary, "context_length": context})
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in GPT(config).parameters())
    assert count == pytest.approx(parse_size(size), rel=0.05)
    assert (config.vocab_size, config.context_length) == (vocabulary, context)
    assert config.d_model == config.n_heads * config.head_dim
    assert config.d_model % 32 == config.d_ff % 16 == 0
    assert parse_size(size) < 2e6 or config.d_model % 64 == config.d_ff % 64 == 0
    assert 32 <= config.d_model / config.n_layers <= 160
    assert 2 <= config.d_ff / config.d_model <= 4
    assert config.tie_embeddings == (parse_size(size) < 1e9)


@pytest.mark.parametrize("size", [100_000, 312_345, 123_456_789])
def test_sizes_that_are_not_round_are_met(size: int) -> None:
    assert shape_of(size, {"vocab_size": 64, "context_length": 32}).n_parameters() == pytest.approx(size, rel=0.05)


def test_a_vocabulary_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(UserError, match="in its tables: choose a larger size"):
        shape_of(1_000_000, {"vocab_size": 50_257, "context_length": 64})


def test_fields_that_were_written_stay_and_the_rest_makes_up_for_them() -> None:
    given: dict[str, Any] = {"vocab_size": 2048, "context_length": 64, "n_layers": 12, "tie_embeddings": False}
    config = shape_of(5_000_000, given)
    assert (config.n_layers, config.tie_embeddings) == (12, False)
    assert config.n_parameters() == pytest.approx(5_000_000, rel=0.05)
    odd = shape_of(5_000_000, {**given, "d_model": 100, "n_heads": 5, "n_layers": 1})
    assert (odd.d_model, odd.n_heads, odd.head_dim, odd.n_layers) == (100, 5, 20, 1)  # the size is out of reach


def test_formulas_at_one_point() -> None:
    """Li et al. 2025, equation 1, by hand; Hoffmann et al. 2022: 20 tokens a parameter."""
    assert token_budget(1_000_000_000, 1.0) == 20_000_000_000
    assert token_budget(1_000_000, 2.5) == 50_000_000
    assert learning_rate(10**9, 10**11) == pytest.approx(1.79 * 10 ** (-0.713 * 9 + 0.307 * 11), rel=0.05)
    assert learning_rate(10**6, 2 * 10**7) == 0.004
    assert batch_tokens(10**11, 2048) == 2**20  # 0.58 · 10^(0.571 · 11) = 1.11 million
    assert batch_tokens(1000, 256) == 256


def test_a_written_budget_decides_the_rate() -> None:
    gpt = {"vocab_size": 32_768, "context_length": 1024}
    first, longer = plan("120m", gpt, None, None, 1.0), plan("120m", gpt, None, 24_000_000_000, 1.0)
    assert (first.max_tokens, first.lr) == (2_400_000_000, learning_rate(body_of(first.config), 2_400_000_000))
    assert (longer.config, longer.lr) == (first.config, learning_rate(body_of(first.config), 24_000_000_000))
    assert plan("120m", gpt, None, None, 10.0).lr == longer.lr
    assert plan("120m", gpt, 0.5, None, 1.0).lr == 0.5


def make(**settings: Any) -> PretrainModule:
    return PretrainModule(vocab_size=VOCAB, context_length=8, **settings)


def test_a_module_takes_what_follows_from_its_size_and_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    module = make(size="100k", gpt={"n_layers": 1}, overtrain=0.001, warmup=0.0)
    assert module.hparams["lr"] == 0.004
    data = ListDataModule([make_batch(2, 8, 16, seed) for seed in range(130)])
    trainer = make_trainer(max_epochs=-1)
    trainer.fit(module, datamodule=data)
    assert trainer.max_steps == 20 * 100 // 16  # tokens of a step: 16
    assert sum(p.numel() for p in module.parameters()) == pytest.approx(100_000, rel=0.05)
    lines = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.count("│") > 2}
    assert "2,000" in lines["tokens"]
    assert "as written" in lines["layers"]
    assert "Li et al. 2025" in lines["learning rate"]


def test_what_was_written_wins_over_the_size() -> None:
    module = make(size="100k", lr=0.5, max_tokens=33)
    trainer = make_trainer(max_epochs=-1)
    trainer.fit(module, datamodule=ListDataModule([make_batch(2, 8, 16, seed) for seed in range(4)]))
    assert (module.hparams["lr"], trainer.max_steps) == (0.5, 3)
    by_epochs = make_trainer(max_epochs=1)
    by_epochs.fit(make(size="100k"), datamodule=ListDataModule([make_batch(2, 8, 16, seed) for seed in range(4)]))
    assert by_epochs.global_step == 4


def test_a_preset_and_a_size_are_refused() -> None:
    with pytest.raises(UserError, match="both say how large the model is"):
        make(preset="tiny", size="30m")


def test_without_a_size_the_defaults_are_what_they_were() -> None:
    module = make()
    assert (module.config.n_layers, module.config.d_model, module.hparams["lr"]) == (4, 128, 1e-3)
    assert module.plan is None
