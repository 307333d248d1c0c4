"""In: the name of a published data set. Out: its files in a folder, downloaded, checked and
unpacked; or what to do where an account is needed."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from lib.datasets.fetch import SCRATCH, Patience, PublishedFile, fetch
from lib.datasets.layouts import find_layout
from lib.datasets.nih_files import ARCHIVES, PAGE, TABLES
from lib.datasets.unpack import unpack
from lib.exceptions import DatasetError
from lib.files import acquire_lock

KAGGLE = """Kaggle's copies need an account there, so download them with Kaggle's own program:
  pip install kaggle                      and the token of https://www.kaggle.com/settings in ~/.kaggle/kaggle.json
  kaggle datasets download nih-chest-xrays/data --unzip --path dataset_full      112,120 images
  kaggle datasets download nih-chest-xrays/sample --unzip --path dataset_full    5,606 of them
Both layouts are recognised as they are: cxr data check dataset_full"""

_UNPACKED = 1.05
"""Disk space of the images per byte of their archive: PNG hardly compresses further."""


def download_dataset(
    name: str, folder: Path | None, *, keep_archives: bool = False, progress: bool = True
) -> str:
    """Download the data set `name` into `folder`; a sentence that says what is there. Raises
    DatasetError, which for 'kaggle' explains how its copies are got."""
    if name == "kaggle":
        raise DatasetError(KAGGLE)
    if name != "nih":
        raise DatasetError(
            f"no data set {name!r}: nih is downloaded from the NIH, kaggle says how Kaggle's copies are got"
        )
    if folder is None:
        raise DatasetError("name the folder to fill: cxr data download nih dataset_full")
    return download_nih(folder, keep_archives=keep_archives, progress=progress)


def download_nih(
    folder: Path,
    *,
    keep_archives: bool = False,
    tables: Sequence[PublishedFile] = TABLES,
    archives: Sequence[PublishedFile] = ARCHIVES,
    patience: Patience | None = None,
    progress: bool = True,
) -> str:
    """Fill `folder` with the NIH's release: its tables, and a folder of images for each archive.

    Each archive is unpacked as it comes and then deleted, unless `keep_archives`. The same call
    continues an interrupted one; archives that were put into `folder` by hand are used. Raises
    DatasetError where the disk is too small or a file cannot be had, RunError where another
    process fills the folder.
    """
    folder = Path(folder).expanduser().absolute()
    lock = acquire_lock(folder / ".download.lock", f"the download into {folder}")
    try:
        check_space(folder, archives, keep_archives)
        options = {"patience": patience, "progress": progress}
        for file in tables:
            fetch(file, folder, **options)
        for file in archives:
            images = _images_of(folder, file)
            if not images.exists():
                unpack(fetch(file, folder, **options), images, file.images, progress=progress)
            if not keep_archives:
                (folder / file.name).unlink(missing_ok=True)
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    finally:
        lock.release()
    count = sum(file.images for file in archives)
    return (
        f"{folder}: {find_layout(folder)}, {count:,} images. `cxr data check {folder}` decodes them all.\n"
        f"Provided by the NIH Clinical Center, {PAGE}; cite Wang et al., CVPR 2017."
    )


def check_space(folder: Path, archives: Sequence[PublishedFile], keep_archives: bool) -> None:
    """Raise DatasetError where what is still to come does not fit on the disk of `folder`."""
    left = [file for file in archives if not _images_of(folder, file).exists()]
    images = sum(file.size for file in left) * _UNPACKED
    sizes = [file.size - _received(folder, file) for file in left]
    packed = sum(sizes) if keep_archives else max(sizes, default=0)
    free = shutil.disk_usage(folder).free
    if images + packed > free:
        raise DatasetError(
            f"{folder}: {(images + packed) / 1e9:.1f} GB are needed ({images / 1e9:.1f} for images, "
            f"{packed / 1e9:.1f} for archives), {free / 1e9:.1f} GB are free; nothing was downloaded"
        )


def _images_of(folder: Path, file: PublishedFile) -> Path:
    """The folder of an archive's images: images_001 of images_001.tar.gz."""
    return folder / file.name.removesuffix(".tar.gz")


def _received(folder: Path, file: PublishedFile) -> int:
    """Bytes of an archive that are on the disk already."""
    places = (folder / file.name, folder / SCRATCH / f"{file.name}.partial")
    return next((place.stat().st_size for place in places if place.exists()), 0)
