"""`python -m llm COMMAND ...`: picks the command, and turns what went wrong into one sentence.

torch and Lightning are imported by the commands that need them, not here.
"""

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

from datamodules.errors import DataError
from llm.commands import COMMANDS, help_text
from llm.configuration import nearest
from llm.errors import UserError

# Iterations that an idle thread of torch's thread pool (libgomp) waits awake before it sleeps; its own default is ten
# times as many. On free cores the step is as fast, and on cores that others use too it is several times faster, since
# waiting threads no longer keep working ones off the core (docs/log.md). Read when torch is imported.
GOMP_SPINCOUNT = "30000"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 bad usage, 130 Ctrl-C, 143 SIGTERM."""
    os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings of lost connections are pages of addresses
    try:
        code = run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        discard_output()
        where = f" {error.filename}:" if error.filename else ""
        print(f"error:{where} {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 1


def run(arguments: list[str]) -> int:
    """Run the command that the first argument names."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0 if arguments else 2
    command = arguments[0]
    if command not in COMMANDS:
        print(f"error: no command {command!r}{nearest(command, COMMANDS)} (see python -m llm --help)", file=sys.stderr)
        return 2
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            readable = os.fsencode(argument).decode(errors="backslashreplace")
            print(
                f"error: the argument {readable} is not valid UTF-8; convert it, or of a file: rename it, or name its "
                "folder or a pattern that it matches",
                file=sys.stderr,
            )
            return 2
    main_of: Callable[[list[str]], int] = importlib.import_module(COMMANDS[command][0]).main
    return main_of(arguments)


def discard_output() -> None:
    """Drop what standard output still holds and could not write, or the interpreter fails on it once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
