"""In: what one run produced. Out: its folder: state, heartbeat, tables, and `record.json` last."""

import contextlib
import math
import os
import platform
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import BaseFileLock

from lib.config import Config, config_changes, resolve
from lib.exceptions import RunError
from lib.files import (
    CARD,
    INT8,
    WEIGHTS,
    acquire_lock,
    json_values,
    read_json,
    write_json,
    write_table,
)
from lib.metrics.scores import epoch_score
from lib.runs.record import checked_record
from lib.system import (
    available_cores,
    git_state,
    package_versions,
    peak_memory_mb,
    visible_ids,
)

HEARTBEAT_SECONDS = 5.0
KEPT = (
    "config.json",
    "history.csv",
    "metrics.csv",
    "predictions.parquet",
    WEIGHTS,
    INT8,
    CARD,
)
"""The files without which a complete run is damaged."""
PLACE = ("host", "devices")
REACHED = ("epoch", "epochs", "best")
"""What of a run's status is kept when it failed."""


def is_complete(folder: Path) -> bool:
    """A run is complete when its record exists, and never before."""
    return (folder / "record.json").exists()


def write_status(folder: Path, state: str, **fields: Any) -> None:
    """Notes the state (queued, running, failed, done) of a run with the time and whatever else is
    known."""
    write_json(folder / "status.json", {"state": state, "time": time.time(), **fields})


def read_status(folder: Path) -> dict[str, Any]:
    """The last noted state of a run; "new" when nothing was noted, "unknown" and the reason when it
    is damaged."""
    path = folder / "status.json"
    if not path.exists():
        return {"state": "new"}
    try:
        return read_json(path)
    except RunError as error:
        return {"state": "unknown", "reason": str(error)}


def note_failure(folder: Path, reason: str) -> None:
    """Notes that a run failed, where, and how far it came."""
    status = read_status(folder)
    reached = {name: status[name] for name in (*PLACE, *REACHED) if name in status}
    write_status(folder, "failed", reason=reason, **reached)


def folder_lock(folder: Path) -> Path:
    """The file that is locked while a process works in the folder of a run."""
    return folder.with_name(f".{folder.name}.lock")


@dataclass
class Progress:
    """How far a run is, for its heartbeat: epochs, the last one's scores, and the best one so far
    by the rule that chooses it."""

    epochs: int
    rule: str
    last: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    best_score: float = -math.inf

    def update(self, row: dict[str, Any]) -> None:
        """Takes the row of an epoch that has ended; see `models.fit`."""
        score = epoch_score(row, self.rule)
        if score > self.best_score:
            name = "auroc" if self.rule == "last" else self.rule
            self.best = {"epoch": row["epoch"], "score": name, "value": row[f"val_{name}"]}
            self.best_score = score
        self.last = row

    def fields(self) -> dict[str, Any]:
        """What the status holds: the last epoch's row, `epochs` and `best`."""
        return {**self.last, "epochs": self.epochs, "best": self.best}


@dataclass
class Run:
    """A run in progress: its folder, its config, and the progress that its heartbeat records."""

    folder: Path
    config: Config
    started: float
    lock: BaseFileLock
    progress: Progress
    heart: "Heartbeat | None" = None

    def release(self) -> None:
        """Ends the heartbeat and lets others use the folder."""
        if self.heart:
            self.heart.end()
        self.lock.release()


class Heartbeat(threading.Thread):
    """Writes the run's status every HEARTBEAT_SECONDS; it waits while a disk is full or a network
    drive is away."""

    def __init__(self, run: Run) -> None:
        super().__init__(name=f"heartbeat of {run.folder}", daemon=True)
        self.held, self.stop = run, threading.Event()

    def run(self) -> None:
        while not self.stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                _beat(self.held)

    def end(self) -> None:
        """Stops it, after the beat that may be under way."""
        self.stop.set()
        self.join()


def start_run(config: Config, *, wait_seconds: float = 30.0) -> Run:
    """Claims the run's folder, writes `config.json` and starts the heartbeat in `status.json`.

    A folder that holds a complete run, or one of another config, is set aside under
    `<folder>.replaced-<time>`, never overwritten; what a broken run with the same config left is
    continued. A notebook that is run again in the same kernel takes its folder over. Raises
    RunError when another live process holds the folder for longer than `wait_seconds`.
    """
    folder = resolve(config.run_dir)
    for thread in threading.enumerate():
        if isinstance(thread, Heartbeat) and thread.held.folder == folder:
            thread.held.release()
    lock = acquire_lock(folder_lock(folder), str(folder), wait_seconds)
    made = folder / "config.json"
    if is_complete(folder) or (made.exists() and _differs(made, config)):
        set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(made, config.model_dump(mode="json"))
    for partial in folder.glob(".*.partial*"):  # what a kill left half written
        partial.unlink()
    progress = Progress(config.epochs, config.choose_epoch_by)
    run = Run(folder, config, time.time(), lock, progress)
    _beat(run)
    run.heart = Heartbeat(run)
    run.heart.start()
    return run


def _differs(made: Path, config: Config) -> bool:
    """Whether a broken run was made with other parameters, or its config cannot be read any
    more."""
    try:
        return bool(config_changes(read_json(made), config.model_dump(mode="json")))
    except RunError:
        return True


def set_aside(folder: Path) -> Path:
    """Renames a run's folder so that a new one can take its place; nothing is deleted."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    return folder.rename(folder.with_name(f"{folder.name}.replaced-{stamp}"))


def _beat(run: Run) -> None:
    write_status(
        run.folder,
        "running",
        pid=os.getpid(),
        started=run.started,
        **_place(),
        **run.progress.fields(),
    )


def _place() -> dict[str, Any]:
    return {"host": socket.gethostname(), "devices": visible_ids() or []}


def finish_run(run: Run, *, history: pd.DataFrame, metrics: pd.DataFrame, **parts: Any) -> Path:
    """Writes `history.csv`, `metrics.csv` and, last and atomically, `record.json`; returns the
    record's path.

    metrics: the table of `metrics.evaluate` with the intervals beside it. `parts` are the other
    fields of `RunRecord`: data, parameters, device, cpu_latency_ms; code, packages and machine are
    added. From here on the run is complete, and `last.ckpt` is gone. Raises RunError for a record
    that could not be read again.
    """
    write_table(run.folder / "history.csv", history)
    write_table(run.folder / "metrics.csv", metrics)
    if run.heart:
        run.heart.end()
    record = {
        "run": run.folder.name,
        "config": run.config.model_dump(mode="json"),
        "config_hash": run.config.hash(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": round(time.time() - run.started, 2),
        "train_seconds": round(float(history["seconds"].sum()), 2),
        "best_epoch": int(
            history.loc[epoch_score(history, run.config.choose_epoch_by).idxmax(), "epoch"]
        ),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "git": git_state(),
        "versions": package_versions(),
        "host": {
            "cpu": platform.processor() or platform.machine(),
            "cores": available_cores(),
            "system": sys.platform,
        },
        "metrics": metrics.to_dict("records"),
        "files": sorted(name for name in KEPT if (run.folder / name).exists()),
        **parts,
    }
    checked_record(json_values(record), run.folder / "record.json")
    write_json(run.folder / "record.json", record)
    write_status(run.folder, "done", started=run.started, **_place(), **run.progress.fields())
    (run.folder / "last.ckpt").unlink(missing_ok=True)
    run.lock.release()
    return run.folder / "record.json"
