"""MedMNIST v2: chestmnist.npz and pneumoniamnist.npz, also of 64, 128 or 224 px (Yang et al. 2023)."""

import re
import shutil
import zipfile
import zlib
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

from lib.config import FINDINGS, cache_folder
from lib.datasets.layouts.listing import Layout, Listing, Row
from lib.exceptions import DatasetError
from lib.files import acquire_lock

NAME = re.compile(r"^(chestmnist|pneumoniamnist)(?:_(\d+))?\.npz$")
LABELS = {"chestmnist": FINDINGS, "pneumoniamnist": ("Pneumonia",)}
"""The columns of the labels; ChestMNIST has the NIH's 14, in the NIH's order."""
PARTS = ("train", "val", "test")
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def find(folder: Path) -> list[Path]:
    """The archives, the largest films first."""
    named = [(match, path) for path in folder.glob("*.npz") if (match := NAME.match(path.name))]
    return [path for match, path in sorted(named, key=lambda one: -int(one[0][2] or 28))]


def read(folder: Path, table: Path) -> Listing:
    """The films of an archive, with its official parts.

    They are unpacked to PNG beside the image caches, once. An image is known by its place in the
    set, so that it is the same in all sizes. Raises DatasetError where the archive is broken.
    """
    kind = _kind(table)
    if other := [path.name for path in find(folder) if _kind(path) != kind]:
        raise DatasetError(
            f"{folder}: holds several data sets, {table.name} and {other[0]}; put each into a folder "
            "of its own."
        )
    try:
        with np.load(table) as archive:
            labels = {part: archive[f"{part}_labels"] for part in PARTS}
        images = _unpack(table, {part: len(labels[part]) for part in PARTS})
    except _BROKEN as error:
        raise DatasetError(
            f"{table}: is not an archive of MedMNIST, or is damaged ({error}); download it again."
        ) from error
    listing = Listing("", [table.name], [], complete=False)
    for part in PARTS:
        _check_labels(table, part, labels[part], LABELS[kind])
        for index, row in enumerate(labels[part].tolist()):
            values = dict(zip(LABELS[kind], map(float, row), strict=True))
            image, path = f"{kind}/{part}/{index}", images / part / f"{index}.png"
            listing.rows.append(
                Row(f"{part}_labels", index + 1, image, None, None, None, None, None, part, str(path), values)
            )  # fmt: skip
    listing.population = kind
    return listing


def _kind(table: Path) -> str:
    """chestmnist or pneumoniamnist."""
    return table.name.partition("mnist")[0] + "mnist"


def _check_labels(table: Path, part: str, labels: np.ndarray, names: tuple[str, ...]) -> None:
    """Raise DatasetError for labels that are not 0 or 1, or not one column for each name."""
    if labels.ndim != 2 or labels.shape[1] != len(names):
        raise DatasetError(
            f"{table}: {part}_labels has shape {labels.shape}; it must be (images, {len(names)})."
        )
    if not len(labels):
        raise DatasetError(f"{table}: {part}_labels holds no image; download it again.")
    if bad := np.argwhere(~np.isin(labels, (0, 1))).tolist():
        row, column = bad[0]
        raise DatasetError(
            f"{table}: {part}_labels of image {row}, {names[column]}, is {labels[row, column]}; it "
            f"must be 0 or 1; {len(bad):,} such values."
        )


def _unpack(table: Path, counts: dict[str, int]) -> Path:
    """The folder with the archive's films as PNG, written when it is not there yet."""
    stat = table.stat()
    key = blake2b(
        f"{table}\0{stat.st_size}\0{stat.st_mtime_ns}".encode(), digest_size=8
    ).hexdigest()
    target = cache_folder() / f"{table.stem}-{key}"
    lock = acquire_lock(target.with_suffix(".lock"), f"{target}", wait_seconds=3600)
    try:
        if not target.is_dir():
            partial = target.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            with zipfile.ZipFile(table) as archive:
                for part in PARTS:
                    _write_films(archive, part, counts[part], partial / part)
            partial.rename(target)
    finally:
        lock.release()
    return target


def _write_films(archive: zipfile.ZipFile, part: str, count: int, folder: Path) -> None:
    """One PNG per film, read one after the other: 224 px archives are larger than memory."""
    folder.mkdir(parents=True)
    with archive.open(f"{part}_images.npy") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{part}_images is of version {version} of NumPy's format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if len(shape) != 3 or fortran or dtype != np.uint8 or shape[0] != count:
            raise ValueError(
                f"{part}_images has shape {shape} of {dtype}, {part}_labels {count} rows; it must be "
                f"({count}, side, side) of uint8"
            )
        for index in range(count):
            pixels = np.frombuffer(file.read(shape[1] * shape[2]), np.uint8).reshape(shape[1:])
            Image.fromarray(pixels).save(folder / f"{index}.png", compress_level=1)
        file.read()  # to the end, where the checksum is compared


LAYOUT = Layout("MedMNIST", "chestmnist.npz or pneumoniamnist.npz", find, read)
