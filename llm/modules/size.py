"""The size dial: from a number of parameters to a model's shape, budget, batch and learning rate.

Counted are all parameters, the embeddings too and a tied head once: it is what model names count, what takes memory,
and what Hoffmann et al. count. N below is that count, N' is without embeddings and head, D the budget in tokens.

| what | formula | source |
|---|---|---|
| tokens | D = 20 N · overtrain | Hoffmann et al. 2022 (Chinchilla), section 3 and table 3 |
| batch | 0.58 D^0.571 tokens, to the nearest power of two of rows | Li et al. 2025 (Step Law), equation 1 |
| learning rate | 1.79 N'^-0.713 D^0.307, at most 0.004 | Li et al. 2025 (Step Law), equation 1 |
| width / depth | near 64, to 128 at width 4096 | Kaplan et al. 2020, section 3.1: flat there |
| heads | of 64, of 128 from width 2048 on, of 32 below 2m | GPT-2; Llama (Touvron et al. 2023) |
| key and value heads | as many below 100m, then a quarter | Ainslie et al. 2023 (GQA) |
| feed-forward | near 8/3 of the width, a multiple of 64 (of 16 below 2m) | Shazeer 2020 (SwiGLU) |
| one table for embedding and head | below 1b | Liu et al. 2024 (MobileLLM), section 2.2.3 |

Muon takes AdamW's rate, to which its step is scaled (llm/optim/muon.py). The law of the rate and the batch was fitted
on models of 60m to 1b parameters and 2 to 100 billion tokens: outside of that it is a guess, and the table says so. At
1m it gives a rate of 0.02, where 0.002 to 0.004 were best here: hence the bound.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from llm.errors import UserError
from llm.model import ConfigError, GPTConfig

DEFAULT_PRESET = "tiny"
TOKENS_PER_PARAMETER = 20
TOLERANCE = 0.05  # share by which the model's size may differ from what was asked for
_HIGHEST_RATE = 0.004
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_SMALLEST, _LARGEST = 1e5, 1e13
_SMALL = 2e6  # below, widths and heads are multiples of 32 and not of 64, to meet the size
_SHAPE = ("n_layers", "d_model", "d_ff", "n_heads", "n_kv_heads", "head_dim")


def parse_size(size: str | float) -> int:
    """A number of parameters, from `120m`, `1.3b`, `7e7` or 125000000."""
    found = re.fullmatch(r"([\d_.]+(?:e\+?\d+)?)\s*([kmbt]?)", str(size).strip().lower())
    try:
        count = float(found[1]) * _UNITS[found[2]] if found else math.nan
    except ValueError:
        count = math.nan
    if not _SMALLEST <= count <= _LARGEST:
        raise UserError(
            f"model.size is {size!r}: give a number of parameters such as 120m, 1.3b or 125000000, from 100k to 10t"
        )
    return round(count)


def token_budget(n_parameters: int, overtrain: float) -> int:
    """Tokens to train on: compute-optimal, times `overtrain` for a model that is to be used much."""
    return round(TOKENS_PER_PARAMETER * n_parameters * overtrain)


def learning_rate(n_body: int, tokens: int) -> float:
    """Peak rate of AdamW for a model of `n_body` parameters without embeddings and head, to two digits."""
    return float(f"{min(_HIGHEST_RATE, 1.79 * n_body**-0.713 * tokens**0.307):.1e}")


def batch_tokens(tokens: int, context_length: int) -> int:
    """Tokens of one optimizer step in a run of `tokens`: a power of two times the context."""
    rows = 0.58 * max(1, tokens) ** 0.571 / context_length
    return context_length * 2 ** max(0, round(math.log2(rows)))


def shape_of(size: int, given: Mapping[str, Any]) -> GPTConfig:
    """The shape with `size` parameters; the fields in `given`, which hold vocabulary and context, stay as they are.

    Of the shapes that reach the size it is the one nearest to the proportions of the table above. Where the user fixed
    part of the shape, the nearest size may be further off than the tolerance.

    Raises:
        UserError: the fields contradict each other, or no shape has this size, as where the embeddings alone exceed it.
    """
    rest = {"qk_norm": True, "tie_embeddings": size < 1e9, "vocab_size": 50257, "context_length": 1024}
    best: tuple[bool, float, GPTConfig] | None = None
    problem: ConfigError | None = None
    for shape in _candidates(size, given):
        try:
            config = GPTConfig.from_dict({**rest, **shape, **given})
        except ConfigError as error:
            problem = error
            continue
        error_of_size = abs(config.n_parameters() / size - 1)
        wide = math.log(config.d_model / config.n_layers / _aspect(config.d_model))
        ample = math.log(config.d_ff / (8 / 3 * config.d_model))
        outside = error_of_size > TOLERANCE
        cost = error_of_size if outside else wide**2 + 2 * ample**2 + 2 * error_of_size
        if best is None or (outside, cost) < best[:2]:
            best = (outside, cost, config)
    if best is None:
        raise UserError(f"model: {problem}")
    outside, _, config = best
    if outside and not any(name in given for name in _SHAPE):
        tables = config.n_parameters() - body_of(config)
        raise UserError(
            f"model.size is {size:,}, and the nearest model with a vocabulary of {config.vocab_size:,} has "
            f"{config.n_parameters():,} parameters, {tables:,} of them in its tables: choose a larger size, or a "
            "smaller data.vocab_size"
        )
    return config


def _candidates(size: int, given: Mapping[str, Any]) -> Iterator[dict[str, int]]:
    """Shapes up to a width at which the blocks alone would be far larger than `size`."""
    widest = 64 * math.ceil(2 * (64 * size / 12) ** (1 / 3) / 64)
    grain = (32 if size < _SMALL else 64) if widest <= 4096 else 512
    # Of a large model the tables are a small part, which bounds the width from below as well.
    narrowest = grain if size < 1e9 else widest // 4 // grain * grain
    fixed = given.get("d_model")
    for d_model in range(narrowest, widest + grain, grain) if fixed is None else (fixed,):
        usual = math.gcd(d_model, min(grain, 64) if d_model < 2048 else 128)
        head_dim = given.get("head_dim") or (d_model // given["n_heads"] if "n_heads" in given else usual)
        n_heads = given.get("n_heads") or d_model // head_dim
        if fixed is None and "n_heads" not in given and (d_model % head_dim or (size >= 1e8 and n_heads % 4)):
            continue
        shape = {"d_model": d_model, "head_dim": head_dim, "n_heads": n_heads}
        shape["n_kv_heads"] = n_heads // 4 if size >= 1e8 and n_heads % 4 == 0 else n_heads
        middle = d_model / _aspect(d_model)
        for n_layers in range(max(1, math.floor(middle * 0.7)), math.ceil(middle * 1.4) + 2):
            step = 16 if size < _SMALL else max(64, d_model // 512 * 64)
            for d_ff in range(-(-2 * d_model // step) * step, 4 * d_model + 1, step):
                yield {**shape, "n_layers": n_layers, "d_ff": d_ff}


def _aspect(d_model: int) -> float:
    """Width over depth to aim at: 64, and from width 2048 to 4096 up to 128."""
    return 64 * min(2.0, max(1.0, d_model / 2048))


def body_of(config: GPTConfig) -> int:
    """Parameters without the tables: no embedding, no position, no head."""
    tables = config.vocab_size * (1 if config.tie_embeddings else 2) + config.bigram_rows
    tables += config.context_length if config.position == "learned" else 0
    return config.n_parameters() - tables * config.d_model


@dataclass(frozen=True)
class Plan:
    """What a size comes to, and what of it the user wrote."""

    size: int
    config: GPTConfig
    lr: float
    max_tokens: int
    written: frozenset[str]

    def table(self, global_batch_tokens: int) -> Table:
        """What a run begins with, and where each of it is from."""
        config, law = self.config, "Li et al. 2025"
        if not (6e7 <= body_of(config) <= 1e9 and 2e9 <= self.max_tokens <= 1e11):
            law += ", outside of the sizes that it was fitted on"
        count = config.n_parameters()
        table = Table(title=f"model.size {self.size:,}", title_justify="left")
        for heading in ("", "value", "from"):
            table.add_column(heading, justify="right" if heading == "value" else "left")
        for name, value, key, formula in (
            ("parameters", f"{count:,}", "", f"{count / self.size - 1:+.1%}; tables counted, a tied one once"),
            ("without tables", f"{body_of(config):,}", "", ""),
            ("width", f"{config.d_model}", "d_model", "width / depth near 64 (Kaplan et al. 2020)"),
            ("layers", f"{config.n_layers}", "n_layers", "the same"),
            (
                "heads",
                f"{config.n_heads} of {config.head_dim}",
                "n_heads",
                "of 64, of 128 from width 2048 on, of 32 below 2m",
            ),
            ("key, value heads", f"{config.n_kv_heads}", "n_kv_heads", "a quarter from 100m on (Ainslie et al. 2023)"),
            ("feed-forward", f"{config.d_ff}", "d_ff", "near 8/3 of the width (Shazeer 2020)"),
            ("tokens", f"{self.max_tokens:,}", "max_tokens", "20 a parameter (Hoffmann et al. 2022), times overtrain"),
            ("tokens a step", f"{global_batch_tokens:,}", "", f"{law}, unless data.global_batch_tokens was written"),
            ("learning rate", f"{self.lr:g}", "lr", law),
        ):
            table.add_row(name, value, "as written" if key in self.written else formula)
        return table


def plan(size: str | float, gpt: Mapping[str, Any], lr: float | None, max_tokens: int | None, overtrain: float) -> Plan:
    """Everything that follows from a size, with what the user wrote in its place."""
    count = parse_size(size)
    config = shape_of(count, gpt)
    tokens = token_budget(count, overtrain) if max_tokens is None else max_tokens
    written = {*gpt, *(["lr"] if lr is not None else []), *(["max_tokens"] if max_tokens is not None else [])}
    rate = learning_rate(body_of(config), tokens) if lr is None else lr
    return Plan(count, config, rate, tokens, frozenset(written))


def shape_and_plan(settings: Mapping[str, Any], gpt: Mapping[str, Any]) -> tuple[GPTConfig, Plan | None]:
    """The shape that a module's `preset` or `size` names, with the fields of `gpt`; a plan where it is a size."""
    if settings["size"] is None:
        try:
            return GPTConfig.preset(settings["preset"] or DEFAULT_PRESET, **gpt), None
        except ConfigError as error:
            raise UserError(f"model: {error}") from error
    if settings["preset"] is not None:
        raise UserError(
            f"model.preset {settings['preset']!r} and model.size {settings['size']} both say how large the model is: "
            "drop one (--model.preset=null takes it out of a configuration)"
        )
    found = plan(settings["size"], gpt, settings["lr"], settings["max_tokens"], settings["overtrain"])
    return found.config, found
