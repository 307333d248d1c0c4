"""In: a path, bytes or an open file. Out: the bytes of one regular file of bounded size, or a `FilmError`."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from lib.exceptions import FilmError

MAX_SIDE = 8192  # px
MIN_SIDE = 32  # px
MAX_ASPECT = 4.0  # the longer side over the shorter
MAX_BYTES = 2**28  # of a file; a plain 16-bit film of 8192 x 8192 px has half of that


def check_size(width: int, height: int) -> None:
    """Raises FilmError for a size, in px, that no chest film has."""
    shape = f"is {width} x {height} px"
    if max(width, height) > MAX_SIDE:
        raise FilmError(f"{shape}; at most {MAX_SIDE} px a side are read, so make it smaller")
    if min(width, height) < MIN_SIDE:
        raise FilmError(f"{shape}; a film has at least {MIN_SIDE} px a side")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise FilmError(f"{shape}, too long and narrow for a chest film (at most {MAX_ASPECT:g} to 1)")


def read_bytes(source: Path | str | bytes | BinaryIO, expect: Callable[[int], None]) -> bytes:
    """The bytes of the file; `expect` is told the size of one on disk before it is read.

    Pipes, devices and folders are refused unopened, for reading one could wait for ever.
    """
    if isinstance(source, Path | str):
        try:
            _check_regular(Path(source).stat())
            with os.fdopen(os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as opened:
                known = os.fstat(opened.fileno())
                _check_regular(known)  # the path may lead to a pipe since then
                _check_bytes(known.st_size)
                expect(known.st_size)
                data = opened.read(MAX_BYTES + 1)
        except OSError as error:
            raise FilmError(f"cannot be read: {error.strerror or error}") from error
    else:
        data = source if isinstance(source, bytes) else source.read(MAX_BYTES + 1)
    _check_bytes(len(data))
    return data


def _check_bytes(count: int) -> None:
    if not count:
        raise FilmError("is empty")
    if count > MAX_BYTES:
        raise FilmError(f"is larger than {MAX_BYTES >> 20} MiB, and no film is")


def _check_regular(known: os.stat_result) -> None:
    if stat.S_ISDIR(known.st_mode):
        raise FilmError("is a folder, not a file")
    if not stat.S_ISREG(known.st_mode):
        raise FilmError("is a pipe, a socket or a device, not a file")
