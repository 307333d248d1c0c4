"""DICOM files for tests: any pixels, any header, written as a modality would."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate

PLAIN = uid.ExplicitVRLittleEndian


def dicom_bytes(
    pixels: np.ndarray, syntax: str = PLAIN, frame: bytes = b"", **header: Any
) -> bytes:
    """A digital chest radiograph with these pixels (H, W); `frame` is their compressed form;
    `header` sets elements, None leaves one out.
    """
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        uid.DigitalXRayImageStorageForPresentation,
        "1.2.3",
    )
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else pixels.shape[2]
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = (
        dataset.BitsStored - 1,
        int(pixels.dtype.kind == "i"),
    )
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PixelData = encapsulate([frame]) if frame else pixels.tobytes()
    dataset["PixelData"].VR = "OB" if frame or pixels.dtype.itemsize == 1 else "OW"
    for name, value in header.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def encoded(pixels: np.ndarray, format: str, **options: Any) -> bytes:
    """The pixels as an image file in memory."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def write_dicom(path: Path, pixels: np.ndarray, **header: Any) -> Path:
    """`dicom_bytes` as a file."""
    path.write_bytes(dicom_bytes(pixels, **header))
    return path
