"""The argument parser of the light commands."""

import argparse
import sys
from typing import NoReturn

from llm.configuration import nearest


class CommandParser(argparse.ArgumentParser):
    """argparse, with errors as one sentence that names the nearest option."""

    def __init__(self, command: str, description: str, **settings: object) -> None:
        super().__init__(
            prog=f"python -m llm {command}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            **settings,  # type: ignore[arg-type]
        )

    def error(self, message: str) -> NoReturn:
        """Print `message` on one line and exit with 2."""
        if message.startswith("unrecognized arguments"):
            known = [option for action in self._actions for option in action.option_strings]
            unknown = [word.partition("=")[0] for word in message.split() if word.startswith("-")]
            message += "".join(nearest(option, known) for option in unknown[:1])
        print(f"error: {self.prog}: {message}", file=sys.stderr)
        sys.exit(2)
