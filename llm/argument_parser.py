"""The parser of `fit`, `validate`, `test`, `predict` and `prepare`: stricter than jsonargparse, errors as sentences."""

import sys
from typing import Any, get_args

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from llm.argument_errors import all_options, explain
from llm.choices import PARTS, named_in


class ArgumentParser(LightningArgumentParser):
    """Errors as one sentence, with the nearest name for a mistyped option; no option by the beginning of its name."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Print `message` on one line and exit with 2."""
        options = all_options({f"--{part}": named_in(sys.argv, part) for part in PARTS})
        # Of a class within another the parser has a parser of its own, which does not know what stands before.
        mine = {option for action in self._actions for option in action.option_strings}
        options |= {one for one in mine if not any(full.endswith("." + one.lstrip("-")) for full in options)}
        classes = [cls.__name__ for classes in PARTS.values() for cls in classes]
        print(f"error: {explain(message, options, classes)}", file=sys.stderr)
        sys.exit(2)

    def parse_args(self, args: Any = None, *arguments: Any, **settings: Any) -> Any:
        """As jsonargparse, which hands the parser of a class within another the word None where null was written."""
        if args is not None and len(args) == 1 and args[0].endswith("=None"):
            action = self._option_string_actions.get(args[0].removesuffix("=None"))
            # Without an action it is a setting within another class, whose parser will look at its type.
            if action is None or type(None) in get_args(getattr(action, "_typehint", None)):
                args = [args[0].removesuffix("None") + "null"]
        return super().parse_args(args, *arguments, **settings)

    def parse_object(self, obj: Any, *arguments: Any, **settings: Any) -> Any:
        """As jsonargparse, which passes over unknown keys that hold nothing but empty keys: `filter: {c4: {}}`."""
        known = [action.dest for action in self._actions]
        for key, value in vars(obj).items() if isinstance(obj, Namespace) else obj.items():
            if _holds_nothing(value) and not any(f"{name}.".startswith(f"{key}.") for name in known):
                self.error(f"Option '{key}' is not accepted")
        return super().parse_object(obj, *arguments, **settings)


def _holds_nothing(value: Any) -> bool:
    """Whether a value is keys without values, however deep."""
    if isinstance(value, Namespace):
        value = value.as_dict()
    return isinstance(value, dict) and all(map(_holds_nothing, value.values()))
