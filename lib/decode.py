"""In: the path of an image file. Out: a grey uint8 square (S, S), squashed with antialiasing, for the store."""

import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing import connection, parent_process

import numpy as np
from PIL import Image

DECODE_VERSION = 2  # raise it when the same file would give other pixels: stores are then built anew

Bad = list[tuple[int, str]]
"""(row, reason) of the images that cannot be decoded."""


def decode_grey(path: str, size: int) -> np.ndarray:
    """The image as (size, size) uint8 grey, each side scaled on its own (a squash, as the method does).

    Colours become luma (ITU-R 601, Pillow's 'L'), transparency is ignored. Deeper than 8 bits: the range of the
    smallest power of two that holds the brightest pixel becomes 0..255, so that 12-bit films in 16-bit files keep
    their contrast; the range of a float image with no pixel over 1 is 0..1. Raises whatever Pillow raises on a file
    that is no image, or not whole.
    """
    with Image.open(path) as image:
        image.draft("L", (2 * size, 2 * size))  # JPEG alone: decodes at a half, quarter, eighth where that is enough
        image.load()
        return grey_pixels(image, size, size)  # (S, S)


def grey_pixels(image: Image.Image, width: int, height: int) -> np.ndarray:
    """A loaded image as (height, width) uint8 grey, resized with antialiasing; the rules are those of `decode_grey`."""
    if image.mode.startswith(("I", "F")):
        return _deep(image, width, height)
    grey = image if image.mode == "L" else image.convert("L")
    return np.asarray(_resize(grey, width, height))  # (height, width)


def decode_chunk(
    rows: Sequence[int], paths: Sequence[str], size: int, target: str | None = None, offset: int = 0
) -> Bad:
    """Decode some images and write each at its row of the file `target`, whose pixels start at byte `offset`.

    Without a target the images are only tried. Runs in worker processes: pixels never travel between processes.
    """
    bad: Bad = []
    file = os.open(target, os.O_RDWR) if target is not None else None
    try:
        for row, path in zip(rows, paths, strict=True):
            try:
                pixels = decode_grey(path, size)
            except MemoryError:
                raise
            except Exception as error:  # Pillow raises a dozen types on broken files; each is reported with its row
                bad.append((row, f"{type(error).__name__}: {error}".replace(path, "the file")))
            else:
                if file is not None:
                    _write_at(file, pixels.tobytes(), offset + row * size * size)
    finally:
        if file is not None:
            os.close(file)
    return bad


def start_worker() -> None:
    """Start of a worker process: Ctrl-C is its parent's affair, and it ends when the parent does, even a killed one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:

        def wait() -> None:
            connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


def _write_at(file: int, data: bytes, position: int) -> None:
    while data:
        written = os.pwrite(file, data, position)
        data, position = data[written:], position + written


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def _deep(image: Image.Image, width: int, height: int) -> np.ndarray:
    """16-bit, 32-bit and float images: (height, width) uint8."""
    deep = image.convert("F")
    low, high = deep.getextrema()
    if not np.isfinite([low, high]).all() or low < 0:
        raise ValueError(f"grey values from {low} to {high}; they must be finite and not negative")
    share = image.mode == "F" and high <= 1  # a float image stored from 0 to 1
    whole = 1.0 if share else 2.0 ** max(8, int(high).bit_length()) - 1
    scaled = np.asarray(_resize(deep, width, height)) * (255 / whole)
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)  # (height, width)
