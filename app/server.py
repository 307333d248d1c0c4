"""In: the server's process. Out: the same process, which keeps uploads off the disk and gives
memory back."""

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

    Uploads stay in memory: without this, those over 1 MB pass through a temporary file. The
    allocator keeps one heap for all threads and asks the system for every large block, so that what
    a film took is given back after its answer.
    """
    MultiPartParser.spool_max_size = 2 * config.get_option("server.maxUploadSize") * 2**20
    if libc := _glibc():
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def known_names() -> list[str]:
    """The host names by which this server may be asked: this machine's own, and what the user
    configured."""
    names = ["localhost", "127.0.0.1", "::1", "[::1]"]
    names += [config.get_option(name) for name in ("server.address", "browser.serverAddress")]
    return ["*"] if "0.0.0.0" in names else [name for name in dict.fromkeys(names) if name]


def give_memory_back() -> None:
    """Returns what is free in the heap to the system, where the C library can."""
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
