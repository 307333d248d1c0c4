"""In: sound, lying and broken images and DICOM files. Out: mutated ones, and what reading them and
`cxr predict` do with them."""

import io
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pydicom
from dicom_files import dicom_bytes, encoded
from hostile import PNG, png_chunk, write_hostile
from hostile import REFUSED as HOSTILE_REFUSED
from PIL import Image
from pydicom import uid
from tiny_model import write_tiny_model

from fuzz.judge import REFUSED, WORKED, Problem, called
from fuzz.mutate import NUMBERS, TEXTS, mutate_bytes
from lib.datasets.cache import decode_problems
from lib.images.read import read_radiograph
from lib.inference import predict_files
from lib.inference.table import read_answers

LARGEST = 2**20  # bytes of a file that is mutated


def prepare_images(folder: Path) -> None:
    """Write one copy of each small hostile file that is an image, broken or not."""
    fates = write_hostile(folder / "hostile")
    (folder / "images").mkdir()
    for number, name in enumerate(sorted(fates)):
        path = Path(name.decode(errors="surrogateescape"))
        usual = path.is_file() and not path.is_symlink() and path.stat().st_size < LARGEST
        wanted = usual and path.suffix not in (".dcm", "") and path.stat().st_size > 8
        if wanted and (fates[name] != HOSTILE_REFUSED or number % 3 == 0):
            target = folder / "images" / f"{number:03d}{path.suffix}"
            target.write_bytes(path.read_bytes())


def make_image(seeds: Path, folder: Path, rng: Random) -> None:
    """Mutate the bytes of one of the images; half of the PNGs get checksums that fit."""
    source = rng.choice(sorted((seeds / "images").iterdir()))
    data = mutate_bytes(source.read_bytes(), rng)
    if data.startswith(PNG) and rng.random() < 0.5:
        data = _with_checksums(data)
    (folder / f"film{source.suffix}").write_bytes(data)


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the right checksums: else the decoder refuses it at once."""
    made, place = PNG, len(PNG)
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        made += png_chunk(data[place + 4 : place + 8], data[place + 8 : place + 8 + length])
        place += 12 + length
    return made


def prepare_dicoms(folder: Path) -> None:
    """Write DICOM files of the usual kinds of pixels, and the tiny model."""
    grey = np.random.default_rng(0).integers(0, 256, (48, 40), dtype=np.uint8)
    deep = grey.astype(np.uint16) * 16
    window = {"WindowCenter": [2048, 100], "WindowWidth": [4096, 50], "RescaleSlope": 1.0}
    made = {
        "plain": dicom_bytes(grey),
        "deep": dicom_bytes(deep, BitsStored=12, HighBit=11, RescaleIntercept=-10.0, **window),
        "signed": dicom_bytes(deep.astype(np.int16)),
        "inverse": dicom_bytes(deep, PhotometricInterpretation="MONOCHROME1"),
        "implicit": dicom_bytes(grey, uid.ImplicitVRLittleEndian),
        "colour": dicom_bytes(np.stack([grey] * 3, axis=2)),
        "jpeg": dicom_bytes(grey, uid.JPEGBaseline8Bit, encoded(grey, "JPEG")),
        "jpeg2000": dicom_bytes(
            grey, uid.JPEG2000Lossless, encoded(grey, "JPEG2000", irreversible=False)
        ),
        "pixel_size": dicom_bytes(grey, PixelAspectRatio=[1, 2], PatientOrientation=["L", "F"]),
    }
    for name, data in made.items():
        (folder / f"{name}.dcm").write_bytes(data)


def make_dicom(seeds: Path, folder: Path, rng: Random) -> None:
    """Mutate the bytes of a DICOM file, or the values of its elements."""
    source = rng.choice(sorted(seeds.iterdir()))
    data, whole = source.read_bytes(), rng.random() < 0.5
    made = mutate_bytes(data, rng, start=132) if whole else _with_other_elements(data, rng)
    (folder / "film.dcm").write_bytes(made)


def _with_other_elements(data: bytes, rng: Random) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    for _ in range(rng.choice((1, 2, 3))):
        element = rng.choice([element for element in dataset if element.tag.group != 2])
        values = NUMBERS[:9] if element.VR in ("US", "SS", "UL") else (*TEXTS[:9], *TEXTS[22:])
        value = rng.choice(values)
        if element.VR in ("US", "UL"):
            value = value % 65536
        try:
            element.value = rng.choice((value, [value, value])) if rng.random() < 0.8 else None
        except Exception:  # pydicom refuses some values
            del dataset[element.tag]
    buffer = io.BytesIO()
    try:
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=False)
    except Exception:  # or does not write them
        return mutate_bytes(data, rng, start=132)
    return buffer.getvalue()


def judge_image(folder: Path) -> str:
    """Read the film for a prediction and for training."""
    (path,) = folder.glob("film*")
    found = called(lambda: read_radiograph(path, 64, path.name), path.name)
    frame = pd.DataFrame({"image": [path.name], "path": [str(path)], "source": ["data"]})
    problems = decode_problems(frame, workers=1, progress=False)
    if len(problems) and problems["image"].tolist() != [path.name]:
        raise Problem(f"the problem does not name {path.name}: {problems}")
    return found


def judge_predicted(folder: Path) -> str:
    """Predict for the film: it has one row, with its path and, if it is refused, the reason."""
    model = folder.parent / "tiny.onnx"
    if not model.exists():
        write_tiny_model(model)
    (path,) = folder.glob("film*")
    out = folder / "out.csv"
    predict_files(model, [str(path)], out=out, threads=1)
    rows = list(read_answers(out))
    if [row["path"] for row in rows] != [str(path)]:
        raise Problem(f"the rows are not that of {path}: {rows}")
    if rows[0]["status"] == "refused" and not rows[0]["reason"]:
        raise Problem("a row is refused without a reason")
    return WORKED if rows[0]["status"] == "ok" else REFUSED


def blank(path: Path) -> None:
    """Write a plain film."""
    Image.new("L", (40, 40), 99).save(path)
