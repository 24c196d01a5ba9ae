"""Loops that are compiled to machine code, once on each machine."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
_PLAIN = "plain_function"  # attribute of one that was not called yet


def compiled(function: Function) -> Function:
    """A function of a module, compiled by Numba when it is first called and kept beside its file for later processes.

    Where that folder cannot be written to, it is kept in NUMBA_CACHE_DIR or the user's cache folder, and where these
    cannot either, each process compiles its own.

    What is kept is made anew when the function's own file changes, and only then: it calls compiled functions of that
    file alone. Array bounds are not checked, nor is the overflow of integers.
    """
    names = function.__globals__

    @wraps(function)
    def first_call(*arguments: Any) -> Any:
        if names[function.__name__] is first_call:
            _take_their_places(names)
        return names[function.__name__](*arguments)

    setattr(first_call, _PLAIN, function)
    return first_call  # type: ignore[return-value]


def _take_their_places(names: dict[str, Any]) -> None:
    """Put what Numba makes of them in the place of all functions of a module that wait for their first call.

    Only then is Numba imported, which takes a quarter of a second.
    """
    import numba

    for name, waiting in list(names.items()):
        plain = getattr(waiting, _PLAIN, None)
        if plain is None or plain.__globals__ is not names:
            continue
        try:
            names[name] = numba.njit(cache=True, nogil=True)(plain)
        except RuntimeError:
            names[name] = numba.njit(nogil=True)(plain)
