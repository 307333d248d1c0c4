"""Reading films: the pixels of training, upright, and a reason for everything that is refused."""

import os
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hostile import as_file, exif, grey_noise, png_of
from PIL import Image

from lib.exceptions import ImageError
from lib.images.pixels import MAX_BYTES, decode_grey
from lib.images.read import read_radiograph

SIZE = 48
RNG = np.random.default_rng(0)
GREY = Image.fromarray(grey_noise(RNG, 120, 90))
COLOUR = Image.fromarray(RNG.integers(0, 256, (120, 90, 3), dtype=np.uint8))
DEEP = Image.fromarray(RNG.integers(0, 4096, (120, 90), dtype=np.uint16))
HOW = {"PNG": {}, "JPEG": {"quality": 90}, "TIFF": {}, "BMP": {}, "GIF": {}}


def reason(source) -> str:
    with pytest.raises(ImageError) as error:
        read_radiograph(source, SIZE)
    return str(error.value)


# ---- pixels


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        *[(kind, GREY) for kind in HOW],
        *[("PNG", COLOUR.convert(mode)) for mode in ("RGB", "RGBA", "P", "LA", "1")],
        *[(kind, COLOUR) for kind in ("JPEG", "TIFF", "BMP")],
        *[(kind, COLOUR.convert("CMYK")) for kind in ("JPEG", "TIFF")],
        *[(kind, DEEP) for kind in ("PNG", "TIFF")],
        ("TIFF", DEEP.convert("I")),
        ("TIFF", DEEP.convert("F")),
        ("JPEG", COLOUR.resize((1700, 1300))),  # is decoded at a fraction
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.mode}-{value.width}",
)
def test_pixels_are_those_of_training(tmp_path, kind, image):
    image.save(tmp_path / "film", kind, **HOW[kind])
    np.testing.assert_array_equal(
        read_radiograph(tmp_path / "film", SIZE).pixels, decode_grey(str(tmp_path / "film"), SIZE)
    )


def test_pixels_of_untouched_films_are_those_of_training(real_data):
    sideways = 0
    for path in sorted((real_data / "originals").glob("*.png")):
        film = read_radiograph(path, 224)
        np.testing.assert_array_equal(film.pixels, decode_grey(str(path), 224))
        assert (film.width, film.height, film.format) == (1024, 1024, "PNG")
        sideways += any("on its side" in warning for warning in film.warnings)
        assert len(film.warnings) == any("on its side" in warning for warning in film.warnings)
    assert sideways <= 1


@pytest.mark.parametrize(
    "make", [Path, str, lambda path: path.read_bytes(), lambda path: BytesIO(path.read_bytes())]
)
def test_a_path_its_bytes_and_an_open_file_are_the_same(tmp_path, make):
    GREY.save(tmp_path / "film.png")
    film = read_radiograph(make(tmp_path / "film.png"), SIZE)
    np.testing.assert_array_equal(film.pixels, decode_grey(str(tmp_path / "film.png"), SIZE))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_turned_film_is_set_upright(orientation, kind):
    """EXIF 2.32, tag 274: where the stored row 0 and column 0 belong in the upright picture."""
    upright = np.asarray(GREY)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    film = read_radiograph(
        as_file(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif(orientation)), SIZE
    )
    np.testing.assert_array_equal(film.pixels, read_radiograph(as_file(GREY, kind), SIZE).pixels)
    np.testing.assert_array_equal(film.preview, upright)
    assert (film.width, film.height) == (90, 120)


# ---- preview


def test_a_small_film_is_shown_as_it_is():
    np.testing.assert_array_equal(
        read_radiograph(as_file(GREY, "PNG"), SIZE).preview, np.asarray(GREY)
    )


def test_a_preview_keeps_the_shape_of_the_film():
    assert read_radiograph(as_file(GREY.resize((3000, 1500)), "PNG"), SIZE).preview.shape == (
        512,
        1024,
    )
    assert read_radiograph(as_file(GREY, "PNG"), SIZE, preview=30).preview.shape == (30, 22)


def test_no_preview_is_made_unless_wanted():
    assert read_radiograph(as_file(GREY, "PNG"), SIZE, preview=0).preview is None


def test_the_preview_of_a_jpeg_is_sharp_though_the_model_needs_less():
    fine = Image.fromarray(
        np.tile(np.repeat([0, 255], 2).astype(np.uint8), (800, 200))
    )  # stripes of 2 px
    film = read_radiograph(as_file(fine, "JPEG", quality=95), SIZE)
    assert film.preview.shape == (800, 800) and film.preview.std() > 100 > film.pixels.std()


@pytest.mark.parametrize("highest", [0.3, 1.0])
def test_a_float_image_from_0_to_1_is_not_black(highest):
    values = np.linspace(0, highest, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    film = read_radiograph(as_file(Image.fromarray(values), "TIFF"), SIZE)
    np.testing.assert_array_equal(film.pixels, np.rint(values * 255))


# ---- warnings


@pytest.mark.parametrize(
    ("image", "warnings"),
    [
        (GREY, []),
        (GREY.convert("RGB"), []),
        (COLOUR, ["in colour, where films are grey"]),
        (Image.merge("LA", (GREY, GREY)), ["partly transparent; the alpha channel is ignored"]),
        (GREY.resize((40, 60)), ["only 40 x 60 px, where the model looks at 48 px"]),
        (Image.new("L", (90, 90), 77), ["almost blank"]),
    ],
)
def test_warnings_name_what_is_odd(image, warnings):
    assert list(read_radiograph(as_file(image, "PNG"), SIZE).warnings) == warnings


def test_colour_is_seen_in_jpeg_too():
    assert (
        read_radiograph(as_file(Image.new("RGB", (90, 90), "red"), "JPEG"), SIZE)
        .warnings[0]
        .startswith("in colour")
    )


def test_plain_borders_are_reported_with_their_part_of_the_film():
    film = np.zeros((SIZE, SIZE), np.uint8)
    film[:, 12:36] = grey_noise(RNG, SIZE, 24)
    warnings = read_radiograph(as_file(Image.fromarray(film), "PNG"), SIZE).warnings
    assert warnings == ("plain borders on 50% of it; cut them off",)


def test_broken_exif_is_reported_and_the_film_answered():
    film = read_radiograph(as_file(GREY, "PNG", exif=b"Exif\0\0XX*\0\x08\0\0\0"), SIZE)
    assert "EXIF is broken" in film.warnings[0]


# ---- refusals


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"some text", "is not an image that can be read"),
        (as_file(GREY, "WEBP"), "is not an image that can be read"),
        (as_file(GREY, "PNG")[:-2000], "is broken or cut short: image file is truncated"),
        (as_file(GREY, "PNG")[:20], "is a broken image: Truncated File Read"),
        (b"\xff\xd8\xff\xe0", "begins like an image, but is broken"),
        (png_of(60000, 60000), "has more pixels than any film"),
        (png_of(8193, 8192), "is 8193 x 8192 px; at most 8192 px per side are read"),
        (png_of(500, 100), "too long and narrow"),
        (png_of(31, 31), "at least 32 px"),
        (as_file(GREY, "GIF", save_all=True, append_images=[COLOUR]), "holds more than one image"),
        (as_file(GREY, "TIFF", save_all=True, append_images=[GREY]), "holds more than one image"),
        (as_file(GREY, "PNG", save_all=True, append_images=[COLOUR]), "holds more than one image"),
        (
            as_file(Image.fromarray(np.full((40, 40), -1, np.float32)), "TIFF"),
            "grey values from -1.0",
        ),
        (as_file(DEEP, "TIFF", tiffinfo={262: 0}), "white is zero"),
    ],
)
def test_a_refusal_says_why(data, message):
    assert message in reason(data)


def test_four_to_one_is_still_read():
    assert read_radiograph(as_file(GREY.resize((400, 100)), "PNG"), SIZE).width == 400


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "film.png")
    assert "is a pipe" in reason(tmp_path / "film.png")


def test_devices_folders_and_what_is_not_there_are_refused(tmp_path):
    assert "is a folder" in reason(tmp_path)
    assert "a device" in reason(Path("/dev/zero"))
    assert "No such file" in reason(tmp_path / "none.png")


def test_a_huge_file_is_refused_unread(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "is larger than 256 MiB" in reason(tmp_path / "huge.png")


def test_the_header_decides_before_pixels_are_decoded(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert "at most 8192 px" in reason(png_of(9000, 9000))


def test_messages_call_the_file_by_its_name_without_control_characters():
    with pytest.raises(ImageError, match=r"^bad\?\[31mname\.png is empty$"):
        read_radiograph(b"", SIZE, "bad\x1b[31mname.png")


def test_large_films_are_decoded_one_at_a_time(monkeypatch):
    """Ten threads read ten films of 3000 x 3000 px: never are two of them between header and
    pixels."""
    data = as_file(Image.new("L", (3000, 3000)), "PNG")
    busy, most = [], []

    def load(image, least, mode="L", fast=False):
        busy.append(1)
        most.append(len(busy))
        threading.Event().wait(0.01)
        busy.pop()
        return GREY, GREY.size, []

    monkeypatch.setattr("lib.images.read._load", load)
    threads = [
        threading.Thread(target=read_radiograph, args=(data, SIZE), kwargs={"preview": 0})
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 10 and max(most) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_trained_as_it_is_predicted(tmp_path, orientation):
    """The image cache and the app read the same pixels."""
    rng = np.random.default_rng(0)
    stored = Image.fromarray(rng.integers(0, 256, (80, 64), dtype=np.uint8)).resize((320, 400))
    stored.save(tmp_path / "film.jpg", exif=exif(orientation))
    read = read_radiograph(tmp_path / "film.jpg", 32).pixels
    np.testing.assert_array_equal(decode_grey(str(tmp_path / "film.jpg"), 32), read)
