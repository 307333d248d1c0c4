"""In: a frame of images. Out: a uint8 memory map (N, S, S) on disk, in the frame's order, each
image decoded once.

A cache is identified by its content: the ids, paths, sizes and modification times of its files, the
size S and the version of the decoder. Beside `<S>px-<key>.npy` stand `.index.npz` (what is in each
row, and what could not be decoded), a `.lock`, and while it is built `.partial` (pixels) and
`.done.npz` (which of its rows are safely on disk).
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial as partial_call
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import Timeout
from tqdm.auto import tqdm

from lib.config import cache_folder
from lib.datasets.layouts import Problem
from lib.datasets.tables import BAD_COLUMNS, problem_text
from lib.exceptions import DatasetError
from lib.images.pixels import DECODE_VERSION, Bad, decode_chunk
from lib.locks import take_lock
from lib.system import available_cores, start_worker

_CHUNK = 32  # images per task
_WORTH_SECONDS = 4.0  # with less work left, starting processes costs more than it saves
_KIND = "undecodable image"
_SAVE_SECONDS = 2.0  # how much work a kill can cost


def open_cache(
    frame: pd.DataFrame,
    size: int,
    *,
    folder: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> np.memmap:
    """The image cache of `frame` (columns image, path, source) at `size` pixels per side, built
    first if it is missing.

    Returns a read-only np.memmap (N, size, size) uint8, rows in the frame's order. `folder` is by
    default what CXR_STORE in the environment names, else REPO_ROOT/.store; `workers` by default one
    process per core. Building resumes after a kill, takes over what other caches in the folder hold
    already, and waits where another process builds the same cache. Raises DatasetError, listing
    them all, when images cannot be decoded; `without_undecodable` leaves those out.
    """
    path, bad = _build(frame, size, folder, workers, progress)
    if bad:
        images, paths = frame["image"].tolist(), frame["path"].tolist()
        problems = [Problem(paths[row], 0, images[row], _KIND, why) for row, why in bad]
        text = problem_text(", ".join(frame["source"].unique()), problems, len(frame))
        raise DatasetError(
            f"{text}\nRepair the files, or leave these rows out and have them listed: on_bad=skip."
        )
    with suppress(OSError):  # a shared cache may be there to be read only
        path.with_suffix(".index.npz").touch()  # when it was last used, for `cxr clean`
    return np.load(path, mmap_mode="r")  # (N, S, S)


def without_undecodable(
    frame: pd.DataFrame,
    size: int,
    *,
    folder: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What on_bad='skip' does with broken images: (the frame without them, the bad rows), building
    the cache.

    The bad rows have the columns source, row (0), image, reason of `tables.Dataset.bad_rows`. What
    was decoded is then the cache of the frame that is returned, and only there. Raises DatasetError
    when no image is left.
    """
    bad = _bad_of_moved(frame, size, folder)
    path = None
    if bad is None:
        path, bad = _build(frame, size, folder, workers, progress)
    if len(bad) == len(frame):
        raise DatasetError(
            f"none of the {len(frame):,} images can be decoded; {frame['path'].iloc[0]}: {bad[0][1]}"
        )
    kept = np.ones(len(frame), dtype=bool)
    kept[[row for row, _ in bad]] = False
    rest = frame[kept].reset_index(drop=True)
    if (
        bad and path is not None
    ):  # the pixels move to the cache that will be used; the index says what was broken
        open_cache(rest, size, folder=folder, workers=workers, progress=progress)
        path.unlink(missing_ok=True)
    return rest, _bad_table(frame, bad)


def _bad_of_moved(frame: pd.DataFrame, size: int, folder: Path | None) -> Bad | None:
    """The broken rows of a cache whose pixels were moved to that of the others; None where there is
    no such cache."""
    path = _path(_row_keys(frame, size), size, folder)
    index = path.with_suffix(".index.npz")
    if path.exists() or not index.exists():
        return None
    with np.load(index) as saved:
        return (
            list(zip(saved["bad_rows"].tolist(), saved["bad_reasons"].tolist(), strict=True))
            or None
        )


def decode_problems(
    frame: pd.DataFrame, *, workers: int | None = None, progress: bool = True
) -> pd.DataFrame:
    """Decode every image of `frame` to its end, keeping nothing: source, row (0), image, reason of
    those that fail."""
    bad: Bad = []
    with tqdm(
        total=len(frame), desc="decoding", unit="image", disable=not progress, dynamic_ncols=True
    ) as bar:

        def on_chunk(rows: Sequence[int], failed: Bad) -> None:
            bad.extend(failed)
            bar.update(len(rows))

        _run(np.arange(len(frame)), frame["path"].tolist(), 32, None, workers, on_chunk)
    return _bad_table(frame, sorted(bad))


def _bad_table(frame: pd.DataFrame, bad: Bad) -> pd.DataFrame:
    """source, row (0: the file itself), image, reason."""
    table = frame.iloc[[row for row, _ in bad]][["source", "image"]]
    return table.assign(row=0, reason=[f"{_KIND}: {why}" for _, why in bad])[
        BAD_COLUMNS
    ].reset_index(drop=True)


def _build(
    frame: pd.DataFrame, size: int, folder: Path | None, workers: int | None, progress: bool
) -> tuple[Path, Bad]:
    """Make sure that the cache exists; its path, and the rows that could not be decoded."""
    if not len(frame):
        raise ValueError("an image cache needs at least one image; the frame is empty")
    keys = _row_keys(frame, size)
    path = _path(keys, size, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _is_complete(path):
        with _locked(path.with_suffix(".lock"), progress):
            if not _is_complete(path):  # another process may have built it while this one waited
                _fill(path, keys, frame["path"].tolist(), size, workers, progress)
    with np.load(path.with_suffix(".index.npz")) as index:
        return path, list(
            zip(index["bad_rows"].tolist(), index["bad_reasons"].tolist(), strict=True)
        )


def _path(keys: np.ndarray, size: int, folder: Path | None) -> Path:
    return (
        folder or cache_folder()
    ) / f"{size}px-{blake2b(keys.tobytes(), digest_size=12).hexdigest()}.npy"


def _is_complete(path: Path) -> bool:
    return path.is_file() and path.with_suffix(".index.npz").is_file()


def _row_keys(frame: pd.DataFrame, size: int) -> np.ndarray:
    """(N,) 16-byte digests that change with an image's id, path, size or modification time, S, and
    the decoder."""
    keys = []
    for image, path in zip(frame["image"], frame["path"], strict=True):
        stat = os.stat(path)  # noqa: PTH116 - for every image: quick
        text = f"{DECODE_VERSION}\0{size}\0{image}\0{path}\0{stat.st_size}\0{stat.st_mtime_ns}"
        keys.append(blake2b(text.encode(), digest_size=16).digest())
    return np.frombuffer(b"".join(keys), dtype="V16")


def _fill(
    path: Path, keys: np.ndarray, paths: list[str], size: int, workers: int | None, progress: bool
) -> None:
    """Decode what is missing into the partial file, then give it its name. One process at a time,
    under the lock."""
    partial = path.with_suffix(".partial")
    journal = _Journal.of(path)
    if journal is None or not partial.is_file():
        needed, free = len(keys) * size * size, shutil.disk_usage(path.parent).free
        if needed > free:
            gigabytes = f"needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free there"
            raise DatasetError(f"{path.parent}: the image cache {gigabytes}")
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(keys), size, size))
        journal = _Journal(
            path.with_suffix(".done.npz"), partial, np.zeros(len(keys), dtype=np.uint8)
        )
        _take_over(path, partial, keys, size, journal)
    with tqdm(
        total=len(keys), initial=int(np.count_nonzero(journal.state)), desc=f"image cache {size} px", unit="image",
        disable=not progress, dynamic_ncols=True,
    ) as bar:  # fmt: skip

        def on_chunk(rows: Sequence[int], failed: Bad) -> None:
            journal.note(rows, failed)
            bar.update(len(rows))

        try:
            _run(np.flatnonzero(journal.state == 0), paths, size, partial, workers, on_chunk)
        finally:
            journal.save()
    _write_npz(
        path.with_suffix(".index.npz"),
        keys=keys.view(np.uint8).reshape(-1, 16),
        **journal.bad_arrays(),
    )
    partial.rename(path)
    journal.path.unlink()


def _run(
    rows: np.ndarray,
    paths: list[str],
    size: int,
    target: Path | None,
    workers: int | None,
    on_chunk: Callable[[Sequence[int], Bad], None],
) -> None:
    """Decode `rows` of `paths` and hand each finished chunk to `on_chunk`; in worker processes
    where that pays."""
    if workers is None:
        workers = available_cores()
    chunks = [rows[start : start + _CHUNK].tolist() for start in range(0, len(rows), _CHUNK)]
    offset = np.load(target, mmap_mode="r").offset if target is not None else 0
    work = partial_call(
        decode_chunk, size=size, target=None if target is None else str(target), offset=offset
    )
    while chunks:
        started = time.perf_counter()
        chunk = chunks.pop(0)
        on_chunk(chunk, work(chunk, [paths[row] for row in chunk]))
        if workers > 1 and len(chunks) * (time.perf_counter() - started) > _WORTH_SECONDS:
            break
    if not chunks:
        return
    pool = ProcessPoolExecutor(
        min(workers, len(chunks)), get_context("spawn"), initializer=start_worker
    )
    try:
        futures = {
            pool.submit(work, chunk, [paths[row] for row in chunk]): chunk for chunk in chunks
        }
        for future in as_completed(futures):
            on_chunk(futures.pop(future), future.result())
    except BrokenProcessPool as error:
        raise DatasetError(
            "a process that decoded images ended unexpectedly: killed, out of memory, or started by a "
            "script without `if __name__ == '__main__':`. What was decoded is kept: run it again to "
            "continue."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _take_over(path: Path, partial: Path, keys: np.ndarray, size: int, journal: "_Journal") -> None:
    """Copy the rows that other complete caches of this folder hold already, and what they list as
    broken."""
    wanted = {key.tobytes(): row for row, key in enumerate(keys)}
    pixels = np.load(partial, mmap_mode="r+")
    for index in sorted(path.parent.glob(f"{size}px-*.index.npz")):
        other = index.with_name(index.name.replace(".index.npz", ".npy"))
        if not wanted or not other.is_file():
            continue
        with np.load(index) as saved:
            found = saved["keys"]
            broken = dict(
                zip(saved["bad_rows"].tolist(), saved["bad_reasons"].tolist(), strict=True)
            )
        pairs = []
        for row, key in enumerate(map(bytes, found)):
            if key in wanted:
                pairs.append((wanted.pop(key), row))
        source = np.load(other, mmap_mode="r")
        for start in range(0, len(pairs), 256):
            here, there = np.array(pairs[start : start + 256]).T
            pixels[here] = source[there]
        pixels.flush()
        journal.note(
            [here for here, _ in pairs],
            [(here, broken[there]) for here, there in pairs if there in broken],
        )
    journal.save()


@dataclass
class _Journal:
    """Which rows of a partial file are safely on disk. Written after the pixels were synced."""

    path: Path
    partial: Path
    state: np.ndarray  # (N,) uint8: 0 to do, 1 done
    bad: dict[int, str] = field(default_factory=dict)
    saved_at: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, cache: Path) -> "_Journal | None":
        """The journal that an interrupted build left."""
        path, partial = cache.with_suffix(".done.npz"), cache.with_suffix(".partial")
        if not path.is_file():
            return None
        with np.load(path) as saved:
            bad = dict(zip(saved["bad_rows"].tolist(), saved["bad_reasons"].tolist(), strict=True))
            return cls(path, partial, saved["state"], bad)

    def note(self, rows: Sequence[int], failed: Bad) -> None:
        self.state[rows] = 1
        self.bad.update(failed)
        if time.monotonic() - self.saved_at > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        _write_npz(self.path, state=self.state, **self.bad_arrays())
        self.saved_at = time.monotonic()

    def bad_arrays(self) -> dict[str, np.ndarray]:
        rows = sorted(self.bad)
        return {
            "bad_rows": np.array(rows, dtype=np.int64),
            "bad_reasons": np.array([self.bad[r] for r in rows], dtype=str),
        }


def _write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write completely or not at all: beside the file, then renamed."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


@contextmanager
def _locked(path: Path, progress: bool) -> Iterator[None]:
    """Hold the lock file; the system frees it when this process ends, however it ends."""
    try:
        lock = take_lock(path)
    except Timeout:
        if progress:
            tqdm.write(f"waiting for another process that builds {path.stem}")
        lock = take_lock(path, wait_seconds=-1)
    try:
        yield
    finally:
        lock.release()
