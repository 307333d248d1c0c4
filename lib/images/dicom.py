"""In: the bytes of a DICOM file. Out: its image in 8-bit grey, as it is meant to be displayed, or
an `ImageError`."""

import re
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom import Dataset, uid
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder

from lib.exceptions import ImageError
from lib.images.dicom_display import displayed
from lib.images.pixels import check_size

MODALITIES = ("CR", "DX", "RG", "DR", "XR")  # the last two are not in the standard, but in use
RADIOGRAPHS = (
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing,
)
CHEST, MORE_THAN_CHEST = "CHEST|THORAX|TORAX|LUNG", "ABD|PELV|SPINE|NECK|RIB"
FRONTAL, NOT_FRONTAL = r"\b(PA|AP)\b|FRONTAL|ANTERIOR|POSTERIOR", r"\b(LL|RL|LLD|RLD)\b|LAT|OBL"
PLAIN = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
BY_PILLOW = (uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.JPEG2000)
BY_GDCM = (
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
)
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def read_header(data: bytes, *, any_view: bool = False) -> Dataset:
    """Everything but the pixels, of a file that holds one frontal chest radiograph of a possible
    size.

    any_view: the file is known to be a chest radiograph, so modality, body part and view are not
    asked for: data sets leave them out of the header. Raises ImageError with the reason for any
    other: by modality, body part, view, transfer syntax, and shape.
    """
    try:
        meta = read_dataset(
            BytesIO(data[132:]), False, True, stop_when=lambda tag, *_: tag.group != 2
        )
        syntax = uid.UID(str(meta.get("TransferSyntaxUID", "")))
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            _check_syntax(syntax)  # before anything is read: reading inflates the whole file
        header = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
        if not any_view:
            _check_kind(header)
        _check_syntax(syntax)  # after the kind: no decoder helps a file that is no chest radiograph
        _check_shape(header)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # pydicom raises a dozen types on broken files
        raise ImageError(f"is a broken DICOM file: {error}") from error
    return header


def read_pixels(data: bytes, header: Dataset) -> tuple[np.ndarray, list[str]]:
    """The film as (Rows, Columns) uint8 grey, bright where bone is, and warnings; `header` is that
    of `read_header`.

    Raises ImageError when the pixels are missing, cut short, or other than the header says.
    """
    try:
        dataset = pydicom.dcmread(BytesIO(data))
        if "PixelData" not in dataset:
            raise ImageError("is DICOM without pixels")
        stored = _decode(dataset)  # (Rows, Columns) or (Rows, Columns, 3)
        if stored.ndim == 3:
            grey = np.asarray(Image.fromarray(stored).convert("L"))
            warnings = ["in colour, where films are grey"]
        else:
            grey, warnings = displayed(stored, dataset)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(
            f"is a DICOM file whose pixels are broken or cut short: {error}"
        ) from error
    if not _view(header) and not _word(header, "PatientOrientation"):
        warnings.append("of unknown view: nothing in the file says that it is frontal (PA or AP)")
    if _word(header, "PresentationIntentType") == "FOR PROCESSING":
        warnings.append("stored for processing, not for presentation")
    if _word(header, "PatientOrientation").startswith("['R"):
        warnings.append("mirrored, by its PatientOrientation")
    return grey, warnings  # (Rows, Columns)


def _check_syntax(syntax: uid.UID) -> None:
    if syntax in PLAIN or syntax in BY_PILLOW:
        return
    if syntax not in BY_GDCM:
        raise ImageError(
            f"is DICOM stored as {syntax.name or 'an unknown syntax'}, which is not read; save it uncompressed"
        )
    if "gdcm" not in get_decoder(syntax).available_plugins:
        raise ImageError(
            f"is DICOM compressed by {syntax.name}, which GDCM reads: pip install python-gdcm"
        )


def _check_kind(header: Dataset) -> None:
    modality = _word(header, "Modality")
    if modality not in MODALITIES and (modality or header.get("SOPClassUID") not in RADIOGRAPHS):
        raise ImageError(
            f"is DICOM of modality {modality or 'unknown'}, not a radiograph (CR, DX or RG)"
        )
    part = _word(header, "BodyPartExamined") or _meaning(header, "AnatomicRegionSequence")
    if part and (not re.search(CHEST, part) or re.search(MORE_THAN_CHEST, part)):
        raise ImageError(f"is a radiograph of {part}, not of the chest")
    view = _view(header)
    if view and (not re.search(FRONTAL, view) or re.search(NOT_FRONTAL, view)):
        raise ImageError(f"is a view from {view}, not a frontal one (PA or AP)")
    if re.match(r"\['[AP]", _word(header, "PatientOrientation")):
        raise ImageError(
            "is a lateral view by its PatientOrientation, not a frontal one (PA or AP)"
        )


def _view(header: Dataset) -> str:
    return _word(header, "ViewPosition") or _meaning(header, "ViewCodeSequence")


def _word(header: Dataset, keyword: str) -> str:
    """The element as one line in capitals that may stand in a message."""
    value: Any = header.get(keyword)
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else " " for c in text).strip().upper()[:60]


def _meaning(header: Dataset, keyword: str) -> str:
    return " ".join(_word(item, "CodeMeaning") for item in header.get(keyword) or [])


def _check_shape(header: Dataset) -> None:
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise ImageError(f"holds {header.NumberOfFrames} frames; only single images are read")
    if header.get("Rows") is None or header.get("Columns") is None:
        raise ImageError("is DICOM without an image")
    check_size(int(header.Columns), int(header.Rows))
    kind = _word(header, "PhotometricInterpretation")
    samples, bits = header.get("SamplesPerPixel"), header.get("BitsAllocated")
    if not (kind in GREY and samples == 1 and bits in (8, 16)) and not (
        kind in COLOUR and samples == 3 and bits == 8
    ):
        raise ImageError(
            f"stores {samples} x {bits} bits per pixel as {kind}; only grey of 8 or 16 bits and RGB of 8 bits are read"
        )


def _decode(dataset: Dataset) -> np.ndarray:
    """The stored values: (Rows, Columns) of 8 or 16 bits, or (Rows, Columns, 3) uint8 RGB."""
    syntax = dataset.file_meta.TransferSyntaxUID
    # without these tables, the frame that is checked is the frame that is decoded
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.NumberOfFrames = 1
    if syntax in PLAIN:
        return get_decoder(syntax).as_array(dataset, index=0)[0]
    _check_codestream(get_frame(dataset.PixelData, 0, number_of_frames=1), dataset)
    plugin = "pillow" if syntax in BY_PILLOW else "gdcm"
    return get_decoder(syntax).as_array(dataset, index=0, decoding_plugin=plugin)[0]


def _check_codestream(frame: bytes, header: Dataset) -> None:
    """Refuse a frame whose size differs from the header: it may be a decompression bomb."""
    width, height = _jpeg_size(frame) if frame[:2] == b"\xff\xd8" else _jpeg_2000_size(frame)
    if (width, height) != (header.Columns, header.Rows):
        raise ImageError(
            f"says {header.Columns} x {header.Rows} px, but its compressed image is {width} x {height} px"
        )


def _jpeg_size(frame: bytes) -> tuple[int, int]:
    """Width and height in the start of frame, or zeros; JPEG-LS has its own marker for it."""
    position = 2
    while position + 9 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker in {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}:
            height, width = np.frombuffer(frame, ">u2", 2, position + 5).tolist()
            return width, height
        alone = marker == 0x01 or marker in range(0xD0, 0xD8)
        length = 0 if alone else int.from_bytes(frame[position + 2 : position + 4], "big")
        position += 1 if marker == 0xFF else 2 + length
    return 0, 0


def _jpeg_2000_size(frame: bytes) -> tuple[int, int]:
    """Width and height in the SIZ marker, the grid's end less the image's offset, or zeros."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or start + 24 > len(frame):
        return 0, 0
    right, bottom, left, top = np.frombuffer(frame, ">u4", 4, start + 8).tolist()
    return right - left, bottom - top
