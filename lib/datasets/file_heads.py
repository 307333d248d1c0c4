"""In: paths of images. Out: what is wrong with files that do not begin like an image.

A file that was read before, and has the same path, size and modification time, is not opened again:
on a network disk opening 100,000 files takes minutes, and every run of a study would do it. A file
whose content changed without these is not noticed.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from lib.files import atomic_write
from lib.images.pixels import DICOM_SUFFIXES

Wrong = tuple[str, str]
"""What is wrong with a file: the kind, shared by all such files, and the detail of this one."""

_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*")
"""PNG, JPEG, BMP, and TIFF of both byte orders."""

_HEAD = 132  # bytes: as many as DICOM needs
_CHUNK = 256  # files per task of a thread


def check_heads(paths: Sequence[str], folder: Path) -> list[Wrong | None]:
    """Per file, what is wrong, or None; files without a fault are remembered in `folder`, in one
    table per folder that holds images."""
    table = folder / f"heads-{_place(paths)}.npy"
    checked = _read_checked(table)
    keys, found = [], []
    starts = range(0, len(paths), _CHUNK)
    with ThreadPoolExecutor(8) as pool:  # waits for the disk, mostly
        for part in pool.map(lambda start: _check(paths[start : start + _CHUNK], checked), starts):
            keys += part[0]
            found += part[1]
    right = {key for key, wrong in zip(keys, found, strict=True) if key and wrong is None}
    if right - checked:
        with suppress(OSError), atomic_write(table) as partial:  # a cache may be read-only
            np.save(partial, np.frombuffer(b"".join(right), dtype="V16"))
    return found


def _place(paths: Sequence[str]) -> str:
    """A digest of the folder that holds all of the files, at any depth."""
    folders = {os.path.dirname(path) for path in paths}  # noqa: PTH120 - for every image: quick
    common = os.path.commonpath(folders) if folders else ""
    return blake2b(common.encode(errors="surrogateescape"), digest_size=8).hexdigest()


def _read_checked(table: Path) -> set[bytes]:
    """The keys of files without a fault; a table that cannot be read counts as empty."""
    try:
        return {key.tobytes() for key in np.load(table)}
    except (OSError, ValueError, EOFError):
        return set()


def _check(paths: Sequence[str], checked: set[bytes]) -> tuple[list[bytes], list[Wrong | None]]:
    keys = [_key(path) for path in paths]
    return keys, [
        None if key in checked else _wrong_with(path) for key, path in zip(keys, paths, strict=True)
    ]


def _key(path: str) -> bytes:
    """A digest of a file's path, size and modification time; empty where it has none."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - for every image: quick
    except OSError:
        return b""
    text = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}"
    return blake2b(text.encode(errors="surrogateescape"), digest_size=16).digest()


def _wrong_with(path: str) -> Wrong | None:
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - for every image: quick
            head = file.read(_HEAD)
    except OSError as error:
        return "unreadable file", error.strerror or str(error)
    if not head:
        return "empty file", "zero bytes"
    if head[128:] == b"DICM":
        known = path.lower().endswith(DICOM_SUFFIXES)
        return None if known else ("not an image", "a DICOM file, but not named .dcm or .dicom")
    return None if head.startswith(_SIGNATURES) else ("not an image", f"starts with {head[:8]!r}")
