"""In: the folders of image caches and of runs. Out: what can be deleted without losing a result,
and its deletion."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from lib.config import REPO_ROOT, cache_folder
from lib.locks import take_lock

CHECKPOINTS = ("*/last.ckpt.damaged-*", "*/last.ckpt.of_other_data-*")


@dataclass(frozen=True)
class Removable:
    """One thing that can go: its files or folders, what it is, its size in bytes, and days since
    its last use."""

    paths: tuple[Path, ...]
    what: str
    size: int
    days: float

    @property
    def is_cache(self) -> bool:
        """Whether it is made again when it is needed."""
        return "cache" in self.what


def find_removable(
    study_folder: Path | None, runs_dir: Path = REPO_ROOT / "runs"
) -> list[Removable]:
    """What one study, or all studies and the image caches, hold beside complete runs and their
    data.

    Image caches are made again from the images when they are needed. Runs that were set aside are
    complete runs of other parameters: `cxr run` takes them back when they match again, until they
    are deleted.
    """
    studies = (
        [study_folder]
        if study_folder
        else sorted(path for path in runs_dir.glob("*") if path.is_dir())
    )
    found = [one for study in studies for one in _of_study(study)]
    return found + ([] if study_folder else list(_caches(cache_folder())))


def remove(found: Removable) -> bool:
    """Deletes it; False where a cache is being built just now. Lock files stay: another process may
    wait for them."""
    first = found.paths[0]
    if not found.is_cache:
        _delete(first)
        return True
    try:
        lock = take_lock(first.parent / f"{first.name.partition('.')[0]}.lock")
    except Timeout:
        return False
    try:
        for path in found.paths:
            _delete(path)
    finally:
        lock.release()
    return True


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _of_study(folder: Path) -> Iterator[Removable]:
    for path in sorted(folder.glob("*.replaced-*")):
        yield _removable((path,), "run that was set aside")
    for pattern in CHECKPOINTS:
        for path in sorted(folder.glob(pattern)):
            yield _removable((path,), "checkpoint that was set aside")


def _caches(folder: Path) -> Iterator[Removable]:
    for path in sorted(folder.glob("*px-*.npy")):
        beside = (path.with_suffix(".index.npz"), *path.parent.glob(f"{path.stem}.copies*.npz"))
        yield _removable((path, *beside), "image cache")
    for path in sorted(folder.glob("*mnist*-*/")):
        yield _removable((path,), "cache of unpacked films")
    for path in sorted(folder.glob("*px-*.partial")):
        yield _removable((path, path.with_suffix(".done.npz")), "unfinished image cache")
    for path in sorted(folder.glob("*px-*.index.npz")):
        if not path.with_name(path.name.replace(".index.npz", ".npy")).exists():
            yield _removable((path,), "index of broken images in a cache that moved")


def _removable(paths: tuple[Path, ...], what: str) -> Removable:
    files = [
        file
        for path in paths
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file()
    ]
    used = max((file.stat().st_mtime for file in files), default=time.time())
    return Removable(
        paths, what, sum(file.stat().st_size for file in files), (time.time() - used) / 86400
    )
