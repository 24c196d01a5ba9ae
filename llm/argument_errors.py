"""jsonargparse's error messages as one sentence that names the nearest word."""

import inspect
import re
from collections.abc import Iterable

from llm.configuration import nearest

# What a message says of the word that it does not know, and nothing of the values around it.
_UNKNOWN = (
    (re.compile(r"[Uu]nrecognized arguments: .*?(--[\w.+]+)"), "no option {}"),
    (re.compile(r"Option '([\w.]+)' is not accepted"), "no option {}"),
    (re.compile(r"does not accept option '([\w.]+)'"), "no option {}"),
    (re.compile(r"Unexpected keys: \{'([\w.]+)'"), "no key {}"),
    (re.compile(r"Expected a dot import path string: ([\w.]+)"), "no class {}"),
    (re.compile(r"Unexpected import path format: ([\w.]+)"), "no class {}"),
)
_TYPES = (
    (re.compile(r"Expected a <class '(\w+)'>\.?"), r"it must be \1"),
    (re.compile(r"Expected a typing\.Literal\[(.*?)\]\.?"), r"it must be one of \1"),
)
_VALUE = re.compile(r'Parser key "([\w.]+)":(.*?)(?: Got value: (.*?))?(?: Given value.*)?$')


def explain(message: str, known: Iterable[str]) -> str:
    """One sentence for `message`, with the nearest of the `known` options, keys and class names."""
    text = " ".join(message.split())
    known = set(known)
    for pattern, sentence in _UNKNOWN:
        found = pattern.search(text)
        if found:
            word = found.group(1)
            near = nearest(word, known) or _nearest_key(word, known)
            return sentence.format(repr(word)) + (near or " (--help lists what there is)")
    value = _VALUE.search(text)
    if value:
        key, what, given = value.groups()
        what = what.strip().removeprefix("Does not validate against any of the Union subtypes").strip()
        for pattern, plain in _TYPES:
            what = pattern.sub(plain, what)
        return f"{key}: {what}" + (f" (given: {given[:80]})" if given else "")
    return text


def _nearest_key(word: str, known: set[str]) -> str:
    """The option whose last part is nearest to that of `word`, as in --model.lrr."""
    by_end = {option.lstrip("-").rpartition(".")[2]: option for option in sorted(known)}
    return nearest(word.rpartition(".")[2], by_end)


def parameter_names(classes: Iterable[type]) -> set[str]:
    """The names of the classes and of their constructors' parameters, those that go on to a base class too."""
    names: set[str] = set()
    for cls in classes:
        names.add(cls.__name__)
        for base in inspect.getmro(cls):
            parameters = inspect.signature(base).parameters.values()
            names |= {parameter.name for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD}
            if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
                break
    return names
