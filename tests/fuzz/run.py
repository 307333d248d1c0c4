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
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import psutil

from lib.config import REPO_ROOT
from lib.files import write_table

# kind -> (share of the inputs, module, and its functions that prepare, make and judge)
KINDS: dict[str, tuple[int, str, str, str, str]] = {
    "tables": (30, "tables", "prepare", "make", "judge"),
    "images": (25, "films", "prepare_images", "make_image", "judge_image"),
    "DICOMs": (12, "films", "prepare_dicoms", "make_dicom", "judge_predicted"),
    "study files": (8, "studies", "prepare", "make", "judge"),
    "ONNX models": (8, "models", "prepare_onnx", "make_onnx", "judge_onnx"),
    "run folders": (6, "models", "prepare_run", "make_run", "judge_run"),
    "checkpoints": (3, "models", "prepare_run", "make_checkpoint", "judge_checkpoint"),
    "weight files": (3, "models", "prepare_weights", "make_weights", "judge_weights"),
    "prediction tables": (
        5,
        "models",
        "prepare_predictions",
        "make_predictions",
        "judge_predictions",
    ),
}
CPU_SECONDS = 20.0  # of one input: more is a hang
WALL_SECONDS = 1800.0  # the same for what waits; long, since machines are loaded
MEMORY = 3 * 2**30  # bytes of resident memory: more is a bomb


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    job: tuple[str, int] | None = None
    since: float = 0.0
    cpu: float = 0.0


@dataclass
class Found:
    """Counts of outcomes per kind, and (kind, number, text) of the problems."""

    counts: Counter = field(default_factory=Counter)
    problems: list[tuple[str, int, str]] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """One row per kind: inputs, worked, refused with the file's name, problems; and the sum."""
        rows = []
        for kind in KINDS:
            numbers = {name: self.counts[kind, name] for name in ("worked", "refused", "problems")}
            rows.append({"kind": kind, "inputs": sum(numbers.values()), **numbers})
        frame = pd.DataFrame(rows)
        total = {"kind": "all", **frame.drop(columns="kind").sum().to_dict()}
        return pd.concat([frame, pd.DataFrame([total])], ignore_index=True)


def fuzz(count: int, seed: int, keep: Path, workers: int = 2, kinds: tuple[str, ...] = ()) -> Found:
    """Give `count` mutated inputs to the library; the inputs of problems are copied to `keep`."""
    found = Found()
    with tempfile.TemporaryDirectory() as scratch:
        jobs = iter(_jobs(count, kinds or tuple(KINDS)))
        pool = [_start(Path(scratch), seed) for _ in range(workers)]
        try:
            while busy := [worker for worker in pool if worker.job or _give(worker, jobs)]:
                ready = wait([worker.pipe for worker in busy], timeout=0.5)
                for number, worker in enumerate(pool):
                    if worker.job is None:
                        continue
                    if worker.pipe in ready:
                        text = _answer(worker)
                    elif not (text := _watched(worker)):
                        continue
                    _count(found, worker.job, text, Path(scratch), seed, keep)
                    worker.job = None
                    if not worker.process.is_alive():
                        pool[number] = _start(Path(scratch), seed)
        finally:
            for worker in pool:
                worker.process.kill()
                worker.process.join()
    return found


def _jobs(count: int, kinds: tuple[str, ...]) -> list[tuple[str, int]]:
    whole = sum(KINDS[kind][0] for kind in kinds)
    return [
        (kind, number)
        for kind in kinds
        for number in range(max(1, round(count * KINDS[kind][0] / whole)))
    ]


def _start(scratch: Path, seed: int) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_work, args=(theirs, str(scratch), seed), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, jobs: Any) -> bool:
    worker.job = next(jobs, None)
    if worker.job is None:
        return False
    worker.since, worker.cpu = time.monotonic(), _cpu(worker)
    worker.pipe.send(worker.job)
    return True


def _cpu(worker: _Worker) -> float:
    try:
        times = psutil.Process(worker.process.pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _answer(worker: _Worker) -> str:
    try:
        return worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        return f"crash: the process ended with exit code {worker.process.exitcode}"


def _watched(worker: _Worker) -> str:
    """Why a worker was killed, or an empty string. Its first input pays for imports."""
    try:
        memory = psutil.Process(worker.process.pid).memory_info().rss
    except psutil.NoSuchProcess:
        return ""
    text = ""
    if memory > MEMORY:
        text = f"memory: {memory >> 20} MiB"
    elif _cpu(worker) - worker.cpu > CPU_SECONDS + 60 * (worker.cpu < 30):
        text = f"hang: more than {CPU_SECONDS:.0f} s of computing"
    elif time.monotonic() - worker.since > WALL_SECONDS:
        text = f"hang: more than {WALL_SECONDS:.0f} s"
    if text:
        worker.process.kill()
        worker.process.join()
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


def _work(pipe: Connection, scratch: str, seed: int) -> None:
    """Run in a worker: answers jobs until the pipe ends."""
    os.environ["CXR_STORE"] = str(Path(scratch) / "store")
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - progress bars and libraries' notes
    os.dup2(sys.stderr.fileno(), 2)
    warnings.simplefilter("ignore")
    while True:
        try:
            kind, number = pipe.recv()
        except EOFError:
            return
        pipe.send(one(kind, number, seed, Path(scratch)))


def one(kind: str, number: int, seed: int, scratch: Path) -> str:
    """What becomes of one input: worked, refused, or the text of a problem."""
    _, name, prepare, make, judge = KINDS[kind]
    module = importlib.import_module(f"fuzz.{name}")
    seeds = scratch / f"seeds-{name}-{prepare}-{os.getpid()}"
    if not seeds.exists():
        seeds.mkdir(parents=True)
        getattr(module, prepare)(seeds)
    folder = scratch / "inputs" / f"{kind}-{number}"
    folder.mkdir(parents=True)
    try:
        getattr(module, make)(seeds, folder, Random(f"{seed}:{kind}:{number}"))
        return getattr(module, judge)(folder)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)
        place = next(
            (
                frame
                for frame in reversed(last)
                if "/lib/" in frame.filename
                and "/site-packages/" not in frame.filename
                and "/lib/python" not in frame.filename
            ),
            last[-1],
        )
        return f"{type(error).__name__}: {str(error)[:400]} ({Path(place.filename).name}:{place.lineno})"


def main() -> int:
    """Run as the module's docstring says; the exit code is 1 when there was a problem."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kind", action="append", choices=KINDS, help="these kinds alone")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one input, in this process")
    parser.add_argument("--out", type=Path, help="a .csv file for the table")
    options = parser.parse_args()
    if options.only:
        kind, _, number = options.only.rpartition(":")
        with tempfile.TemporaryDirectory() as scratch:
            print(one(kind, int(number), options.seed, Path(scratch)))
        return 0
    found = fuzz(
        options.count,
        options.seed,
        REPO_ROOT / "runs" / "fuzz",
        options.workers,
        tuple(options.kind or ()),
    )
    table = found.table()
    print(f"\nseed {options.seed}\n{table.to_string(index=False)}")
    if options.out:
        write_table(options.out, table)
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
