"""`python -m llm chat`: a conversation with a model, in a terminal or a pipe."""

import sys
from collections.abc import Iterator
from pathlib import Path

from llm.commands.parser import CommandParser
from llm.commands.sampling_options import add_adapter_option, add_sampling_options, sampling_settings
from llm.errors import UserError


def parser() -> CommandParser:
    """The options of `chat`."""
    options = CommandParser(
        "chat",
        "Talk with a model that was trained on conversations; /help lists what can be done besides talking. In a pipe "
        "each line of standard input is a message, and standard output gets the answers alone.",
    )
    options.add_argument("--checkpoint", required=True, help="a .ckpt file, or the folder of a run (its best one)")
    add_adapter_option(options)
    options.add_argument("--system", default="", help="the system message")
    options.add_argument("--message", help="say this, print the answer, and end")
    options.add_argument("--conversation", help="go on with a conversation that /save wrote")
    add_sampling_options(options, max_new_tokens=256, most="tokens of an answer at most")
    return options


def main(arguments: list[str]) -> int:
    """Talk until the user ends it."""
    options = parser().parse_args(arguments[1:])

    from llm.adapted_model import open_with_adapters
    from llm.checkpoint import TENSORS, read_checkpoint
    from llm.generation.chat import Chat
    from llm.generation.terminal import answer_lines, talk, write
    from llm.host_memory import keep_freed_memory
    from llm.model import fuse_projections
    from llm.run import find_checkpoint

    keep_freed_memory()
    model, tokenizer, adapters = open_with_adapters(options.checkpoint, options.adapter)
    fuse_projections(model)
    contents = read_checkpoint(find_checkpoint(options.checkpoint), without=TENSORS)["labyrinth"]
    if contents.get("chat_template") is None and not adapters:
        print(
            f"{options.checkpoint} was not trained on conversations, so its answers will be no answers: fine-tune it "
            "(--config instruct), or let it continue text with `python -m llm generate`",
            file=sys.stderr,
        )
    chat = Chat(model, tokenizer, options.system, **sampling_settings(options))
    if options.conversation is not None:
        chat.load(Path(options.conversation))
    if options.message is not None:
        write(chat.say(options.message))
    elif sys.stdin.isatty():
        talk(chat, adapters)
    else:
        answer_lines(chat, adapters, lines_of_input())
    return 0


def lines_of_input() -> Iterator[str]:
    """The lines of standard input, as they come; UserError where one is no text."""
    try:
        for line in sys.stdin:
            line.encode()  # in some locales Python lets bytes through that are no UTF-8
            yield line.rstrip("\n")
    except UnicodeError as error:
        raise UserError("a message from standard input is not valid UTF-8; convert it first") from error
