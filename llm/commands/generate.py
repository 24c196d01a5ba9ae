"""`python -m llm generate`: continue a prompt."""

import sys

from llm.commands.parser import CommandParser
from llm.errors import UserError


def parser() -> CommandParser:
    """The options of `generate`."""
    options = CommandParser("generate", "Continue a prompt with a trained model, as plain text on standard output.")
    options.add_argument("--checkpoint", required=True, help="a .ckpt file, or the folder of a run (its best one)")
    options.add_argument("--prompt", required=True, help="the text to continue; - reads it from standard input")
    options.add_argument("--max_new_tokens", type=int, default=200, help="tokens to write at most")
    options.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest token")
    options.add_argument("--top_k", type=int, default=50, help="choose from the k likeliest tokens; 0: from all")
    options.add_argument(
        "--top_p", type=float, default=1.0, help="choose from the likeliest tokens that together have probability p"
    )
    options.add_argument("--seed", type=int, default=None, help="the same seed writes the same text (default: random)")
    return options


def prompt_from_input() -> str:
    """What standard input holds; UserError where that is no text."""
    try:
        prompt = sys.stdin.read()
        prompt.encode()  # in some locales Python lets bytes through that are no UTF-8
    except UnicodeError as error:
        raise UserError("the prompt from standard input is not valid UTF-8; convert it first") from error
    return prompt


def main(arguments: list[str]) -> int:
    """Stream the continuation of the prompt, the prompt first."""
    options = parser().parse_args(arguments[1:])
    prompt = prompt_from_input() if options.prompt == "-" else options.prompt

    from llm.checkpoint import load_model
    from llm.generation import continue_text
    from llm.run import find_checkpoint

    model, tokenizer = load_model(find_checkpoint(options.checkpoint))
    pieces = continue_text(
        model,
        tokenizer,
        prompt,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k or None,
        top_p=options.top_p,
        seed=options.seed,
    )
    sys.stdout.write(prompt)
    for text in pieces:
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0
