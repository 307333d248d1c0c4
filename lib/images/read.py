"""In: an image or DICOM file, from anywhere. Out: a `Radiograph` with the pixels of training, or an
`ImageError`."""

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from lib.exceptions import ImageError
from lib.images.orientation import seems_sideways
from lib.images.pixels import MAX_SIDE, check_size, grey_pixels, read_bytes, set_upright
from lib.images.png import fast_png

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF")
FAST_THREADS = 2  # with more, Pillow's decoder is faster together: it runs in all of them at once

_LARGE = 2**25  # bytes
_ONE_LARGE_FILM = threading.RLock()
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"GIF8")


@dataclass(frozen=True)
class Radiograph:
    """One image: pixels for the model, a preview for display, and warnings.

    `pixels` (S, S) uint8 grey, squashed as in training; `preview` (h, w) uint8 grey in the film's
    own shape, or None; `width` and `height` of the film, upright, in px; `warnings` are phrases.
    """

    pixels: np.ndarray
    preview: np.ndarray | None
    width: int
    height: int
    format: str
    warnings: tuple[str, ...] = ()


def read_radiograph(
    source: Path | str | bytes | BinaryIO,
    size: int,
    name: str = "",
    *,
    preview: int = 1024,
    threads: int = 1,
) -> Radiograph:
    """Reads one film: a path, the bytes of a file, or an open binary file.

    The pixels are those of `pixels.decode_grey`, after the turn that EXIF may ask for. `preview` is
    the longest side of the picture for display in px, 0 for none. `name` names the file in
    messages. `threads` is how many threads read films at a time; it decides on the decoder, not on
    the pixels. Size and frames are checked in the header, before pixels are decoded. Raises
    ImageError with the reason for what is refused.
    """
    subject = "".join(c if c.isprintable() else "?" for c in name)[:120] or "the file"
    try:
        with ExitStack() as turn:
            data = read_bytes(source, lambda size: _wait_turn(size, turn))
            if data[128:132] == b"DICM":
                return _read_dicom(data, size, preview, turn)
            return _read_image(data, size, preview, turn, fast=threads <= FAST_THREADS)
    except ImageError as error:
        raise ImageError(f"{subject} {error}") from error
    except MemoryError as error:
        raise ImageError(f"{subject} needs more memory than there is") from error


def _read_image(data: bytes, size: int, preview: int, turn: ExitStack, fast: bool) -> Radiograph:
    image = _open(data)
    kind = "JPEG" if image.format == "MPO" else image.format
    check_size(*image.size)
    if getattr(image, "is_animated", False):
        raise ImageError("holds more than one image; save the film alone")
    if kind == "TIFF" and image.mode.startswith("I;16") and image.getexif().get(262) == 0:
        raise ImageError("is a 16-bit TIFF whose white is zero; save it with black as zero")
    _wait_turn(image.width * image.height * 4, turn)
    image, full, warnings = _load(image, 2 * size, fast=fast)
    pixels = _grey(image, size, size)  # (S, S)
    shown = None
    if preview:
        shape = _within(*full, preview)
        larger = _load(_open(data), preview)[0] if image.width < shape[0] else image
        shown = _grey(larger, *shape)  # (h, w)
    warnings += _look(
        _load(_open(data), 64, "RGB")[0] if kind == "JPEG" else image
    )  # L was all that JPEG gave
    return Radiograph(pixels, shown, *full, kind, (*warnings, *_remarks(pixels, *full)))


def _read_dicom(data: bytes, size: int, preview: int, turn: ExitStack) -> Radiograph:
    try:
        from lib.images import dicom  # only here, since pydicom is an extra
    except ModuleNotFoundError as error:
        if error.name != "pydicom":
            raise
        raise ImageError("is DICOM, which pydicom reads: pip install pydicom") from error
    header = dicom.read_header(data)
    _wait_turn(header.Rows * header.Columns * 4, turn)
    grey, warnings = dicom.read_pixels(data, header)
    image = Image.fromarray(grey)
    pixels = _grey(image, size, size)  # (S, S)
    shown = _grey(image, *_within(*image.size, preview)) if preview else None  # (h, w)
    return Radiograph(
        pixels, shown, *image.size, "DICOM", (*warnings, *_remarks(pixels, *image.size))
    )


def _wait_turn(size: int, turn: ExitStack) -> None:
    """Large films, by bytes of the file or of its pixels, are read one after the other: memory
    stays bounded."""
    if size > _LARGE:
        turn.enter_context(_ONE_LARGE_FILM)


def _open(data: bytes) -> Image.Image:
    """The image with its header read; whatever Pillow raises on hostile files becomes a reason."""
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"has more pixels than any film, by its header; at most {MAX_SIDE} px per side are read"
        ) from error
    except UnidentifiedImageError as error:
        if data.startswith(_BEGINNINGS):
            raise ImageError(
                "begins like an image, but is broken, cut short, or of a rare kind"
            ) from error
        raise ImageError(
            "is not an image that can be read (PNG, JPEG, TIFF, BMP, GIF or DICOM)"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(f"is a broken image: {error}") from error


def _load(
    image: Image.Image, least: int, mode: str = "L", *, fast: bool = False
) -> tuple[Image.Image, tuple[int, int], list[str]]:
    """Decodes and sets upright: the image, its full (width, height), warnings. JPEG may be reduced,
    to `least` px. `fast` may use the faster decoder of PNG."""
    full = image.size
    loaded = fast_png(image) if fast else None
    if loaded is None:
        loaded = image
        loaded.draft(mode, (least, least))  # as decode_grey does
        try:
            loaded.load()
        except MemoryError:
            raise
        except Exception as error:
            raise ImageError(f"is broken or cut short: {error}") from error
    upright, problem = set_upright(loaded)
    if image.format == "TIFF":
        full = image.size  # Pillow has turned it
    elif upright.size != image.size:
        full = full[::-1]
    return upright, full, [problem] * bool(problem)


def _grey(image: Image.Image, width: int, height: int) -> np.ndarray:
    try:
        return grey_pixels(image, width, height)  # (height, width)
    except ValueError as error:
        raise ImageError(f"does not become grey: {error}") from error


def _within(width: int, height: int, longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _look(image: Image.Image) -> list[str]:
    """Warnings of colour and transparency, from 64 x 64 samples of the image."""
    if (image.mode in ("1", "L") and "transparency" not in image.info) or image.mode.startswith(
        ("I", "F")
    ):
        return []
    sample = np.asarray(
        image.resize((64, 64), Image.Resampling.NEAREST).convert("RGBA")
    )  # (64, 64, 4)
    spread = np.ptp(sample[..., :3].astype(int), axis=2)  # (64, 64)
    coloured = ["in colour, where films are grey"] if spread.mean() > 8 else []
    return coloured + (
        ["partly transparent; the alpha channel is ignored"] if sample[..., 3].min() < 255 else []
    )


def _remarks(pixels: np.ndarray, width: int, height: int) -> list[str]:
    """Warnings about the pixels (S, S) and the full size."""
    size = len(pixels)
    remarks = [f"only {width} x {height} px, where the model looks at {size} px"] * (
        min(width, height) < size
    )
    if np.ptp(pixels) < 8:
        return [*remarks, "almost blank"]
    kept = 1.0
    for axis in (0, 1):
        lively = np.flatnonzero(np.ptp(pixels, axis=axis) > 2)
        kept *= (lively[-1] - lively[0] + 1) / size if len(lively) else 0.0
    if kept < 0.8:
        remarks.append(f"plain borders on {1 - kept:.0%} of it; cut them off")
    if seems_sideways(pixels):
        remarks.append("may lie on its side: turn it upright if it does")
    return remarks
