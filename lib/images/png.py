"""In: a PNG with its header read. Out: its grey pixels from a faster decoder than Pillow's, or None
where Pillow is to decode it.

Undoing the filters of the rows takes Pillow three quarters of a film's time; kornia-rs (the extra
`fast`) needs less than half of the whole. It gets plain films alone, whose pixels need no further
rule: grey, 8 or 16 bits, not interlaced, with nothing behind the image data. What it refuses is
left to Pillow, so that broken files get Pillow's reasons, or its pixels. One fault goes unnoticed:
a wrong checksum of the compressed data where those of the file's blocks, which hold it, are right.
"""

import struct
from collections.abc import Callable
from functools import cache
from typing import IO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

MOST = 2**24  # px; Pillow reports where larger ones need more memory than there is

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">12x4s8xBBBBB")  # IHDR; then, behind the size: depth, colour, 3 methods
_DECODERS = {8: "decode_image_png_u8", 16: "decode_image_png_u16"}  # by bits per pixel

Decoder = Callable[[bytes, tuple[int, int], str], np.ndarray]
"""File, (height, width), mode -> (height, width, 1)."""


def fast_png(image: Image.Image) -> Image.Image | None:
    """The pixels of a plain PNG, opened and not yet loaded, with its `info`; None where Pillow is
    to decode it.

    The decoder holds Python's lock: it helps one thread that decodes, or processes, and two threads
    a little, not more of them.
    """
    width, height = image.size
    if not isinstance(image, PngImageFile) or width * height > MOST:
        return None
    decode = _decoder(_depth(_beginning(image.fp, _HEADER.size)))
    if decode is None:
        return None
    data = _beginning(image.fp, 16 * 1024 + 3 * width * height)
    if not _ends_with_pixels(data):
        return None
    try:
        pixels = decode(data, (height, width), "mono")  # (height, width, 1)
    except Exception:  # the package has one type for all; Pillow will find the reason
        return None
    film = Image.fromarray(pixels[..., 0])
    film.info = dict(image.info)
    return film


def _beginning(file: IO[bytes] | None, most: int) -> bytes:
    """The first `most` bytes of an open file, which stays at its position."""
    if file is None:
        return b""
    position = file.tell()
    file.seek(0)
    data = file.read(most)
    file.seek(position)
    return data


def _depth(data: bytes) -> int:
    """Bits per pixel of a grey PNG that is not interlaced; 0 for another."""
    if len(data) < _HEADER.size or not data.startswith(_SIGNATURE):
        return 0
    name, depth, *rest = _HEADER.unpack_from(data)
    return depth if name == b"IHDR" and not any(rest) else 0


def _ends_with_pixels(data: bytes) -> bool:
    """Whether nothing but the end follows the image data: a later block may say how to turn it."""
    at, seen = len(_SIGNATURE), False
    while at + 12 <= len(data):
        count, name = struct.unpack_from(">I4s", data, at)
        at += 12 + count
        if name == b"IEND":
            return seen and at == len(data)
        if seen and name != b"IDAT":
            return False
        seen = name == b"IDAT"
    return False


@cache
def _decoder(depth: int) -> Decoder | None:
    """The decoder for so many bits; None where kornia-rs is missing, or has none of this name."""
    try:
        from kornia_rs import io  # only here, since it is an extra
    except ImportError:
        return None
    return getattr(io, _DECODERS.get(depth, ""), None)
