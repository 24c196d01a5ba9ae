"""jsonargparse's error messages as one sentence that names the nearest option."""

import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_type_hints, is_typeddict

from llm.configuration import nearest

# What a message says of the word that it does not know, and nothing of the values around it.
_UNKNOWN = (
    (re.compile(r"[Uu]nrecognized arguments: .*?(--[\w.+]+)"), "no option {}"),
    (re.compile(r"Option '([\w.]+)' is not accepted"), "no option {}"),
    (re.compile(r"does not accept option '([\w.]+)'"), "no option {}"),
    (re.compile(r"Unexpected keys: \{'([\w.]+)'"), "no key {}"),
)
_UNKNOWN_CLASS = re.compile(r"(?:Expected a dot import path string|Unexpected import path format): ([\w.]+)")
_TYPES = (
    (re.compile(r"Expected a <class 'NoneType'>\.?"), "it must be null"),
    (re.compile(r"Expected a <class '(\w+)'>\.?"), r"it must be \1"),
    (re.compile(r"Expected a typing\.Literal\[(.*?)\]\.?"), r"it must be one of \1"),
)
_SEVERAL_TYPES = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: - (.*?) "
    r"Given value type: <class '[\w.]+'> (Given value: .*)"
)
_VALUE = re.compile(r'Parser key "([\w.]+)":(.*?)(?: Got value: (.*?))?(?: Given value.*)?$')


def explain(message: str, options: Iterable[str], classes: Iterable[str] = ()) -> str:
    """One sentence for `message`, with the nearest of the `options` (`--data.sources`) or names of `classes`."""
    text = " ".join(message.split())
    for pattern, sentence in _UNKNOWN:
        found = pattern.search(text)
        if found:
            word = found.group(1)
            return sentence.format(repr(word)) + (_nearest_option(word, options) or " (--help lists what there is)")
    found = _UNKNOWN_CLASS.search(text)
    if found:
        return f"no class {found.group(1)!r}{nearest(found.group(1), classes)}"
    value = _VALUE.search(_SEVERAL_TYPES.sub(_joined, text))
    if value:
        key, what, given = value.groups()
        what = what.strip()
        for pattern, plain in _TYPES:
            what = pattern.sub(plain, what)
        return f"{key}: {what.replace(' or it must be ', ' or ')}" + (f" (given: {given[:80]})" if given else "")
    return text


def _joined(several: re.Match[str]) -> str:
    """What each of several types said, and the value as where there is one type."""
    said, given = several.groups()
    return f"{said.replace(' - ', ' or ')} {given.replace('Given value', 'Got value', 1)}"


def _nearest_option(word: str, options: Iterable[str]) -> str:
    """`; did you mean '--data.curation.languages'?` for a word of which the parser may have dropped the beginning.

    Compared with as many last parts of each option as the word has, then the last part alone, which finds an option
    whose parent was left out. Of several that end alike it is the one with the fewest parts.
    """
    parts = word.lstrip("-").split(".")
    ranked = sorted(options, key=lambda option: (option.count("."), option), reverse=True)
    for count in (len(parts), 1):
        ends = {
            ".".join(option.lstrip("-").split(".")[-count:]): option
            for option in ranked
            if option.count(".") >= count - 1
        }
        close = difflib.get_close_matches(".".join(parts[-count:]), ends, n=1)
        if close:
            return f"; did you mean {ends[close[0]]!r}?"
    return ""


def all_options(parents: Mapping[str, type]) -> set[str]:
    """Every option of classes by the option that chooses them, such as `--data.curation.minhash.bands`."""
    options: set[str] = set()
    for parent, cls in parents.items():
        for name, kind in _parameters(cls).items():
            options.add(f"{parent}.{name}")
            for part in (kind, *get_args(kind)):  # X | None has X as an argument
                if dataclasses.is_dataclass(part) or is_typeddict(part):
                    options |= all_options({f"{parent}.{name}": part})
    return options


def null_option(values: Mapping[str, Any], cls: type) -> str | None:
    """The first parameter of a class, `minhash.bands` for one within another, that is null and may not be."""
    for name, kind in _parameters(cls).items():
        kinds = (kind, *get_args(kind))
        if name not in values or type(None) in kinds or Any in kinds:
            continue
        if values[name] is None:
            return name
    for name, kind in _parameters(cls).items():
        for part in (kind, *get_args(kind)):
            inner = values.get(name)
            if dataclasses.is_dataclass(part) and isinstance(inner, Mapping):
                found = null_option(inner, part)  # type: ignore[arg-type]
                if found:
                    return f"{name}.{found}"
    return None


def _parameters(cls: Any) -> dict[str, Any]:
    """The parameters of a constructor and their types, those that go on to a base class too."""
    if is_typeddict(cls):
        return get_type_hints(cls)
    found: dict[str, Any] = {}
    for base in inspect.getmro(cls):
        types = get_type_hints(base.__init__)  # type: ignore[misc]  # read, not called
        parameters = inspect.signature(base).parameters.values()
        found |= {p.name: types.get(p.name) for p in parameters if p.kind != p.VAR_KEYWORD}
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found
