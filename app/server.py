"""In: the server's process. Out: the same process, which keeps uploads off the disk and gives memory back."""

import ctypes
import platform
from functools import cache

from starlette.formparsers import MultiPartParser
from streamlit import config

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_LARGE = 128 * 1024  # bytes


@cache
def set_up() -> None:
    """Done once a process.

    Uploads stay in memory: without this, those over 1 MB pass through a temporary file. The allocator keeps one heap
    for all threads and asks the system for every large block, so that what a film took is given back after its answer.
    """
    MultiPartParser.spool_max_size = 2 * config.get_option("server.maxUploadSize") * 2**20
    if libc := _glibc():
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def give_memory_back() -> None:
    """Returns what is free in the heap to the system, where the C library can."""
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
