"""Loops that are compiled to machine code, once on each machine."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function, compiled by Numba when it is first called and kept beside its file for later processes.

    Where that folder cannot be written to, it is kept in NUMBA_CACHE_DIR or the user's cache folder, and where these
    cannot either, each process compiles its own.

    What is kept is made anew when the function's own file changes, and only then: it calls compiled functions of that
    file alone. Array bounds are not checked, nor is the overflow of integers.
    """
    machine_code: Any
    try:
        machine_code = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        machine_code = numba.njit(nogil=True)(function)
    return machine_code
