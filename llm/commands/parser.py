"""The argument parser of the light commands."""

import argparse
import sys
from typing import NoReturn

from llm.configuration import nearest


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults, where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """argparse, with errors as one sentence that names the nearest option."""

    def __init__(self, command: str, description: str, **settings: object) -> None:
        super().__init__(
            prog=f"python -m llm {command}",
            description=description,
            allow_abbrev=False,
            formatter_class=_Help,
            **settings,  # type: ignore[arg-type]
        )

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # argparse's own overloads
        """As argparse, but a mistyped option is named before a missing one."""
        known = [option for action in self._actions for option in action.option_strings]
        for word in args or ():
            option = word.partition("=")[0]
            if option.startswith("--") and option not in known:
                self.error(f"no option {option!r}{nearest(option, known)}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print `message` on one line and exit with 2."""
        print(f"error: {self.prog}: {message}", file=sys.stderr)
        sys.exit(2)
