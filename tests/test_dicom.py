"""DICOM films as they are meant to be seen, and refusals of everything that is no frontal chest
radiograph."""

import subprocess
import sys
from importlib.util import find_spec
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: the extra `dicom`")

from dicom_files import dicom_bytes, encoded  # noqa: E402
from hostile import grey_noise  # noqa: E402
from pydicom import Dataset, uid  # noqa: E402
from pydicom.pixels import apply_windowing  # noqa: E402

from lib.config import REPO_ROOT  # noqa: E402
from lib.exceptions import ImageError  # noqa: E402
from lib.images.dicom_display import displayed, window  # noqa: E402
from lib.images.pixels import decode_grey  # noqa: E402
from lib.images.read import Radiograph, read_radiograph  # noqa: E402

SIDE = 64
RNG = np.random.default_rng(0)
GREY = grey_noise(RNG, SIDE, SIDE)
DEEP = RNG.integers(0, 4096, (SIDE, SIDE), dtype=np.uint16)
RAMP = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)  # 0 to 4095


def film(pixels: np.ndarray, *args, **header) -> Radiograph:
    return read_radiograph(dicom_bytes(pixels, *args, **header), SIDE)


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as error:
        read_radiograph(data, SIDE)
    return str(error.value)


def item(**elements) -> list[Dataset]:
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return [dataset]


# ---- pixels


@pytest.mark.parametrize("pixels", [GREY, DEEP], ids=["8 bits", "12 of 16 bits"])
def test_without_a_window_the_pixels_are_those_of_the_same_film_as_png(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "film.png")
    np.testing.assert_array_equal(
        film(pixels).pixels, decode_grey(str(tmp_path / "film.png"), SIDE)
    )


def test_monochrome1_is_inverted():
    inverted = film(GREY, PhotometricInterpretation="MONOCHROME1").pixels
    np.testing.assert_array_equal(inverted, 255 - GREY)


def test_a_linear_window_is_that_of_the_standard():
    """PS3.3 C.11.2.1.2: centre 2048 and width 1025 let 1535.5 to 2559.5 rise from black to
    white."""
    shown = film(RAMP, WindowCenter=2048, WindowWidth=1025).pixels.ravel()
    assert (shown[:1536] == 0).all() and (shown[2560:] == 255).all()
    assert shown[[1791, 1792, 2047, 2048]].tolist() == [64, 64, 127, 128]


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # in pydicom
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(100, 50), (0, 4096), (-20.5, 1.5), (60, 1)])
def test_windows_agree_with_pydicom(function, center, width):
    values = np.arange(-200, 200)
    header = item(WindowCenter=center, WindowWidth=width, VOILUTFunction=function, BitsStored=8)[0]
    header.PixelRepresentation, header.PhotometricInterpretation = 0, "MONOCHROME2"
    if (function, width) == ("LINEAR", 1):  # pydicom divides by zero in the middle of a step
        values = values[values != center]
    expected = apply_windowing(values, header) / 255
    np.testing.assert_allclose(window(values, center, width, function), expected, atol=1e-12)


def test_rescale_comes_before_the_window():
    plain = film(RAMP, WindowCenter=1000, WindowWidth=500).pixels
    scaled = film(
        RAMP, WindowCenter=1900, WindowWidth=999, RescaleSlope=2, RescaleIntercept=-100
    ).pixels
    # 2 x - 100 in a window of width 2 w - 1 around 2 c - 100 is x in one of width w around c, half
    # a level apart
    assert np.abs(plain.astype(int) - scaled).max() <= 1


def test_the_first_of_several_windows_is_used():
    several = film(RAMP, WindowCenter=[1000, 3000], WindowWidth=[500, 100]).pixels
    np.testing.assert_array_equal(several, film(RAMP, WindowCenter=1000, WindowWidth=500).pixels)


def test_an_impossible_window_is_reported_and_left_out():
    shown = film(DEEP, WindowCenter=0, WindowWidth=0)
    np.testing.assert_array_equal(shown.pixels, film(DEEP).pixels)
    assert shown.warnings == ("its window of width 0 is impossible, so all of its range is shown",)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_voi_lut_is_looked_up_and_its_ends_hold_outside(depth):
    whole = 2**depth - 1
    lut = item(
        LUTDescriptor=[3, 10, depth], LUTData=np.array([0, whole // 5, whole], np.uint16).tobytes()
    )
    lut[0]["LUTData"].VR = "OW"
    pixels = np.resize(np.array([0, 9, 10, 11, 12, 13, 255], np.uint8), (SIDE, SIDE))
    shown = film(
        pixels, VOILUTSequence=lut, WindowCenter=1, WindowWidth=1
    ).pixels  # the LUT goes before the window
    np.testing.assert_array_equal(shown.ravel()[:7], [0, 0, 0, 51, 255, 255, 255])


def test_a_modality_lut_comes_first():
    lut = item(
        LUTDescriptor=[256, 0, 16], LUTData=np.arange(256, dtype=np.uint16)[::-1].copy().tobytes()
    )
    lut[0]["LUTData"].VR = "OW"
    np.testing.assert_array_equal(film(GREY, ModalityLUTSequence=lut).pixels, 255 - GREY)


def test_signed_values_are_shown_from_the_darkest_on():
    shown = film(RAMP.astype(np.int16) - 1000).pixels
    np.testing.assert_array_equal(shown, film(RAMP).pixels)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(kind):
    padded = DEEP.copy()
    padded[:, :20] = 65535
    shown = film(padded, PhotometricInterpretation=kind, PixelPaddingValue=65535).pixels
    assert (shown[:, :20] == 0).all()
    np.testing.assert_array_equal(
        shown[:, 20:], film(DEEP, PhotometricInterpretation=kind).pixels[:, 20:]
    )


def test_padding_may_be_a_range_with_the_wrong_sign():
    pixels = np.full((SIDE, SIDE), 100, np.int16)
    pixels[0, :3] = [-2000, -1999, -1998]
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.PixelPaddingRangeLimit = "MONOCHROME2", -1999
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)
    grey, _ = displayed(pixels, dataset)
    assert grey[0, :4].tolist() == [0, 0, 0, 255 * 2098 // 4095 + 1]


def test_colour_becomes_luma_and_is_reported():
    pixels = RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    shown = film(pixels)
    np.testing.assert_array_equal(shown.pixels, np.asarray(Image.fromarray(pixels).convert("L")))
    assert shown.warnings == ("in colour, where films are grey",)


def test_real_films_are_as_their_bytes_say(real_data):
    for name in ("udacity_test1.dcm", "udacity_test2.dcm"):
        path = real_data / "dicom" / name
        stored = pydicom.dcmread(path).pixel_array
        np.testing.assert_array_equal(read_radiograph(path, 1024).pixels, stored)


# ---- compression


def test_jpeg_2000_without_loss_gives_the_same_pixels():
    frame = encoded(DEEP, "JPEG2000", irreversible=False, no_jp2=True)
    compressed = film(DEEP, uid.JPEG2000Lossless, frame).pixels
    np.testing.assert_array_equal(compressed, film(DEEP).pixels)


def test_baseline_jpeg_gives_what_pillow_gives():
    frame = encoded(GREY, "JPEG", quality=95)
    expected = np.asarray(Image.open(BytesIO(frame)))
    np.testing.assert_array_equal(film(GREY, uid.JPEGBaseline8Bit, frame).pixels, expected)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_a_frame_larger_than_the_header_says_is_refused_undecoded(kind):
    syntax = {"JPEG": uid.JPEGBaseline8Bit, "JPEG2000": uid.JPEG2000}[kind]
    frame = encoded(np.zeros((3000, 2000), np.uint8), kind)
    assert "says 64 x 64 px, but its compressed image is 2000 x 3000 px" in reason(
        dicom_bytes(GREY, syntax, frame)
    )


@pytest.mark.skipif(find_spec("gdcm") is not None, reason="python-gdcm is installed")
def test_lossless_jpeg_without_gdcm_says_what_to_install():
    message = reason(dicom_bytes(GREY, uid.JPEGLosslessSV1, b"\xff\xd8\xff\xd9"))
    assert "compressed by JPEG Lossless" in message and "pip install python-gdcm" in message


def test_a_deflated_file_is_refused_without_inflating_it():
    bomb = dicom_bytes(np.zeros((4000, 4000), np.uint8), uid.DeflatedExplicitVRLittleEndian)
    assert "stored as Deflated Explicit VR Little Endian" in reason(bomb)


# ---- what it shows: pydicom warns of values that no standard knows


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"Modality": "CT"}, "is DICOM of modality CT, not a radiograph"),
        ({"Modality": "SR"}, "is DICOM of modality SR"),
        ({"Modality": None, "SOPClassUID": uid.CTImageStorage}, "is DICOM of modality unknown"),
        ({"BodyPartExamined": "RIBCAGE"}, "is a radiograph of RIBCAGE, not of the chest"),
        ({"BodyPartExamined": "ABDOMEN"}, "is a radiograph of ABDOMEN"),
        ({"BodyPartExamined": "CHESTABDPELVIS"}, "is a radiograph of CHESTABDPELVIS"),
        (
            {"BodyPartExamined": None, "AnatomicRegionSequence": item(CodeMeaning="Hand")},
            "is a radiograph of HAND",
        ),
        ({"ViewPosition": "LL"}, "is a view from LL, not a frontal one"),
        ({"ViewPosition": "LATERAL"}, "is a view from LATERAL"),
        ({"ViewPosition": "RAO"}, "is a view from RAO"),
        (
            {"ViewPosition": None, "ViewCodeSequence": item(CodeMeaning="left lateral")},
            "is a view from LEFT LATERAL",
        ),
        ({"PatientOrientation": ["A", "F"]}, "is a lateral view by its PatientOrientation"),
        ({"NumberOfFrames": 3}, "holds 3 frames"),
        ({"Rows": 60000, "Columns": 60000}, "is 60000 x 60000 px"),
        ({"Rows": None, "Columns": None}, "is DICOM without an image"),
        ({"PixelData": None}, "is DICOM without pixels"),
        ({"BitsAllocated": 32}, "stores 1 x 32 bits per pixel"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "as PALETTE COLOR"),
        ({"Rows": SIDE + 1}, "pixels are broken or cut short"),
        ({"Modality": "CT\x1b[2J"}, "is DICOM of modality CT [2J,"),
    ],
)
def test_a_refusal_says_why(header, message):
    assert message in reason(dicom_bytes(GREY, **header))


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize(
    "header",
    [
        {"Modality": "CR"},
        {"Modality": "RG"},
        {"Modality": None},  # its class says that it is a radiograph
        {"BodyPartExamined": None},
        {"BodyPartExamined": ""},
        {"BodyPartExamined": "Thorax"},
        {"BodyPartExamined": "PORT CHEST"},
        {"ViewPosition": None},
        {"ViewPosition": "AP"},
        {"ViewPosition": "AP SUPINE"},
        {"ViewPosition": None, "ViewCodeSequence": item(CodeMeaning="postero-anterior")},
        {"PatientOrientation": ["L", "F"]},
        {"NumberOfFrames": 1},
    ],
)
def test_frontal_chest_radiographs_are_read(header):
    np.testing.assert_array_equal(film(GREY, **header).pixels, GREY)


def test_raw_and_mirrored_films_are_reported():
    told = film(
        GREY, PresentationIntentType="FOR PROCESSING", PatientOrientation=["R", "F"]
    ).warnings
    assert told == (
        "stored for processing, not for presentation",
        "mirrored, by its PatientOrientation",
    )


def test_the_films_that_are_none_are_refused(real_data):
    reasons = [
        reason((real_data / "dicom" / f"udacity_test{number}.dcm").read_bytes())
        for number in (4, 5)
    ]
    assert "RIBCAGE" in reasons[0] and "modality CT" in reasons[1]


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.HTJ2K])
def test_what_is_no_radiograph_is_called_so_whatever_compresses_it(syntax):
    assert "modality MR, not a radiograph" in reason(
        dicom_bytes(GREY, syntax, b"\xff\xd8\xff\xd9", Modality="MR")
    )


def test_a_film_of_unknown_view_gets_a_remark():
    remark = "of unknown view: nothing in the file says that it is frontal (PA or AP)"
    assert film(GREY, ViewPosition=None).warnings == (remark,)
    assert film(GREY, ViewPosition=None, PatientOrientation=["L", "F"]).warnings == ()


# ---- without pydicom


def test_without_pydicom_the_reason_says_what_to_install(tmp_path):
    (tmp_path / "film.dcm").write_bytes(dicom_bytes(GREY))
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from lib.exceptions import ImageError\nfrom lib.images.read import read_radiograph\n"
        "try: read_radiograph(sys.argv[1], 64)\n"
        "except ImageError as error: print(error)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "film.dcm")]
    found = subprocess.run(words, cwd=REPO_ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "the file is DICOM, which pydicom reads: pip install pydicom"
