"""What is raised where a model cannot be built."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A model that cannot be built: one sentence with the value, the limit and the remedy."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of such a sentence: the known name that is most like `name`, or all of them."""
    known = list(known)
    matches = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    return f"did you mean {matches[0]!r}?" if matches else f"known are {', '.join(known)}"
