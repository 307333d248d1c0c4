"""Some 200 files that a batch may meet and must survive: broken, lying, enormous, odd in name or in
kind."""

import os
import socket
import struct
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

OK, REFUSED, EITHER = "ok", "refused", "either"
COUNT = 200
PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0"


def write_hostile(folder: Path, seed: int = 0) -> dict[bytes, str]:
    """Fills `folder`; returns every path that wants a row, and whether it is to be answered,
    refused, or either."""
    rng = np.random.default_rng(seed)
    made: dict[bytes, str] = {}
    folder.mkdir(parents=True)

    def write(name: str | bytes, data: bytes, fate: str) -> None:
        path = folder / os.fsdecode(name)
        path.write_bytes(data)
        made[os.fsencode(path)] = fate

    sound = dict(_sound(rng))
    for name, data in sound.items():
        write(name, data, OK)
    for name, data in _odd_names(sound["grey.png"]):
        write(name, data, OK)
    for name, data in _refused(rng, sound):
        write(name, data, REFUSED)
    if find_spec("pydicom"):
        for name, data, fate in _dicom(rng):
            write(name, data, fate)
    made |= _odd_entries(folder, sound["grey.png"])
    names = sorted(sound)
    for number in range(COUNT - len(made)):
        name = names[number % len(names)]
        write(f"damaged{number:03d}_{name}", _damaged(sound[name], number, rng), EITHER)
    return made


def grey_noise(rng: np.random.Generator, height: int = 80, width: int = 72) -> np.ndarray:
    """(height, width) uint8."""
    return rng.integers(0, 256, (height, width), dtype=np.uint8)


def as_file(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as the bytes of a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, extra: bytes = b"") -> bytes:
    """A tiny PNG that claims any size."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return PNG + header + extra + pixels + png_chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    """EXIF that says how a picture is turned."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def _sound(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Films in every form that is read."""
    grey = Image.fromarray(grey_noise(rng))
    deep = Image.fromarray(rng.integers(0, 4096, (80, 72), dtype=np.uint16))
    yield "grey.png", as_file(grey, "PNG")
    yield "deep.png", as_file(deep, "PNG")
    yield "deep.tiff", as_file(deep, "TIFF")
    for mode in ("1", "LA", "P", "RGB", "RGBA"):
        yield f"mode_{mode}.png", as_file(grey.convert(mode), "PNG")
    yield "transparent.png", as_file(grey.convert("P"), "PNG", transparency=3)
    for kind in ("BMP", "GIF", "JPEG", "TIFF"):
        yield f"grey.{kind.lower()}", as_file(grey, kind)
    yield (
        "colour.jpg",
        as_file(Image.fromarray(rng.integers(0, 256, (80, 72, 3), dtype=np.uint8)), "JPEG"),
    )
    yield "cmyk.jpg", as_file(grey.convert("CMYK"), "JPEG")
    yield "progressive.jpg", as_file(grey, "JPEG", progressive=True)
    yield "lzw.tif", as_file(grey, "TIFF", compression="tiff_lzw")
    yield "cmyk.tif", as_file(grey.convert("CMYK"), "TIFF")
    for orientation in range(1, 10):
        yield f"turned{orientation}.jpg", as_file(grey, "JPEG", exif=exif(orientation))
    yield "bad_exif.jpg", as_file(grey, "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40)
    yield "film", as_file(grey, "PNG")
    yield "film.exe", as_file(grey, "PNG")


def _odd_names(film: bytes) -> Iterator[tuple[str | bytes, bytes]]:
    names = [
        "new\nline.png",
        "tab\there.png",
        "\x1b[2J\x1b[31mred.png",
        "carriage\rreturn.png",
        "bell\x07.png",
    ]
    names += [
        "-rf.png",
        "--out.png",
        "=1+1.png",
        'quote".png',
        "comma,semi;.png",
        " space .png",
        "film.png ",
        "~",
        "nul",
    ]
    names += [
        ".hidden.png",
        "*.png",
        "[a].png",
        "?.png",
        "%s%n.png",
        "$(id).png",
        "`id`.png",
        "back\\slash.png",
    ]
    names += [
        "胸部.png",
        "🫁.png",
        "é.png",
        "e\u0301.png",
        "\u202egnp.exe",
        "\u2028.png",
        "\ufeff.png",
        "a" * 251 + ".png",
    ]
    yield from ((name, film) for name in names)
    yield b"latin1_\xe9.png", film
    yield b"\xff\xfe.png", film


def _refused(rng: np.random.Generator, sound: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Files that are no film, or lie about what they are."""
    for kind in ("png", "jpg", "tif", "dcm", "gif"):
        yield f"empty.{kind}", b""
    for name, start in {"png": PNG, "jpg": JPEG, "tif": TIFF, "gif": b"GIF89a"}.items():
        yield f"magic_alone.{name}", start
        yield f"magic_and_noise.{name}", start + rng.bytes(500)
    texts = {
        "text": b"a note",
        "html": b"<html>",
        "svg": b"<svg/>",
        "pdf": b"%PDF-1.7",
        "zip": b"PK\3\4" + bytes(60),
    }
    texts |= {"ps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "zeros": bytes(5000)}
    texts["noise"] = rng.bytes(5000)
    yield from ((f"{name}.png", data) for name, data in texts.items())
    film = Image.fromarray(grey_noise(rng))
    for kind in ("WEBP", "PPM", "ICO"):
        yield f"{kind.lower()}.png", as_file(film, kind)
    for fraction in (0.1, 0.5, 0.9):
        for name in ("grey.png", "deep.png", "grey.bmp", "grey.tiff", "deep.tiff"):
            yield f"cut{fraction:.0%}_{name}", sound[name][: int(len(sound[name]) * fraction)]
    for width, height in (
        (60000, 60000),
        (2**31 - 1, 2**31 - 1),
        (9000, 9000),
        (8193, 8192),
        (12000, 12000),
        (0, 0),
    ):
        yield f"claims{width}x{height}.png", png_of(width, height)
    yield "claims8000x8000.png", png_of(8000, 8000)
    yield (
        "text_bomb.png",
        png_of(64, 64, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8), 9))),
    )
    yield "bomb.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20)
    yield (
        "bomb.bmp",
        as_file(film, "BMP")[:18] + struct.pack("<ii", 60000, 60000) + as_file(film, "BMP")[26:],
    )
    jpeg = sound["grey.jpeg"]
    place = jpeg.index(b"\xff\xc0") + 5
    yield "bomb.jpg", jpeg[:place] + b"\xff\xff\xff\xff" + jpeg[place + 4 :]
    yield "long.png", as_file(Image.new("L", (500, 100)), "PNG")
    yield "narrow.png", as_file(Image.new("L", (40, 4000)), "PNG")
    yield "one_pixel.png", as_file(Image.new("L", (1, 1)), "PNG")
    frames = {"save_all": True, "append_images": [Image.fromarray(grey_noise(rng))]}
    for kind in ("GIF", "PNG", "TIFF"):
        yield f"two_frames.{kind.lower()}", as_file(film, kind, **frames)
    yield "negative.tif", as_file(Image.fromarray(np.full((40, 40), -1.0, np.float32)), "TIFF")
    yield "nan.tif", as_file(Image.fromarray(np.full((40, 40), np.nan, np.float32)), "TIFF")


def _dicom(rng: np.random.Generator) -> Iterator[tuple[str, bytes, str]]:
    from dicom_files import dicom_bytes, encoded
    from pydicom import uid

    pixels = grey_noise(rng)
    whole = dicom_bytes(pixels)
    yield "film.dcm", whole, OK
    yield "film_without_suffix", whole, OK
    yield "cut.dcm", whole[:-500], REFUSED
    yield "cut_header.dcm", whole[:300], REFUSED
    yield "preamble_alone.dcm", bytes(128) + b"DICM", REFUSED
    yield "noise.dcm", bytes(128) + b"DICM" + rng.bytes(2000), REFUSED
    yield "no_preamble.dcm", whole[132:], REFUSED
    yield "deflated.dcm", dicom_bytes(pixels, uid.DeflatedExplicitVRLittleEndian), REFUSED
    yield "ct.dcm", dicom_bytes(pixels, Modality="CT"), REFUSED
    yield "lateral.dcm", dicom_bytes(pixels, ViewPosition="LL"), REFUSED
    yield "hand.dcm", dicom_bytes(pixels, BodyPartExamined="HAND"), REFUSED
    yield "frames.dcm", dicom_bytes(pixels, NumberOfFrames=2), REFUSED
    yield "claims.dcm", dicom_bytes(pixels, Rows=60000, Columns=60000), REFUSED
    yield "no_pixels.dcm", dicom_bytes(pixels, PixelData=None), REFUSED
    bomb = encoded(np.zeros((9000, 9000), np.uint8), "JPEG", quality=1)
    yield "jpeg_bomb.dcm", dicom_bytes(pixels, uid.JPEGBaseline8Bit, bomb), REFUSED
    for number in range(4):
        damaged = bytearray(whole)
        damaged[int(rng.integers(140, 600))] ^= int(rng.integers(1, 256))
        yield f"damaged{number}.dcm", bytes(damaged), EITHER


def _odd_entries(folder: Path, film: bytes) -> dict[bytes, str]:
    """What a folder can hold that is no plain file."""
    fates: dict[Path, str] = {}
    inner = folder / "folder.png"
    inner.mkdir()
    (folder / "empty_folder.png").mkdir()
    deep = folder.joinpath(*["deep"] * 60)
    deep.mkdir(parents=True)
    for path in (inner / "inside.png", deep / "film.png"):
        path.write_bytes(film)
        fates[path] = OK
    links = {
        "itself": "itself",
        "there": "back",
        "back": "there",
        "nowhere": "missing",
        "up": ".",
        "null": "/dev/null",
    }
    for name, target in links.items():
        (folder / f"link_{name}.png").symlink_to(
            f"link_{target}.png" if target in links else target
        )
        fates[folder / f"link_{name}.png"] = REFUSED
    (folder / "link_film.png").symlink_to("folder.png/inside.png")
    fates[folder / "link_film.png"] = OK
    os.mkfifo(folder / "pipe.png")
    fates[folder / "pipe.png"] = REFUSED
    if Path("/proc/self/fd").is_dir():
        here = os.open(folder, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{here}/socket.png")  # since a socket's path must be short
        os.close(here)
        fates[folder / "socket.png"] = REFUSED
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(2**32)
    fates[folder / "sparse.png"] = REFUSED
    (folder / "secret.png").write_bytes(film)
    (folder / "secret.png").chmod(0)
    fates[folder / "secret.png"] = EITHER  # the superuser reads it
    return {os.fsencode(path): fate for path, fate in fates.items()}


def _damaged(data: bytes, number: int, rng: np.random.Generator) -> bytes:
    """One in two is cut; in the others, some bytes are others."""
    if number % 2:
        return data[: int(rng.integers(8, len(data)))]
    damaged = bytearray(data)
    for place in rng.integers(8, len(data), 1 + number % 7):
        damaged[place] = int(rng.integers(0, 256))
    return bytes(damaged)
