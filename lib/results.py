"""In: what one run produced. Out: its folder: state, heartbeat, tables, and `record.json` last."""

import contextlib
import fcntl
import json
import math
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from lib.config import NO_FINDING, REPO_ROOT, Config, resolve
from lib.exceptions import RunError
from lib.memory import peak_memory_mb

HEARTBEAT_SECONDS = 5.0
PACKAGES = ("torch", "torchvision", "timm", "lightning-fabric", "numpy", "pandas", "papermill", "scikit-learn")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Writes `data` as JSON, whole or not at all; NaN becomes null."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(_plain(data), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text)


def read_json(path: Path) -> Any:
    """The JSON in `path`; raises ValueError that names the file when it is broken."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise RunError(f"{path} is not valid JSON ({error}); delete it and run again") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def is_complete(folder: Path) -> bool:
    """A run is complete when its record exists, and never before."""
    return (folder / "record.json").exists()


def write_status(folder: Path, state: str, **fields: Any) -> None:
    """Notes the state (queued, running, failed, done) of a run with the time and whatever else is known."""
    write_json(folder / "status.json", {"state": state, "time": time.time(), **fields})


def read_status(folder: Path) -> dict[str, Any]:
    """The last noted state of a run; {"state": "new"} when nothing was noted."""
    path = folder / "status.json"
    return read_json(path) if path.exists() else {"state": "new"}


@dataclass
class Run:
    """One run that is under way: its folder, config, and the progress that its heartbeat tells."""

    folder: Path
    config: Config
    started: float
    lock: Any
    progress: dict[str, Any] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    heart: threading.Thread | None = None


def start_run(config: Config, *, wait_seconds: float = 30.0) -> Run:
    """Claims the run's folder, writes `config.json` and starts the heartbeat in `status.json`.

    A folder that holds a complete run, or one of another config, is set aside under
    `<folder>.replaced-<time>`, never overwritten; what a broken run with the same config left is continued.
    Raises RunError when another live process holds the folder for longer than `wait_seconds`.
    """
    folder = resolve(config.run_dir)
    _release(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _claim(folder, wait_seconds)
    if is_complete(folder) or _config_differs(folder, config):
        lock.close()
        set_aside(folder)
        folder.mkdir(parents=True)
        lock = _claim(folder, wait_seconds)
    write_json(folder / "config.json", config.model_dump(mode="json"))
    for partial in folder.glob(".*.partial*"):  # what a kill left half written
        partial.unlink()
    run = Run(folder, config, time.time(), lock, progress={"epochs": config.epochs})
    _beat(run)
    run.heart = threading.Thread(target=_keep_beating, args=(run,), daemon=True)
    run.heart.start()
    _LIVE[folder] = run
    return run


_LIVE: dict[Path, Run] = {}  # a notebook that is run again, in the same kernel, takes its folder over


def _release(folder: Path) -> None:
    if run := _LIVE.pop(folder, None):
        run.stop.set()
        run.heart.join()
        run.lock.close()


def set_aside(folder: Path) -> Path:
    """Renames a run's folder so that a new one can take its place; nothing is deleted."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    return folder.rename(folder.with_name(f"{folder.name}.replaced-{stamp}"))


def _config_differs(folder: Path, config: Config) -> bool:
    path = folder / "config.json"
    if not path.exists():
        return False
    try:
        return Config(**read_json(path)).hash() != config.hash()
    except ValidationError:  # written by another version, with other parameters
        return True


def _claim(folder: Path, wait_seconds: float) -> Any:
    """An exclusive lock on the folder that ends with this process, however it ends."""
    lock = (folder / "lock").open("a+")  # held until the run ends
    until = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                lock.seek(0)
                raise RunError(f"{folder} is in use by {lock.read().strip()}; wait for it or stop it") from None
            time.sleep(0.2)
        else:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
            return lock


def _beat(run: Run) -> None:
    write_status(run.folder, "running", pid=os.getpid(), started=run.started, **run.progress)


def _keep_beating(run: Run) -> None:
    while not run.stop.wait(HEARTBEAT_SECONDS):
        _beat(run)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Writes a .csv or .parquet file, whole or not at all."""
    with whole_file(path) as partial:
        table.to_parquet(partial, index=False) if path.suffix == ".parquet" else table.to_csv(partial, index=False)


def write_figure(path: Path, figure: Any) -> None:
    """Writes a matplotlib Figure as .png (200 dpi) or .svg, whole or not at all."""
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=200)


def write_predictions(run: Run, frame: pd.DataFrame, probs: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> None:
    """Writes `predictions.parquet`: image, patient, age, sex, view, split, then target_* and prob_* of each finding.

    probs: split -> (M, F) of the config's findings, for rows: split -> (M,) of `frame`.
    """
    findings = list(run.config.findings)
    parts = []
    for split, values in probs.items():
        part = frame.iloc[rows[split]].reset_index(drop=True)
        known = part[["image", "patient", "age", "sex", "view"]].assign(split=split)
        targets = part[findings].add_prefix("target_")
        parts.append(pd.concat([known, targets, pd.DataFrame(values, columns=findings).add_prefix("prob_")], axis=1))
    write_table(run.folder / "predictions.parquet", pd.concat(parts, ignore_index=True))


def write_submission(path: Path, images: pd.Series, probs: np.ndarray, thresholds: np.ndarray, findings: list) -> None:
    """The leaderboard's file `imageID,disease`: findings at or over their threshold joined with |, else No Finding.

    probs: (N, F); thresholds: (F,), 0.5 where NaN.
    """
    called = probs >= np.where(np.isnan(thresholds), 0.5, thresholds)  # (N, F)
    names = ["|".join(np.asarray(findings)[row]) or NO_FINDING for row in called]
    write_table(path, pd.DataFrame({"imageID": images.to_numpy(), "disease": names}))


def finish_run(run: Run, *, history: pd.DataFrame, metrics: pd.DataFrame, **parts: Any) -> Path:
    """Writes `history.csv`, `metrics.csv` and, last and atomically, `record.json`; returns the record's path.

    metrics: the table of `metrics.evaluate` with the intervals beside it. The record also holds `parts` and what is
    known of code, packages and machine. From here on the run is complete, and `last.ckpt` is gone.
    """
    write_table(run.folder / "history.csv", history)
    write_table(run.folder / "metrics.csv", metrics)
    run.stop.set()
    run.heart.join()
    _LIVE.pop(run.folder, None)
    record = {
        "run": run.folder.name,
        "config": run.config.model_dump(mode="json"),
        "config_hash": run.config.hash(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": round(time.time() - run.started, 2),
        "train_seconds": round(float(history["seconds"].sum()), 2),
        "best_epoch": int(history.loc[history["val_auroc"].idxmax(), "epoch"]),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "git": git_state(),
        "versions": package_versions(),
        "host": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "system": sys.platform},
        "metrics": metrics.to_dict("records"),
        **parts,
    }
    write_json(run.folder / "record.json", record)
    write_status(run.folder, "done", started=run.started)
    (run.folder / "last.ckpt").unlink(missing_ok=True)
    run.lock.close()
    return run.folder / "record.json"


def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the repository; both None outside git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=REPO_ROOT, capture_output=True, text=True, check=True).stdout.strip()


def package_versions() -> dict[str, str | None]:
    """Installed versions of the packages that decide numbers, and of Python."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
