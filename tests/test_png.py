"""The faster decoder of PNG: the pixels, warnings and refusals of Pillow."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hostile import PNG, as_file, exif, grey_noise, png_chunk
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib.exceptions import ImageError
from lib.images import png
from lib.images.pixels import decode_grey
from lib.images.read import FAST_THREADS, read_radiograph

pytest.importorskip("kornia_rs", reason="the extra `fast` is not installed")

SIZE, HEIGHT, WIDTH = 48, 120, 90
RNG = np.random.default_rng(0)
NOISE = grey_noise(RNG, HEIGHT, WIDTH)
SMOOTH = Image.fromarray(
    NOISE // 16 + np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)).astype("u1")
)
DEEP = Image.fromarray(RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16))
COLOUR = Image.fromarray(RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def header(depth: int = 8, colour: int = 0, interlace: int = 0) -> bytes:
    return png_chunk(
        b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlace)
    )


def built(stream: bytes, head: bytes | None = None, behind: bytes = b"") -> bytes:
    """A PNG of a compressed stream, with blocks between the pixels and the end."""
    parts = (PNG, head or header(), png_chunk(b"IDAT", stream), behind, png_chunk(b"IEND", b""))
    return b"".join(parts)


def rows(pixels: np.ndarray) -> bytes:
    """Rows without a filter."""
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def interlaced() -> bytes:
    """Seven passes, as the PNG specification orders them (section 8.2)."""
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    passes = [rows(NOISE[y::down, x::right]) for y, x, down, right in (*starts, (1, 0, 2, 1))]
    return built(zlib.compress(b"".join(passes)), header(interlace=1))


def with_blocks(*blocks: tuple[bytes, bytes]) -> bytes:
    """A film with more blocks in front of its pixels."""
    info = PngInfo()
    for name, data in blocks:
        info.add(name, data)
    return as_file(SMOOTH, "PNG", pnginfo=info)


STREAM = zlib.compress(rows(NOISE))
FAST = {
    "grey": as_file(SMOOTH, "PNG"),
    "noise": as_file(Image.fromarray(NOISE), "PNG"),
    "uncompressed": as_file(SMOOTH, "PNG", compress_level=0),
    "16 bits": as_file(DEEP, "PNG"),
    "12 of 16 bits": as_file(Image.fromarray(np.asarray(DEEP) >> 4), "PNG"),
    "gamma": with_blocks((b"gAMA", struct.pack(">I", 220000))),
    "text": with_blocks((b"tEXt", b"Software\0scanner")),
    "one transparent grey": as_file(SMOOTH, "PNG", transparency=7),
    "turned": as_file(SMOOTH, "PNG", exif=exif(6)),
}
LEFT_TO_PILLOW = {
    **{mode: as_file(COLOUR.convert(mode), "PNG") for mode in ("RGB", "RGBA", "LA", "P", "1")},
    "2 bits": built(zlib.compress(rows(NOISE[:, : (WIDTH + 3) // 4])), header(depth=2)),
    "interlaced": interlaced(),
    "turned by what follows": built(STREAM, behind=png_chunk(b"eXIf", exif(6)[6:])),
    "text that follows": built(STREAM, behind=png_chunk(b"tEXt", b"a\0b")),
    "more behind the end": as_file(SMOOTH, "PNG") + b"more",
    "no end": as_file(SMOOTH, "PNG")[:-12],
    "wrong checksum of a block": built(STREAM).replace(
        zlib.crc32(b"IDAT" + STREAM).to_bytes(4), b"abcd"
    ),
    "JPEG": as_file(SMOOTH, "JPEG"),
}
REFUSED = {
    "cut": as_file(SMOOTH, "PNG")[:-600],
    "short": built(zlib.compress(rows(NOISE)[:-1])),
    "unknown filter": built(zlib.compress(b"\5" + rows(NOISE)[1:])),
    "no stream": built(b""),
}


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


def result(data: bytes, threads: int) -> object:
    """What a reader gets: pixels, size and warnings, or the reason."""
    try:
        film = read_radiograph(data, SIZE, threads=threads)
    except ImageError as error:
        return str(error)
    return film.pixels.tobytes(), film.preview.tobytes(), film.width, film.height, film.warnings


def assert_same(data: bytes) -> None:
    assert result(data, threads=1) == result(data, threads=FAST_THREADS + 1)


@pytest.mark.parametrize("name", FAST)
def test_a_plain_film_has_the_pixels_of_pillow(name):
    film, wanted = png.fast_png(opened(FAST[name])), opened(FAST[name])
    assert film.mode == wanted.mode
    np.testing.assert_array_equal(np.asarray(film), np.asarray(wanted))
    assert_same(FAST[name])


@pytest.mark.parametrize("name", LEFT_TO_PILLOW)
def test_what_is_not_plain_is_left_to_pillow(name):
    image = opened(LEFT_TO_PILLOW[name])
    assert png.fast_png(image) is None
    image.load()
    assert_same(LEFT_TO_PILLOW[name])


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_film_gets_the_reason_of_pillow(name):
    assert png.fast_png(opened(REFUSED[name])) is None
    reason = result(REFUSED[name], threads=1)
    assert isinstance(reason, str) and "is broken or cut short" in reason
    assert_same(REFUSED[name])


def test_damaged_films_fare_as_with_pillow():
    for number in range(300):
        data = bytearray(FAST[("grey", "16 bits")[number % 2]])
        for at in RNG.integers(0, len(data), 1 + number % 3):
            data[at] ^= 1 << RNG.integers(8)
        assert_same(bytes(data))


def test_only_a_wrong_checksum_within_right_ones_goes_unnoticed():
    data = built(STREAM[:-4] + b"\0\0\0\0")
    np.testing.assert_array_equal(np.asarray(png.fast_png(opened(data))), NOISE)
    assert "broken data stream" in result(data, threads=FAST_THREADS + 1)


def test_the_image_cache_has_the_same_pixels(tmp_path, monkeypatch):
    made = {}
    for decoder in (png.fast_png, lambda image: None):
        monkeypatch.setattr("lib.images.pixels.fast_png", decoder)
        for name, data in (FAST | LEFT_TO_PILLOW).items():
            (tmp_path / "film").write_bytes(data)
            made.setdefault(name, []).append(decode_grey(str(tmp_path / "film"), SIZE).tobytes())
    assert all(one == other for one, other in made.values())


def test_real_films_have_the_pixels_of_pillow(real_data):
    films = [path.read_bytes() for path in sorted((real_data / "originals").glob("*.png"))]
    assert sum(png.fast_png(opened(film)) is not None for film in films) == 9  # three are RGBA
    for film in films:
        assert_same(film)


def test_many_threads_and_large_films_are_left_to_pillow(monkeypatch):
    monkeypatch.setattr(png, "MOST", WIDTH * HEIGHT - 1)
    assert png.fast_png(opened(FAST["grey"])) is None
    monkeypatch.setattr("lib.images.read.fast_png", lambda image: pytest.fail("was used"))
    assert read_radiograph(FAST["grey"], SIZE, threads=FAST_THREADS + 1).width == WIDTH


def test_pillow_decodes_where_the_decoder_is_missing(monkeypatch):
    wanted = result(FAST["grey"], threads=1)
    monkeypatch.setattr(png, "_DECODERS", {8: "renamed"})
    png._decoder.cache_clear()
    assert png.fast_png(opened(FAST["grey"])) is None
    assert result(FAST["grey"], threads=1) == wanted
    png._decoder.cache_clear()
