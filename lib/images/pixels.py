"""In: a path, bytes or an open file. Out: grey pixels of bounded size (S, S) uint8, or an
`ImageError`."""

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from lib.exceptions import ImageError
from lib.images.png import fast_png

MAX_SIDE = 8192  # px
MIN_SIDE = 32  # px
MAX_ASPECT = 4.0  # the longer side over the shorter
MAX_BYTES = 2**28  # of a file; a plain 16-bit film of 8192 x 8192 px has half of that


def check_size(width: int, height: int) -> None:
    """Raises ImageError for a size, in px, that no chest film has."""
    shape = f"is {width} x {height} px"
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{shape}; at most {MAX_SIDE} px per side are read, so make it smaller")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{shape}; a film has at least {MIN_SIDE} px per side")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(
            f"{shape}, too long and narrow for a chest film (at most {MAX_ASPECT:g} to 1)"
        )


def read_bytes(source: Path | str | bytes | BinaryIO, expect: Callable[[int], None]) -> bytes:
    """The bytes of the file; `expect` is called with the size of a file on disk before it is read.

    Pipes, devices and folders are refused without opening them, because reading one could block
    forever.
    """
    if isinstance(source, Path | str):
        try:
            _check_regular(Path(source).stat())
            with os.fdopen(
                os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb"
            ) as opened:
                status = os.fstat(opened.fileno())
                _check_regular(status)  # the path may lead to a pipe since then
                _check_bytes(status.st_size)
                expect(status.st_size)
                data = opened.read(MAX_BYTES + 1)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}") from error
    else:
        data = source if isinstance(source, bytes) else source.read(MAX_BYTES + 1)
    _check_bytes(len(data))
    return data


def _check_bytes(count: int) -> None:
    if not count:
        raise ImageError("is empty")
    if count > MAX_BYTES:
        raise ImageError(f"is larger than {MAX_BYTES >> 20} MiB; larger files are not read")


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("is a pipe, a socket or a device, not a file")


DECODE_VERSION = 3  # increase it when a file would give other pixels: caches are then built again

DICOM_SUFFIXES = (".dcm", ".dicom")
_TURNED = frozenset(range(2, 9))  # EXIF's orientations of what is not upright

Bad = list[tuple[int, str]]
"""(row, reason) of the images that cannot be decoded."""


def decode_grey(path: str, size: int) -> np.ndarray:
    """The image as (size, size) uint8 grey, each side scaled on its own (a squash, as the method
    does).

    It is turned as its EXIF asks. Colours become luma (ITU-R 601, Pillow's 'L'), transparency is
    ignored. Deeper than 8 bits: the range of the smallest power of two that holds the brightest
    pixel becomes 0..255, so that 12-bit films in 16-bit files keep their contrast; the range of a
    float image with no pixel over 1 is 0..1. Files named .dcm or .dicom are displayed as their
    header asks (`lib.images.dicom`), whatever it says of body part and view. Raises whatever Pillow
    raises on a file that is no image, or incomplete; ImageError on such DICOM.
    """
    if path.lower().endswith(DICOM_SUFFIXES):
        return grey_pixels(_displayed(path), size, size)  # (S, S)
    with Image.open(path) as image:
        film = fast_png(image)
        if film is None:
            film = image
            film.draft(
                "L", (2 * size, 2 * size)
            )  # JPEG alone: decodes at a half, quarter, eighth where that is enough
            film.load()
        return grey_pixels(set_upright(film)[0], size, size)  # (S, S)


def _displayed(path: str) -> Image.Image:
    """A DICOM file as an image in grey."""
    try:
        from lib.images import dicom  # only here, since pydicom is an extra
    except ModuleNotFoundError as error:
        if error.name != "pydicom":
            raise
        raise ImageError("is DICOM, which pydicom reads: pip install pydicom") from error
    data = Path(path).read_bytes()
    return Image.fromarray(dicom.read_pixels(data, dicom.read_header(data, any_view=True))[0])


def original_size(path: str) -> tuple[int, int]:
    """Width and height in px of an image file, DICOM included, from its header."""
    if path.lower().endswith(DICOM_SUFFIXES):
        import pydicom  # only here, since it is an extra

        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return int(header.Columns), int(header.Rows)
    with Image.open(path) as image:
        return image.size


def set_upright(image: Image.Image) -> tuple[Image.Image, str]:
    """A loaded image turned as its EXIF asks, and why it could not be turned, or nothing. An image
    that is upright already is returned itself, uncopied. Pillow itself turns TIFF."""
    if image.format == "TIFF":
        return image, ""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
        return (ImageOps.exif_transpose(image) if turned else image), ""
    except MemoryError:
        raise
    except Exception as error:  # of a hostile or damaged block, of any kind
        return image, f"its EXIF is broken ({error}), so it was not turned"


def grey_pixels(image: Image.Image, width: int, height: int) -> np.ndarray:
    """A loaded image as (height, width) uint8 grey, resized with antialiasing; the rules are those
    of `decode_grey`."""
    if image.mode.startswith(("I", "F")):
        return _deep(image, width, height)
    grey = image if image.mode == "L" else image.convert("L")
    return np.asarray(_resize(grey, width, height))  # (height, width)


def decode_chunk(
    rows: Sequence[int], paths: Sequence[str], size: int, target: str | None = None, offset: int = 0
) -> Bad:
    """Decode some images and write each at its row of the file `target`, whose pixels start at byte
    `offset`.

    Without a target the images are only tried. Runs in worker processes: pixels never travel
    between processes.
    """
    bad: Bad = []
    file = os.open(target, os.O_RDWR) if target is not None else None
    try:
        for row, path in zip(rows, paths, strict=True):
            try:
                pixels = decode_grey(path, size)
            except MemoryError:
                raise
            # Pillow raises a dozen types on broken files; each is reported with its row
            except Exception as error:
                bad.append((row, f"{type(error).__name__}: {error}".replace(path, "the file")))
            else:
                if file is not None:
                    _write_at(file, pixels.tobytes(), offset + row * size * size)
    finally:
        if file is not None:
            os.close(file)
    return bad


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
    low, high = (float(value) for value in np.asarray(deep.getextrema()))
    if not np.isfinite([low, high]).all() or low < 0:
        raise ValueError(f"grey values from {low} to {high}; they must be finite and not negative")
    share = image.mode == "F" and high <= 1  # a float image stored from 0 to 1
    whole = 1.0 if share else 2.0 ** max(8, int(high).bit_length()) - 1
    scaled = np.asarray(_resize(deep, width, height)) * (255 / whole)
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)  # (height, width)
