"""In: a seed and a number of inputs. Out: a count table of what the library did with them.

`python -m fuzz.run --count 10000 --seed 0` mutates inputs of every kind and gives each to its entry
point, in worker processes that are watched: an exception that is no CxrError, a refusal that does not
name the file, a row that is lost, a hang, a crash and too much memory are problems. The input of a
problem is kept below runs/fuzz. `--only KIND:NUMBER` repeats one of them in this process.
"""

import argparse
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import NamedTuple

import pandas as pd
import psutil
from tqdm import tqdm

from lib.config import REPO_ROOT
from lib.files import write_table

BEGUN = "begun"


class Kind(NamedTuple):
    """A kind of input: its share of all, a module, and the names of three functions in it.

    `prepare(seeds)` writes sound files, `make(seeds, folder, rng)` a mutated one, and
    `judge(folder)` calls the entry point and returns worked or refused, or raises.
    """

    share: int
    module: str
    prepare: str
    make: str
    judge: str


@dataclass(frozen=True)
class Limits:
    """What one input may take. The time on the clock is long, since machines are loaded."""

    cpu_seconds: float = 20.0
    wall_seconds: float = 1800.0
    memory: int = 3 * 2**30  # bytes of resident memory


KINDS = {
    "tables": Kind(30, "fuzz.tables", "prepare", "make", "judge"),
    "images": Kind(25, "fuzz.films", "prepare_images", "make_image", "judge_image"),
    "DICOMs": Kind(12, "fuzz.films", "prepare_dicoms", "make_dicom", "judge_predicted"),
    "study files": Kind(8, "fuzz.studies", "prepare", "make", "judge"),
    "ONNX models": Kind(8, "fuzz.models", "prepare_onnx", "make_onnx", "judge_onnx"),
    "run folders": Kind(6, "fuzz.models", "prepare_run", "make_run", "judge_run"),
    "checkpoints": Kind(3, "fuzz.models", "prepare_run", "make_checkpoint", "judge_checkpoint"),
    "weight files": Kind(3, "fuzz.models", "prepare_weights", "make_weights", "judge_weights"),
    "prediction tables": Kind(
        5, "fuzz.models", "prepare_predictions", "make_predictions", "judge_predictions"
    ),
}


@dataclass
class _Worker:
    """A process that takes inputs, and what it does.

    `since` is when it was given its job, or has begun it; `cpu` are its seconds of computing by
    then, None while it still imports what the job needs.
    """

    process: BaseProcess
    pipe: Connection
    job: tuple[str, int] | None = None
    since: float = 0.0
    cpu: float | None = None

    def end(self) -> None:
        self.process.kill()
        self.process.join()


@dataclass
class Found:
    """Counts of outcomes per kind, and (kind, number, text) of the problems."""

    kinds: tuple[str, ...]
    counts: Counter = field(default_factory=Counter)
    problems: list[tuple[str, int, str]] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """One row per kind: inputs, worked, refused with the file's name, problems; and the sum."""
        rows = []
        for kind in self.kinds:
            numbers = {name: self.counts[kind, name] for name in ("worked", "refused", "problems")}
            rows.append({"kind": kind, "inputs": sum(numbers.values()), **numbers})
        frame = pd.DataFrame(rows)
        total = {"kind": "all", **frame.drop(columns="kind").sum().to_dict()}
        return pd.concat([frame, pd.DataFrame([total])], ignore_index=True)


def fuzz(
    count: int,
    seed: int,
    keep: Path,
    workers: int = 2,
    kinds: dict[str, Kind] = KINDS,
    limits: Limits = Limits(),
) -> Found:
    """Give `count` mutated inputs to the library; the inputs of problems are copied to `keep`."""
    found = Found(tuple(kinds))
    with tempfile.TemporaryDirectory() as scratch:
        jobs = iter(tqdm(_jobs(count, kinds), unit="input", disable=None))
        pool = [_start(Path(scratch), seed, kinds) for _ in range(workers)]
        try:
            while busy := [worker for worker in pool if worker.job or _give(worker, jobs)]:
                ready = wait([worker.pipe for worker in busy], timeout=0.5)
                for number, worker in enumerate(pool):
                    if worker.job is None:
                        continue
                    text = _answer(worker) if worker.pipe in ready else _watched(worker, limits)
                    if not text:
                        continue
                    _count(found, worker.job, text, Path(scratch), seed, keep)
                    worker.job = None
                    if not worker.process.is_alive():
                        pool[number] = _start(Path(scratch), seed, kinds)
        finally:
            for worker in pool:
                worker.pipe.close()  # it ends by itself
                worker.process.join(10.0)
                worker.end()
    return found


def _jobs(count: int, kinds: dict[str, Kind]) -> list[tuple[str, int]]:
    """(kind, number) of every input, the kinds in turn, so that a part shows all of them."""
    whole = sum(kind.share for kind in kinds.values())
    counts = {name: max(1, round(count * kind.share / whole)) for name, kind in kinds.items()}
    jobs = [(name, number) for name in kinds for number in range(counts[name])]
    return sorted(jobs, key=lambda job: job[1] / counts[job[0]])


def _start(scratch: Path, seed: int, kinds: dict[str, Kind]) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    words = (theirs, str(scratch), seed, kinds)
    process = context.Process(target=_work, args=words, daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, jobs: Iterator[tuple[str, int]]) -> bool:
    worker.job = next(jobs, None)
    if worker.job is None:
        return False
    worker.since, worker.cpu = time.monotonic(), None
    worker.pipe.send(worker.job)
    return True


def _answer(worker: _Worker) -> str:
    """The outcome of a worker's job; empty where it has only begun it."""
    try:
        text = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.end()
        return f"crash: the process ended with exit code {worker.process.exitcode}"
    if text == BEGUN:
        times = psutil.Process(worker.process.pid).cpu_times()
        worker.since, worker.cpu = time.monotonic(), times.user + times.system
        return ""
    return text


def _watched(worker: _Worker, limits: Limits) -> str:
    """Why a worker was ended, or an empty string."""
    process = psutil.Process(worker.process.pid)
    with process.oneshot():
        memory, times = process.memory_info().rss, process.cpu_times()
    computed = 0.0 if worker.cpu is None else times.user + times.system - worker.cpu
    text = ""
    if memory > limits.memory:
        text = f"memory: {memory >> 20} MiB"
    elif computed > limits.cpu_seconds:
        text = f"hang: more than {limits.cpu_seconds:.0f} s of computing"
    elif time.monotonic() - worker.since > limits.wall_seconds:
        text = f"hang: more than {limits.wall_seconds:.0f} s"
    if text:
        worker.end()
    return text


def _count(
    found: Found, job: tuple[str, int], text: str, scratch: Path, seed: int, keep: Path
) -> None:
    kind, number = job
    folder = scratch / "inputs" / f"{kind}-{number}"
    if text in ("worked", "refused"):
        found.counts[kind, text] += 1
    else:
        found.counts[kind, "problems"] += 1
        found.problems.append((kind, number, text))
        target = keep / f"{kind.replace(' ', '_')}-{seed}-{number}"
        shutil.rmtree(target, ignore_errors=True)
        if folder.exists():
            shutil.copytree(folder, target, symlinks=True)
        print(f"{kind}:{number} of seed {seed}, kept in {target}\n  {text}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)


def _work(pipe: Connection, scratch: str, seed: int, kinds: dict[str, Kind]) -> None:
    """Run in a worker: take jobs and answer them until the pipe ends."""
    os.environ["CXR_STORE"] = str(Path(scratch) / "store")
    with open(os.devnull, "w") as nothing:  # noqa: PTH123 - progress bars and libraries' notes
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    warnings.simplefilter("ignore")
    while True:
        try:
            name, number = pipe.recv()
        except EOFError:
            return
        seeds = sound_files(kinds[name], Path(scratch))
        pipe.send(BEGUN)
        folder = Path(scratch) / "inputs" / f"{name}-{number}"
        pipe.send(outcome(kinds[name], Random(f"{seed}:{name}:{number}"), seeds, folder))


def sound_files(kind: Kind, scratch: Path) -> Path:
    """The folder of a kind's sound files, of this process, made at the first call."""
    seeds = scratch / f"sound-{kind.module}-{kind.prepare}-{os.getpid()}"
    if not seeds.exists():
        seeds.mkdir(parents=True)
        getattr(importlib.import_module(kind.module), kind.prepare)(seeds)
    return seeds


def outcome(kind: Kind, rng: Random, seeds: Path, folder: Path) -> str:
    """What becomes of one input, made in `folder`: worked, refused, or the text of a problem."""
    module = importlib.import_module(kind.module)
    folder.mkdir(parents=True)
    getattr(module, kind.make)(seeds, folder, rng)
    try:
        return getattr(module, kind.judge)(folder)
    except Exception as error:  # each is a problem, with the place in this project that it left
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if frame.filename.startswith(f"{REPO_ROOT / 'lib'}/")]
        place = (ours or frames)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return f"{type(error).__name__}: {str(error)[:400]} ({where})"


def main() -> int:
    """Run as the module's docstring says; the exit code is 1 when there was a problem."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="these kinds alone")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one input, in this process")
    parser.add_argument("--out", type=Path, help="a .csv file for the table")
    options = parser.parse_args()
    keep = REPO_ROOT / "runs" / "fuzz"
    if options.only:
        return _again(options.only, options.seed, keep / "again")
    kinds = {name: KINDS[name] for name in options.kind or KINDS}
    found = fuzz(options.count, options.seed, keep, options.workers, kinds)
    table = found.table()
    print(f"\nseed {options.seed}\n{table.to_string(index=False)}")
    if options.out:
        write_table(options.out, table)
    return 1 if found.problems else 0


def _again(job: str, seed: int, folder: Path) -> int:
    """Repeat one input in this process, where a debugger can follow it; it is left in `folder`."""
    name, _, number = job.rpartition(":")
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        seeds = sound_files(KINDS[name], Path(scratch))
        print(outcome(KINDS[name], Random(f"{seed}:{name}:{number}"), seeds, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
