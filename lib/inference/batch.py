"""Predict for many files in constant memory.

In: a model and the names of files and folders. Out: one row of predictions per file, in order.
"""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import file_digest
from math import isfinite, isnan
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from lib.exceptions import CxrError, ImageError
from lib.images.pixels import DECODE_VERSION
from lib.images.read import Radiograph, read_radiograph
from lib.inference.listing import Found, find_files, once, path_text, without_output
from lib.inference.predictor import Predictor
from lib.inference.shards import Shard, of_shard, shard_table
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
    shard: Shard | None = None,
    device: str = "cpu",
) -> Counts:
    """Predict for every file of `named` (see `find_files`) and return the counts.

    One row per file goes to `out`, or is printed without one. A file that is not a usable image
    gets a row with the reason. `threads` images are processed at a time, each on one core; the
    default is the number of cores. `leaderboard` writes the format of the leaderboard's CSV.
    `listing` holds the paths for the name `-`. `shard` takes its part of the files alone, and
    writes the shard's table beside `out`. `device` is auto, cpu or cuda.

    The same call resumes an interrupted one, and processes only new or changed files; `out` then
    holds the rows of this call. Raises CxrError for a model that cannot be loaded, a device that is
    not there, or an output that cannot be written.
    """
    if shard is not None and (out is None or leaderboard):
        raise CxrError(
            "--shard writes a table with all columns: give --out FILE, and --leaderboard to --merge"
        )
    named, threads = list(named), threads or available_cores()
    predictor = Predictor(model, threads=1, device=device)
    total = None if "-" in named else sum(1 for _ in _listed(named, None, out, shard))
    files = _listed(named, listing, out, shard)
    table = shard_table(out, shard) if out is not None and shard is not None else out
    journal = None if table is None else _open_journal(table, predictor, leaderboard)
    pool, counts, done = ThreadPoolExecutor(threads), Counts(device=predictor.device), False
    try:
        with tqdm(total=total, unit="file", file=sys.stderr, disable=None) as bar:
            for job in _jobs(files, predictor, pool, threads, journal):
                row = None if job.row is None else job.row.result()
                counts.add(row)
                bar.update()
                if journal is None:
                    tqdm.write(line(row), file=sys.stdout)
                elif row is None:
                    journal.keep(job.path)
                else:
                    journal.add(row)
        if table is not None and journal is not None:
            write_answers(table, journal.rows(), predictor.findings, leaderboard)
        done = True
    finally:
        pool.shutdown(cancel_futures=True)
        if journal is not None:
            journal.close(done)
    return counts


def unanswered(files: Iterable[Found], predictor: Predictor) -> Iterator[tuple[Found, Row]]:
    """Yield each file with what is known of its row before the model is asked.

    That is the path and what identifies the row; a file that is not there has no size and time.
    """
    with predictor.path.open("rb") as file:
        # a prediction also depends on the decoding of images
        model = f"{file_digest(file, 'sha256').hexdigest()[:16]}.{DECODE_VERSION}"
    empty = dict.fromkeys(columns(predictor.findings)) | {
        "reason": "",
        "warnings": "",
        "flagged": "",
    }
    for found in files:
        yield found, empty | {"path": path_text(found.path), "model": model} | _stat(found.path)


def _listed(
    named: list[str], listing: BinaryIO | None, out: Path | None, shard: Shard | None
) -> Iterator[Found]:
    files = without_output(once(find_files(named, listing)), out)
    return files if shard is None else of_shard(files, shard)


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
    threads: int,
    journal: Journal | None,
) -> Iterator[_Job]:
    """Yield the files in order, with two per thread in progress while waiting for the first.

    No more than these are held in memory. Each thread decodes and asks the model by turns, so that
    films are decoded while others are with the model.
    """
    waiting: deque[_Job] = deque()
    for found, row in unanswered(files, predictor):
        reused = journal is not None and journal.holds(row)
        waiting.append(
            _Job(row["path"], None if reused else pool.submit(_row, found, row, predictor, threads))
        )
        if len(waiting) > 2 * threads:
            yield waiting.popleft()
    yield from waiting


def _stat(path: str) -> Row:
    try:
        status = Path(path).stat()
    except OSError:  # the file does not exist: its row will say so
        return {}
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


def _row(found: Found, row: Row, predictor: Predictor, threads: int) -> Row:
    """Return the full row of one file; runs in one of `threads` threads.

    A file that cannot be read does not end the batch, but a bug does.
    """
    reason = f"the path {found.refused}"
    if not found.refused:
        try:
            film = read_radiograph(found.path, predictor.image_size, preview=0, threads=threads)
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
