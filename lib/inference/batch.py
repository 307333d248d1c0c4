"""Predict for many files in constant memory.

In: a model and the names of files and folders. Out: one row of predictions per file, in order.
"""

import glob
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import file_digest
from math import isfinite, isnan
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from lib.exceptions import ImageError
from lib.images.pixels import DECODE_VERSION
from lib.images.read import Radiograph, read_radiograph
from lib.inference.predictor import Predictor
from lib.inference.table import (
    Counts,
    Journal,
    Row,
    check_output,
    columns,
    escaped,
    line,
    read_answers,
    write_answers,
)
from lib.system import available_cores


class Found(NamedTuple):
    """One file to predict for: its path, and, if it cannot be tried, the reason."""

    path: str
    refused: str = ""


def find_files(named: Iterable[str], listing: BinaryIO | None = None) -> Iterator[Found]:
    """Yield every file of `named` in the given order, files inside a folder sorted by name.

    Folders are searched recursively. A name that does not exist and contains wildcards is a
    pattern. `-` reads paths from `listing`: one per line, or separated by zero bytes if it has any.
    Links to folders below a named folder are not followed, so that a cycle cannot loop forever.
    Nothing is dropped: what cannot be listed is an entry with the reason. Only the names of one
    folder are held in memory.
    """
    for name in named:
        if name == "-" and listing is not None:
            for path in _listed(listing):
                yield from _below(path)
        elif glob.has_magic(name) and not os.path.lexists(name):
            matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207
            for path in matches:
                yield from _below(path)
            if not matches:
                yield Found(name, "is a pattern that matches no file")
        else:
            yield from _below(name)


def once(files: Iterable[Found]) -> Iterator[Found]:
    """Yield each file once; files are the same if their absolute paths are equal."""
    seen: set[str] = set()
    for found in files:
        path = os.path.abspath(found.path)  # noqa: PTH100
        if path not in seen:
            seen.add(path)
            yield found


def without_output(files: Iterable[Found], out: Path | None) -> Iterator[Found]:
    """Leave out the output file and its temporary files.

    They may lie in the same folder as the images.
    """
    folder = None if out is None else out.resolve().parent
    for found in files:
        path = Path(found.path)
        ours = out is not None and (path.name == out.name or path.name.startswith(f".{out.name}."))
        if not (ours and path.parent.resolve() == folder):
            yield found


def path_text(path: str) -> str:
    """Return the path as one line of text that any file can hold.

    Control characters, and bytes that are not UTF-8, become \\xNN.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(f"\\x{ord(c):02x}" if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text)


def _below(path: str) -> Iterator[Found]:
    if not os.path.isdir(path):  # noqa: PTH112
        yield Found(path)
        return
    stack = [_entries(path)]  # no recursion: folders may be nested deeper than Python's stack
    while stack:
        for found, is_folder in stack[-1]:
            if is_folder:
                stack.append(_entries(found.path))
                break
            yield found
        else:
            stack.pop()


def _entries(folder: str) -> Iterator[tuple[Found, bool]]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Found(folder, f"is a folder that cannot be listed: {error.strerror}"), False
        return
    for entry in found:
        if entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112
            yield (
                Found(
                    entry.path,
                    "is a link to a folder, which is not followed; name the folder itself",
                ),
                False,
            )
        else:
            yield Found(entry.path), entry.is_dir(follow_symlinks=False)


def _listed(listing: BinaryIO) -> Iterator[str]:
    read: Callable[[int], bytes] = getattr(listing, "read1", listing.read)
    rest = block = read(1 << 16)
    separator = b"\0" if b"\0" in block else b"\n"
    while block:
        *paths, rest = rest.split(separator)
        yield from (os.fsdecode(path) for path in paths if path)
        block = read(1 << 16)
        rest += block
    if rest:
        yield os.fsdecode(rest)


class _Job(NamedTuple):
    """A file in progress: its path, and its row, which another thread makes.

    The row is None if an earlier run has already made it.
    """

    path: str
    row: Future[Row] | None


def predict_files(
    model: Path,
    named: Iterable[str],
    *,
    out: Path | None = None,
    threads: int | None = None,
    leaderboard: bool = False,
    listing: BinaryIO | None = None,
) -> Counts:
    """Predict for every file of `named` (see `find_files`) and return the counts.

    One row per file goes to `out`, or is printed without one. A file that is not a usable image
    gets a row with the reason. `threads` images are processed at a time, each on one core; the
    default is the number of cores. `leaderboard` writes the format of the leaderboard's CSV.
    `listing` holds the paths for the name `-`.

    The same call resumes an interrupted one, and processes only new or changed files; `out` then
    holds the rows of this call. Raises CxrError for a model that cannot be loaded or an output that
    cannot be written.
    """
    named, threads = list(named), threads or available_cores()
    predictor = Predictor(model, threads=1)
    total = None if "-" in named else sum(1 for _ in once(find_files(named)))
    files = without_output(once(find_files(named, listing)), out)
    journal = None if out is None else _open_journal(out, predictor, leaderboard)
    pool, counts, done = ThreadPoolExecutor(threads), Counts(), False
    try:
        with tqdm(total=total, unit="file", file=sys.stderr, disable=None) as bar:
            for job in _jobs(files, predictor, pool, 2 * threads, journal):
                row = None if job.row is None else job.row.result()
                counts.add(row)
                bar.update()
                if journal is None:
                    tqdm.write(line(row), file=sys.stdout)
                elif row is None:
                    journal.keep(job.path)
                else:
                    journal.add(row)
        if out is not None and journal is not None:
            write_answers(out, journal.rows(), predictor.findings, leaderboard)
        done = True
    finally:
        pool.shutdown(cancel_futures=True)
        if journal is not None:
            journal.close(done)
    return counts


def predict_command(
    model: Path,
    named: list[str],
    out: Path | None = None,
    *,
    threads: int | None = None,
    leaderboard: bool = False,
) -> int:
    """Run `cxr predict`: call `predict_files`, print a summary to stderr, return the exit code.

    The exit code is 1 when every file was refused, else 0.
    """
    listing = sys.stdin.buffer if "-" in named else None
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # libraries warn about broken files; the rows already say what matters
        try:
            counts = predict_files(
                model, named, out=out, threads=threads, leaderboard=leaderboard, listing=listing
            )
        except KeyboardInterrupt:
            if out is not None:
                print(
                    f"interrupted; finished predictions are kept, repeat the same command to continue ({out})",
                    file=sys.stderr,
                )
            raise
    print(counts.text() + (f"; {out}" if out else ""), file=sys.stderr)
    return 1 if counts.refused and not counts.answered + counts.reused else 0


def _open_journal(out: Path, predictor: Predictor, leaderboard: bool) -> Journal:
    check_output(out, predictor.findings, leaderboard)
    journal = Journal(out.with_name(f".{out.name}.partial"), columns(predictor.findings))
    if out.exists() and not leaderboard:
        journal.take_over(out, read_answers(out))
    return journal


def _jobs(
    files: Iterable[Found],
    predictor: Predictor,
    pool: ThreadPoolExecutor,
    ahead: int,
    journal: Journal | None,
) -> Iterator[_Job]:
    """Yield the files in order, with `ahead` of them in progress while waiting for the first.

    No more than these are held in memory.
    """
    waiting: deque[_Job] = deque()
    with predictor.path.open("rb") as file:
        # a prediction also depends on the decoding of images
        model = f"{file_digest(file, 'sha256').hexdigest()[:16]}.{DECODE_VERSION}"
    empty = dict.fromkeys(columns(predictor.findings)) | {
        "reason": "",
        "warnings": "",
        "flagged": "",
    }
    for found in files:
        row = empty | {"path": path_text(found.path), "model": model} | _stat(found.path)
        reused = journal is not None and journal.holds(row)
        waiting.append(
            _Job(row["path"], None if reused else pool.submit(_row, found, row, predictor))
        )
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _stat(path: str) -> Row:
    try:
        status = Path(path).stat()
    except OSError:  # the file does not exist: its row will say so
        return {}
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


def _row(found: Found, row: Row, predictor: Predictor) -> Row:
    """Return the full row of one file; runs in a thread.

    A file that cannot be read does not end the batch, but a bug does.
    """
    reason = f"the path {found.refused}"
    if not found.refused:
        try:
            film = read_radiograph(found.path, predictor.image_size, preview=0)
        except (ImageError, OSError) as error:
            reason = str(error)
        else:
            return row | _predicted(film, predictor)
    return row | {"status": "refused", "reason": escaped(reason)}


def _predicted(film: Radiograph, predictor: Predictor) -> Row:
    """Return the model's predictions for one image, as columns of its row."""
    answer = predictor.predict(film.pixels[None])
    score = float(
        answer.unlikeness[0]
    )  # NaN without statistics in the card; inf for an embedding that is not finite
    return {
        "status": "ok",
        "warnings": escaped("; ".join(film.warnings)),
        "unlikeness": round(score, 4) if isfinite(score) else None,
        "unfamiliar": None if isnan(score) else bool(predictor.unfamiliar(answer.unlikeness)[0]),
        "flagged": "|".join(np.asarray(predictor.findings)[predictor.flagged(answer.probs)[0]]),
        **{
            f"prob_{name}": round(float(p), 6)
            for name, p in zip(predictor.findings, answer.probs[0], strict=True)
        },
    }
