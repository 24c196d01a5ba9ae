"""`python -m llm show`: what a configuration trains on, token by token."""

import sys

from llm.commands.parser import CommandParser


def parser() -> CommandParser:
    """The options of `show`."""
    options = CommandParser(
        "show",
        "Show what a configuration trains on, before it is paid for: samples as the model reads them, with what it "
        "learns to write in colour (in «» where there are no colours), their lengths, and how full the rows are. All "
        "other options are those of fit, and mean the same.",
    )
    options.add_argument("--n", type=int, default=3, help="samples")
    return options


def main(arguments: list[str]) -> int:
    """Prepare the data and print samples of it."""
    own, rest = _own_and_others(arguments[1:])
    options = parser().parse_args(own)
    if not rest:
        print("error: python -m llm show: give the configuration with --config FILE", file=sys.stderr)
        return 2

    from llm.commands.data_cli import data_module
    from llm.sample_report import print_samples

    print_samples(data_module(rest), options.n)
    return 0


def _own_and_others(arguments: list[str]) -> tuple[list[str], list[str]]:
    """`--n` and a call for help, and all that is for `fit`."""
    own, others, words = [], [], iter(arguments)
    for word in words:
        if word in ("-h", "--help") or word.startswith("--n="):
            own.append(word)
        elif word == "--n":
            own += [word, *([following] if (following := next(words, None)) is not None else [])]
        else:
            others.append(word)
    return own, others
