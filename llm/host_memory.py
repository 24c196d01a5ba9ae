"""How this process takes memory from the system, and keeps it."""

import ctypes
import mmap
import sys

_M_TRIM_THRESHOLD = -1  # from glibc's malloc.h
_M_MMAP_THRESHOLD = -3
_NEVER = -1
_LARGE = 2**30  # bytes; larger blocks than this are still given back

_BLOCK = 2**29  # bytes; below _LARGE, so that the block lies in the heap
_BLOCKS = 8  # address space alone, until it is touched


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks for the next training step, and Linux to back them by huge pages.

    By default glibc gives large blocks back to the system when they are freed. A step on a CPU then takes them anew,
    and the system hands out each page zeroed, on its first touch. Kept, they stay; the process stays as large as its
    largest step, which it needs again anyway. In pages of 2 MiB instead of 4 KiB the processor finds their addresses
    faster: what the two give is in docs/log.md. Returns whether the blocks are kept; elsewhere than on glibc nothing
    happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    kept = bool(libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))
    if kept:
        _ask_for_huge_pages(libc)
    return kept


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Grow the heap without touching it, mark it for huge pages, and leave it free for what comes."""
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    blocks: list[int] = []
    while len(blocks) < _BLOCKS and (block := libc.malloc(_BLOCK)):  # a system that forbids it just gets none
        blocks.append(block)
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(start, (block + _BLOCK - start) // mmap.PAGESIZE * mmap.PAGESIZE, mmap.MADV_HUGEPAGE)
    for block in reversed(blocks):  # the last one first, so that they melt into one
        libc.free(block)
