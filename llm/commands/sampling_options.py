"""The options of commands that let a model write."""

import argparse
from typing import Any


def add_sampling_options(options: argparse.ArgumentParser, max_new_tokens: int, most: str) -> None:
    """How long a text becomes, and how its tokens are drawn."""
    options.add_argument("--max_new_tokens", type=int, default=max_new_tokens, help=most)
    options.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest token")
    options.add_argument("--top_k", type=int, default=50, help="choose from the k likeliest tokens; 0: from all")
    options.add_argument(
        "--top_p", type=float, default=1.0, help="choose from the likeliest tokens that together have probability p"
    )
    options.add_argument(
        "--min_p", type=float, default=0.0, help="choose from tokens at least p times as likely as the likeliest"
    )
    options.add_argument(
        "--repetition_penalty", type=float, default=1.0, help="above 1: make tokens that were there before less likely"
    )
    options.add_argument("--seed", type=int, default=None, help="the same seed writes the same text (default: random)")


def sampling_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What was chosen, as the settings of `llm.generation`."""
    return {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_k": options.top_k or None,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "repetition_penalty": options.repetition_penalty,
        "seed": options.seed,
    }


def add_adapter_option(options: argparse.ArgumentParser) -> None:
    """Adapters beside the model."""
    options.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="a checkpoint or the run of an adapter of this model, or a folder of PEFT; can be given repeatedly",
    )
