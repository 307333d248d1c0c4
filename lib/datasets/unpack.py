"""In: a .tar.gz archive of PNG images. Out: a folder of these images that appears whole or not at
all."""

import gzip
import os
import shutil
import tarfile
import zlib
from pathlib import Path

from tqdm.auto import tqdm

from lib.datasets.fetch import SCRATCH
from lib.exceptions import DatasetError

_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_CHUNK = 2**20  # bytes


def unpack(archive: Path, folder: Path, images: int, *, progress: bool = True) -> None:
    """Unpack `archive`, which holds so many PNG images, into `folder`, which must not exist yet.

    Reads the archive to its end, with the checksum of gzip. Raises DatasetError, and leaves
    nothing, where it is damaged, holds anything else than PNG images, or names a place outside
    `folder`.
    """
    scratch = folder.parent / SCRATCH / folder.name
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    try:
        found = _extract(archive, scratch, images, progress)
        if found != images:
            raise DatasetError(f"{archive}: it holds {found:,} images, not {images:,}")
        os.sync()  # the images are on the disk before they get their name
        scratch.rename(folder)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(
            f"{archive}: it is damaged ({error}). Delete it, and it is downloaded again."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _extract(archive: Path, scratch: Path, images: int, progress: bool) -> int:
    """Unpack all members into `scratch`; how many images they are."""
    found = 0
    with (
        gzip.open(archive) as plain,
        tarfile.open(fileobj=plain, mode="r|") as tar,
        tqdm(
            total=images, desc=f"unpacking {archive.name}", unit="image",
            disable=not progress, dynamic_ncols=True,
        ) as bar,
    ):  # fmt: skip
        for member in tar:
            if not member.isdir():
                _extract_image(tar, member, archive, scratch)
                found += 1
                bar.update()
        while plain.read(_CHUNK):  # the checksum stands at the end
            pass
    return found


def _extract_image(
    tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, scratch: Path
) -> None:
    """Unpack one member. Raises DatasetError unless it is a PNG image that stays in `scratch`."""
    if not member.isfile():
        raise DatasetError(f"{archive}: {member.name} is not a file; nothing was unpacked")
    try:
        safe = tarfile.data_filter(member, str(scratch))
    except tarfile.FilterError as error:
        raise DatasetError(f"{archive}: {error}; nothing was unpacked") from error
    tar.extract(safe, scratch, filter="data")
    with (scratch / safe.name).open("rb") as image:
        head = image.read(len(_HEAD))
    if head != _HEAD:
        raise DatasetError(
            f"{archive}: {member.name} is not a PNG image, it starts with {head[:8]!r}; nothing was unpacked"
        )
