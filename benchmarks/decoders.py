"""The decoders of films that are measured: Pillow's, and others where they are installed.

In: the bytes of an image. Out: its pixels.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from lib.images.png import fast_png

DRAFT = 448  # px; JPEG is decoded at the smallest fraction of its size with as many
PILLOW, FAST = "Pillow", "kornia-rs (the extra `fast`)"
Decode = Callable[[bytes], np.ndarray]


def installed(decoders: dict[str, Callable[[], Decode]]) -> dict[str, Decode]:
    """Return the decoders whose packages are there."""
    found = {}
    for name, make in decoders.items():
        with contextlib.suppress(ImportError):
            found[name] = make()
    return found


def fast_is_there(film: Path | bytes) -> bool:
    """Return whether the faster decoder reads this film."""
    with Image.open(io.BytesIO(film) if isinstance(film, bytes) else film) as image:
        return fast_png(image) is not None


def opened(film: bytes) -> Image.Image:
    return Image.open(io.BytesIO(film))


def pillow(film: bytes) -> np.ndarray:
    return np.asarray(opened(film))


def draft(film: bytes) -> np.ndarray:
    """Decode as `read_radiograph` does JPEG: at a fraction of its size, if that is enough."""
    image = opened(film)
    image.draft("L", (DRAFT, DRAFT))
    return np.asarray(image)


def jpeg(film: bytes) -> bytes:
    buffer = io.BytesIO()
    opened(film).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def stream(film: bytes) -> bytes:
    """The compressed rows of a PNG."""
    at, parts = 8, []
    while at < len(film):
        count = int.from_bytes(film[at : at + 4])
        if film[at + 4 : at + 8] == b"IDAT":
            parts.append(film[at + 8 : at + 8 + count])
        at += 12 + count
    return b"".join(parts)


def _kornia() -> Decode:
    from kornia_rs import io as kornia

    return lambda film: kornia.decode_image_png_u8(film, opened(film).size[::-1], "mono")


def _opencv() -> Decode:
    import cv2

    cv2.setNumThreads(1)
    return lambda film: cv2.imdecode(np.frombuffer(film, np.uint8), cv2.IMREAD_UNCHANGED)


def _pyspng() -> Decode:
    import pyspng

    return pyspng.load


def _libpng() -> Decode:
    from imagecodecs import png_decode

    return png_decode


def _libspng() -> Decode:
    from imagecodecs import spng_decode

    return spng_decode


def _simplejpeg() -> Decode:
    from simplejpeg import decode_jpeg

    return lambda film: decode_jpeg(film, "GRAY", min_height=DRAFT, min_width=DRAFT)


PNG_DECODERS = {
    "kornia-rs": _kornia,
    "OpenCV": _opencv,
    "pyspng": _pyspng,
    "imagecodecs' libpng": _libpng,
    "imagecodecs' libspng": _libspng,
}
JPEG_DECODERS = {"simplejpeg": _simplejpeg}
