"""Out: a folder in the form of the NIH's release with as many films as asked for, each other than
the rest and tiny."""

import struct
import zlib
from pathlib import Path

import numpy as np

from lib.config import FINDINGS, NO_FINDING

FILMS = 112_120
PATIENTS = 30_805
TESTED = 25_596
SIDE = 32  # px
PER_FOLDER = 10_000
# of the release, in the order of FINDINGS
PREVALENCES: tuple[float, ...] = (0.103, 0.025, 0.119, 0.177, 0.052, 0.056, 0.013)
PREVALENCES += (0.047, 0.042, 0.021, 0.022, 0.015, 0.030, 0.002)
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def write_release(folder: Path, films: int = FILMS) -> Path:
    """Write `films` films, the table and the official lists, in the proportions of the release."""
    rng = np.random.default_rng(0)
    patients = _patients(films, rng)
    names = _names(patients)
    places = [folder / f"images_{i // PER_FOLDER + 1:03d}" / "images" for i in range(films)]
    for place in dict.fromkeys(places):
        place.mkdir(parents=True)
    for name, place in zip(names, places, strict=True):
        (place / name).write_bytes(_png(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)))
    present = rng.random((films, len(FINDINGS))) < PREVALENCES
    rows = [
        f"{name},{'|'.join(np.array(FINDINGS)[found]) or NO_FINDING},0,{patient},{patient % 90 + 1},"
        f"{'MF'[patient % 2]},PA,2500,2048,0.168,0.168"
        for name, found, patient in zip(names, present, patients, strict=True)
    ]
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *rows, ""]))
    last = patients[-round(films * TESTED / FILMS)]  # the patients from here on are tested
    (folder / "train_val_list.txt").write_text("\n".join(np.array(names)[patients < last]))
    (folder / "test_list.txt").write_text("\n".join(np.array(names)[patients >= last]))
    return folder


def _patients(films: int, rng: np.random.Generator) -> np.ndarray:
    """The patient of each film (films,), sorted; everybody has one at least, few have many."""
    people = max(round(films * PATIENTS / FILMS), 1)
    more = rng.zipf(1.6, films) % people + 1
    return np.sort(np.concatenate([np.arange(1, people + 1), more[people:]]))


def _names(patients: np.ndarray) -> list[str]:
    """00000001_000.png, 00000001_001.png, ... of sorted patients."""
    starts = np.searchsorted(patients, patients)
    return [
        f"{p:08d}_{i - s:03d}.png" for i, (p, s) in enumerate(zip(patients, starts, strict=True))
    ]


def _png(pixels: np.ndarray) -> bytes:
    """A grey PNG of (H, W) uint8; much quicker than Pillow for so small a film."""
    height, width = pixels.shape
    lines = np.column_stack([np.zeros(height, np.uint8), pixels]).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
