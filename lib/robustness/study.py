"""In: the folder of a study. Out: every complete run's answers under corruption, each computed
once."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lib.exceptions import CxrError, RunError
from lib.robustness.kept import is_answered
from lib.runs.study import read_runs
from lib.system import available_cores, start_worker


def answer_study(
    folder: Path, only: Sequence[str] = (), jobs: int = 1, progress: bool = True
) -> tuple[int, dict[str, str]]:
    """Has the model of every complete run answer its corrupted test films, `jobs` runs at a time
    that share the cores; `only` names arms. Earlier stages are left out.

    Runs that have answers of their present model are skipped, so that the same call continues what
    was interrupted. Returns how many were answered now, and run -> why it could not be. Raises
    RunError where `only` names an arm without a complete run, or as `read_runs`.
    """
    runs = read_runs(folder)
    runs = runs[~runs["prerequisite"]]
    if unknown := sorted(set(only) - set(runs["arm"])):
        raise RunError(
            f"{folder} has no complete run of {', '.join(unknown)}; its arms are "
            f"{', '.join(dict.fromkeys(runs['arm']))}"
        )
    chosen = runs[runs["arm"].isin(only)] if only else runs
    todo = [folder / name for name in chosen["run"] if not is_answered(folder / name)]
    failed: dict[str, str] = {}
    bar: Any = tqdm(
        total=len(chosen), initial=len(chosen) - len(todo), desc="corrupted films", unit="run",
        disable=not progress, dynamic_ncols=True,
    )  # fmt: skip
    with bar:
        for run, error in _answered(todo, jobs):
            bar.update()
            if error:
                failed[run] = error
    return len(todo) - len(failed), failed


def _answered(todo: Sequence[Path], jobs: int) -> Iterator[tuple[str, str]]:
    """Each run's name as it ends, and why it failed; empty where it did not."""
    if jobs == 1 or len(todo) < 2:
        for folder in todo:
            yield folder.name, _answer(folder)
        return
    threads = max(1, available_cores() // jobs)
    context = get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(todo)), context, _start, (threads,))
    try:
        futures = {pool.submit(_answer, folder): folder.name for folder in todo}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start(threads: int) -> None:
    """Start of a worker: torch, which is imported later, takes so many threads."""
    start_worker()
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _answer(folder: Path) -> str:
    from lib.robustness.answers import answer_run  # torch, only where films are answered

    try:
        answer_run(folder, _films())
    except (CxrError, OSError) as error:
        return str(error)
    return ""


@cache
def _films() -> Any:
    """The films that a process has read."""
    from lib.stages.answers import Films

    return Films()
