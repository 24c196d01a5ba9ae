"""How this process keeps the memory that it has freed."""

import ctypes
import sys

_M_TRIM_THRESHOLD = -1  # from glibc's malloc.h
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks for the next training step; returns whether it did.

    By default it gives large blocks back to the system when they are freed. A step on a CPU then takes them anew, and
    the system hands out each page zeroed, on its first touch: measured as 5 to 8 % of a narrow model's step
    (docs/log.md). The process stays as large as its largest step, which it needs again anyway. Elsewhere than on glibc
    nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
