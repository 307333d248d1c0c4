"""Encode images for the page.

In: a grey image and heat maps, as arrays. Out: small JPEG and PNG files, and their data URIs.
"""

import base64
import re
from io import BytesIO

import numpy as np
from PIL import Image

_JPEG_QUALITY = 85
_THUMBNAIL = 96  # px
_INFERNO = re.findall(
    # every eighth colour of matplotlib's perceptually uniform map (van der Walt and Smith 2015)
    "......",
    "0000040403120b0724150b37210c4a2f0a5b3d09654a0c6b57106e64156e71196e7d1e6d8a226a972766a32c61b0315b"
    "bc3754c63d4dd04545da4e3ce35933eb6429f1711ff67e14f98c0afb9b06fcaa0ffbba1ff9c932f5d949f2e865f3f586fcffa4",
)


def colours() -> np.ndarray:
    """Return the colour map (256, 3) uint8, from 0 to the maximum.

    Brightness rises evenly, so that it is also readable in grey.
    """
    stops = np.array(
        [[int(text[i : i + 2], 16) for i in (0, 2, 4)] for text in _INFERNO]
    )  # (33, 3)
    places = np.linspace(0, 255, len(stops))
    channels = [np.interp(np.arange(256), places, stops[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)  # (256, 3)


def overlay(heat: np.ndarray) -> bytes:
    """Return a heat map (h, w) >= 0 as a PNG to lay over the film.

    Its maximum is opaque and in the last colour. 0 is transparent, so a map of zeros is fully
    transparent. There is one pixel per cell: the page enlarges cells as squares, so that the map
    does not look finer than it is.
    """
    peak = float(heat.max())
    scaled = np.asarray(heat / peak if peak > 0 else np.zeros_like(heat), dtype=np.float32)
    indexed = Image.fromarray(np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8))
    image = Image.frombytes("P", indexed.size, indexed.tobytes())
    image.putpalette(_PALETTE)
    return _saved(image, "PNG", transparency=_ALPHAS, compress_level=1)


def picture(grey: np.ndarray) -> bytes:
    """Return an image (h, w) uint8 as a JPEG."""
    return _saved(Image.fromarray(grey), "JPEG", quality=_JPEG_QUALITY)


def thumbnail(grey: np.ndarray) -> bytes:
    """Return an image (h, w) uint8 as a JPEG that fits a row of a table."""
    image = Image.fromarray(grey)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return _saved(image, "JPEG", quality=_JPEG_QUALITY)


def data_uri(file: bytes) -> str:
    """Return a JPEG or PNG file as a data URI, which needs no network request."""
    kind = "png" if file.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file).decode('ascii')}"


def legend_gradient() -> str:
    """Return the colours as a CSS gradient from 0 to the maximum.

    Each is as opaque as in the overlay.
    """
    table = colours()
    stops = [(*table[i], i / 255) for i in range(0, 256, 15)]
    return (
        "linear-gradient(to right, "
        + ", ".join(f"rgba({r}, {g}, {b}, {a:.2f})" for r, g, b, a in stops)
        + ")"
    )


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


_PALETTE = colours().tobytes()
_ALPHAS = bytes(range(256))
