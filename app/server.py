"""Settings of the server's process: uploads stay off the disk, and freed memory is returned.

In: the server's process. Out: the same process with these settings.
"""

import ctypes
import platform
from functools import cache

from starlette.formparsers import MultiPartParser
from streamlit import config

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h
_LARGE = 128 * 1024  # bytes


@cache
def set_up() -> None:
    """Apply the settings once per process.

    Uploads stay in memory: by default those over 1 MB pass through a temporary file. The allocator
    uses one heap for all threads, and requests every large block from the system, so that the
    memory of an image is returned after its prediction.
    """
    MultiPartParser.spool_max_size = 2 * config.get_option("server.maxUploadSize") * 2**20
    if libc := _glibc():
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def known_names() -> list[str]:
    """Return the host names under which this server accepts requests.

    These are the names of this machine, and those that the user configured.
    """
    names = ["localhost", "127.0.0.1", "::1", "[::1]"]
    names += [config.get_option(name) for name in ("server.address", "browser.serverAddress")]
    return ["*"] if "0.0.0.0" in names else [name for name in dict.fromkeys(names) if name]


def give_memory_back() -> None:
    """Return free heap memory to the system, if the C library can."""
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
