"""In: a model and the names of files and folders. Out: one row of answers a file, in order, in constant memory."""

import os
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import file_digest
from itertools import islice
from math import isfinite, isnan
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from lib.answers import Counts, Row, check_output, columns, line, read_answers, write_answers
from lib.decode import DECODE_VERSION
from lib.filelist import Found, escaped, find_files, path_text, without_output
from lib.imaging import Film, FilmError, read_film
from lib.journal import Journal
from lib.predictor import Predictor


class _Job(NamedTuple):
    """A file on its way: its number, its row so far, and its film or the reason, which another thread finds."""

    turn: int
    row: Row
    film: "Future[Film | str] | None"


def predict_files(
    model: Path,
    named: Iterable[str],
    *,
    out: Path | None = None,
    threads: int | None = None,
    batch: int = 1,
    leaderboard: bool = False,
    listing: BinaryIO | None = None,
) -> Counts:
    """Answers every file of `named` (see `lib.filelist.find_files`); a row for each goes to `out`, or is printed.

    `threads` cores read and answer, by default all; `batch` films are answered at once, which pays for small models
    alone. A file that is no film is a row with the reason. The same call goes on where the last one was stopped, and
    answers only what is new or changed; `out` then holds the rows of this call. Raises ValueError for a model or an
    output that cannot be.
    """
    named, threads = list(named), threads or os.cpu_count() or 1
    if batch < 1 or threads < 1:
        raise ValueError(f"batch is {batch} and threads {threads}; both are 1 or more")
    predictor = Predictor(model, threads)
    total = None if "-" in named else sum(1 for _ in find_files(named))
    files = without_output(find_files(named, listing), out)
    journal = None if out is None else _open_journal(out, predictor, leaderboard)
    pool, counts, done = ThreadPoolExecutor(threads), Counts(), False
    try:
        with tqdm(total=total, unit="file", file=sys.stderr, disable=None) as bar:
            jobs = _jobs(files, predictor, pool, 2 * max(batch, threads), journal)
            for turn, row in _answered(jobs, predictor, batch):
                counts.add(row)
                bar.update()
                if journal is None:
                    tqdm.write(line(row), file=sys.stdout)
                elif turn is not None:
                    journal.add(turn, row)
        if out is not None:
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
    batch: int = 1,
    leaderboard: bool = False,
) -> int:
    """`cxr predict`: `predict_files`, what is to be said on stderr, and the exit code 0 when every file has a row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about broken files: what matters stands in the rows
        try:
            listing = sys.stdin.buffer if "-" in named else None
            options = {"threads": threads, "batch": batch, "leaderboard": leaderboard, "listing": listing}
            counts = predict_files(model, named, out=out, **options)
        except KeyboardInterrupt:
            if out is not None:
                print(f"what was answered so far is kept; the same command goes on ({out})", file=sys.stderr)
            raise
    print(counts.text() + (f"; {out}" if out else ""), file=sys.stderr)
    return 0


def _open_journal(out: Path, predictor: Predictor, leaderboard: bool) -> Journal:
    check_output(out, predictor.findings, leaderboard)
    journal = Journal(out.with_name(f".{out.name}.partial"))
    if out.exists() and not leaderboard:
        try:
            journal.take_over(read_answers(out))
        except (KeyError, TypeError, ValueError) as error:
            journal.close(done=False)
            raise ValueError(f"{out} is broken ({error}); delete it, or name another file") from error
    return journal


def _jobs(
    files: Iterable[Found], predictor: Predictor, pool: ThreadPoolExecutor, ahead: int, journal: Journal | None
) -> Iterator[_Job]:
    """The files in order, `ahead` of them being read while the first is waited for; known ones have no film to read."""
    waiting: deque[_Job] = deque()
    with predictor.path.open("rb") as file:
        model = f"{file_digest(file, 'sha256').hexdigest()[:16]}.{DECODE_VERSION}"  # what else an answer depends on
    empty = dict.fromkeys(columns(predictor.findings)) | {"reason": "", "warnings": "", "flagged": ""}
    for turn, found in enumerate(files):
        row = empty | {"path": path_text(found.path), "model": model} | _stat(found.path)
        known = journal is not None and journal.holds(turn, row)
        waiting.append(_Job(turn, row, None if known else pool.submit(_read, found, predictor.image_size)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _stat(path: str) -> Row:
    try:
        known = Path(path).stat()
    except OSError:  # there is no such file: its row will say so
        return {}
    return {"bytes": known.st_size, "modified": known.st_mtime_ns}


def _read(found: Found, size: int) -> Film | str:
    """The film, or why it is none. Runs in a thread; an error there must not end the batch."""
    if found.refused:
        return f"the path {found.refused}"
    try:
        return read_film(found.path, size, preview=0)
    except FilmError as error:
        return str(error)
    except Exception as error:
        return f"the file cannot be read ({type(error).__name__}: {error})"


def _answered(jobs: Iterator[_Job], predictor: Predictor, batch: int) -> Iterator[tuple[int | None, Row]]:
    """Rows in order, with their numbers; those known from before as they are, and without."""
    while group := list(islice(jobs, batch)):
        results = [None if job.film is None else job.film.result() for job in group]
        films = [result for result in results if isinstance(result, Film)]
        told = iter(_told(films, predictor)) if films else iter(())
        for job, result in zip(group, results, strict=True):
            if isinstance(result, Film):
                yield job.turn, job.row | next(told)
            elif result is not None:
                yield job.turn, job.row | {"status": "refused", "reason": escaped(result)}
            else:
                yield None, job.row


def _told(films: list[Film], predictor: Predictor) -> Iterator[Row]:
    """What the model says of each film."""
    answer = predictor.predict(np.stack([film.pixels for film in films]))
    strange, flagged = predictor.unfamiliar(answer.unlikeness), predictor.flagged(answer.probs)
    for i, film in enumerate(films):
        score = float(answer.unlikeness[i])  # NaN where the card cannot tell, infinite where nothing is alike
        yield {
            "status": "ok",
            "warnings": escaped("; ".join(film.warnings)),
            "unlikeness": round(score, 4) if isfinite(score) else None,
            "unfamiliar": None if isnan(score) else bool(strange[i]),
            "flagged": "|".join(np.asarray(predictor.findings)[flagged[i]]),
            **{f"prob_{name}": round(float(p), 6) for name, p in zip(predictor.findings, answer.probs[i], strict=True)},
        }
