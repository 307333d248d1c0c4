"""Measure a data set of the size of the NIH's release: 112,120 films, 25,596 test images, 16 runs.

In: a scratch folder. Out: rows of the table. Each step runs in a process of its own, so that its
memory is its own: `python -m benchmarks.scale STEP FOLDER` is one of them.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale_films import FILMS, write_release
from benchmarks.timing import Row
from lib.system import peak_memory_mb

SIDE = 64  # px of the image cache
PARTS = {8: "an eighth", 2: "half", 1: "all"}
"""The sets that are measured: all films divided by these."""
BATCH, BATCHES = 64, 300
Found = dict[str, float]


def scale_rows(
    scratch: Path, films: int = FILMS, images: dict[str, int] | None = None
) -> list[Row]:
    """Measure reading, checking, caching, loading and comparing at full size."""
    from benchmarks.scale_study import write_study

    folders = {
        part: write_release(scratch / f"part{part}" / "dataset_full", films // part)
        for part in PARTS
    }
    store = scratch / "store"
    found: dict[tuple[str, int], Found] = {}
    for part, folder in folders.items():
        for step in ("read", "again", "build", "reopen"):
            found[step, part] = _measure(step, folder, store)
    for step in ("frame", "prepare", "prepare_again", "load"):
        found[step, 1] = _measure(step, folders[1], store)
    found["check", 1] = _measure("check", folders[1], scratch / "store of the check")
    study = write_study(scratch / "study", images)
    for step in ("compare", "compare_again", "report"):
        found[step, 1] = _measure(step, study, store)
    return [*_time_rows(found, films), *_memory_rows(found, films)]


def _time_rows(found: dict[tuple[str, int], Found], films: int) -> list[Row]:
    def seconds(step: str) -> float:
        return found[step, 1]["seconds"]

    start = "in a process that has imported"
    return [
        Row(f"reading a folder of {films:,} films", "s", seconds("read")),
        Row("the same, once it is remembered", "s", seconds("again"), seconds("read"), "the first time", "< 1"),
        Row("splits of all films", "s", found["frame", 1]["splits"]),
        Row("fingerprint of all films", "s", found["frame", 1]["fingerprint"]),
        Row("cxr data check: every film decoded, copies looked for", "films/s", films / seconds("check")),
        Row(f"building the image cache at {SIDE} px", "films/s", films / seconds("build")),
        Row("opening it again", "s", seconds("reopen"), seconds("build"), "building it", "< 0.1"),
        Row("data of a run, the first of a study", "s", seconds("prepare"), None, start),
        Row("data of a run, those after it", "s", seconds("prepare_again"), seconds("prepare"), "the first", "< 1"),
        Row(f"batches of {BATCH} from the image cache, rotated", "films/s", found["load", 1]["rate"]),
        Row("comparing 16 runs", "s", seconds("compare")),
        Row("comparing them again", "s", seconds("compare_again"), seconds("compare"), "the first time", "< 0.5"),
        Row("report of 16 runs, after they were compared", "s", seconds("report")),
    ]  # fmt: skip


def _memory_rows(found: dict[tuple[str, int], Found], films: int) -> list[Row]:
    """The peak of each part's process; the ratio is to that of the smallest part."""
    rows = []
    for step, what in (
        ("again", "reading"),
        ("build", "building the cache"),
        ("reopen", "opening it"),
    ):
        least = found[step, max(PARTS)]["memory"]
        for part, name in PARTS.items():
            rows.append(
                Row(
                    f"peak memory of {what}, {name} of {films:,} films", "MiB",
                    found[step, part]["memory"], least, f"{PARTS[max(PARTS)]} of them",
                    "" if part > 1 else "< 3",
                )
            )  # fmt: skip
    for step in ("check", "prepare_again", "load", "compare", "report"):
        name = step.replace("_", " ")
        rows.append(Row(f"peak memory: {name}", "MiB", found[step, 1]["memory"]))
    return rows


def _measure(step: str, folder: Path, store: Path) -> Found:
    """Run a step in a process of its own."""
    print(f"measuring: scale, {step} of {folder}", file=sys.stderr)
    words = [sys.executable, "-m", "benchmarks.scale", step, str(folder)]
    environment = os.environ | {"CXR_STORE": str(store)}
    answer = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def _timed(work: Callable[[], Any]) -> Found:
    start = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - start}


def _read(folder: Path) -> Found:
    from lib.datasets import read_dataset

    return _timed(lambda: read_dataset(folder))


def _config(folder: Path) -> Any:
    from lib.config import Config

    return Config(data_root=str(folder.parent), image_size=SIDE)


def _frame(folder: Path) -> Found:
    """Seconds of the splits and of the fingerprint, without reading."""
    from lib.datasets import PreparedData, assign_splits, read_dataset

    data = read_dataset(folder)
    start = time.perf_counter()
    frame = data.frame.assign(split=assign_splits(data.frame, _config(folder)))
    splits = time.perf_counter() - start
    films = PreparedData(data, frame, data.bad_rows, np.zeros((0, SIDE, SIDE), np.uint8))
    fingerprint = _timed(lambda: films.fingerprint)["seconds"]
    return {"seconds": splits + fingerprint, "splits": splits, "fingerprint": fingerprint}


def _cache(folder: Path) -> Found:
    from lib.datasets import read_dataset
    from lib.datasets.cache import open_cache

    frame = read_dataset(folder).frame
    return _timed(lambda: open_cache(frame, SIDE, progress=False))


def _prepare(folder: Path) -> Found:
    from lib.datasets import prepare_data

    return _timed(lambda: prepare_data(_config(folder), folder.parent / "run"))


def _check(folder: Path) -> Found:
    from lib.datasets import check_folder

    found = {}

    def check() -> None:
        found["report"] = check_folder(folder, progress=False)

    seconds = _timed(check)
    assert found["report"].ok, found["report"].text()
    return seconds


def _load(folder: Path) -> Found:
    from lib.datasets import prepare_data
    from lib.models import make_loaders

    data = prepare_data(_config(folder), folder.parent / "run")
    config = _config(folder).model_copy(update={"batch_size": BATCH, "augment": "rotate"})
    batches = make_loaders(data.frame, data.store, config)["train"].epoch()
    next(batches)
    start, films = time.perf_counter(), 0
    for _, (images, _) in zip(range(BATCHES), batches, strict=False):
        films += len(images)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rate": films / seconds}


def _compare(folder: Path) -> Found:
    from lib.comparison import compare_study

    return _timed(lambda: compare_study(folder).all_sentences())


def _report(folder: Path) -> Found:
    from lib.studies import make_report

    return _timed(lambda: make_report(folder))


STEPS: dict[str, Callable[[Path], Found]] = {
    "read": _read,
    "again": _read,
    "frame": _frame,
    "build": _cache,
    "reopen": _cache,
    "prepare": _prepare,
    "prepare_again": _prepare,
    "check": _check,
    "load": _load,
    "compare": _compare,
    "compare_again": _compare,
    "report": _report,
}

if __name__ == "__main__":
    measured = STEPS[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps(measured | {"memory": peak_memory_mb()}))
