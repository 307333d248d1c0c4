"""In: the complete runs of a study. Out: the same runs in MLflow, each once, through
`mlflow.MlflowClient`.

A run's folder holds all that is logged, so tracking is an export: it can be repeated at any time,
from any machine that sees the folder. An MLflow run holds the parameters, the history by epoch, the
test metrics as `test/<finding>/<metric>`, and the small files of the folder: neither weights nor
predictions.
"""

import contextlib
import importlib.util
import math
import os
import re
import sqlite3
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from lib.config import REPO_ROOT, resolve
from lib.exceptions import CxrError
from lib.files import read_table
from lib.metrics.scores import MACRO
from lib.runs.record import RunRecord
from lib.runs.study import read_plan, read_record, run_state
from lib.studies.plan import PlannedRun

DEFAULT_URI = f"sqlite:///{REPO_ROOT / 'runs' / 'mlflow.db'}"
ARTIFACTS = (
    "config.json",
    "metrics.csv",
    "history.csv",
    "record.json",
    "card.json",
    "notebook.ipynb",
)
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""MLflow's settings; the user's own values win. By default it would try a server that is away for
minutes."""
KEY = "cxr_run"
"""The tag by which a run is recognised: its name, its config's hash, and when it ended."""
BATCH = 1000
"""The most metrics that MLflow takes in one call."""


class Tracker:
    """The MLflow experiment of a study; it is created when it is missing.

    uri: a tracking server (http://host:5000) or a store (sqlite:////folder/file.db); by default
    MLFLOW_TRACKING_URI, else `runs/mlflow.db`. Raises CxrError when MLflow is not installed or
    cannot be reached.
    """

    def __init__(self, study: str, uri: str | None = None) -> None:
        self.study, self.uri = study, _address(uri)
        database = _is_database(self.uri)
        _check_installed(database)
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        try:
            folder = (
                _check_file(self.uri) if self.uri.startswith("sqlite:///") else REPO_ROOT / "runs"
            )
            # A server has a place of its own for files.
            location = (folder / "mlartifacts" / study).as_uri() if database else None
            self.client = MlflowClient(self.uri)
            found = self.client.get_experiment_by_name(study)
            self.experiment = (
                found.experiment_id if found else self.client.create_experiment(study, location)
            )
        except (
            Exception
        ) as error:  # of requests, sqlalchemy or mlflow: all mean that it cannot be used
            raise CxrError(
                f"MLflow at {shown(self.uri)} cannot be used: {_one_line(error)}"
            ) from error

    def log(self, folder: Path, planned: dict[str, Any]) -> bool:
        """Logs the complete run in `folder`; `planned` is its entry of plan.json. False when it was
        logged before.

        What a broken attempt left in MLflow is replaced. Raises CxrError where MLflow fails.
        """
        record = read_record(folder)
        try:
            return self._log(folder, planned, record)
        except Exception as error:  # see above
            raise CxrError(
                f"MLflow at {shown(self.uri)} did not log {folder.name}: {_one_line(error)}"
            ) from error

    def _log(self, folder: Path, planned: dict[str, Any], record: RunRecord) -> bool:
        from mlflow.entities import Metric, Param

        end = int(1000 * datetime.fromisoformat(record.finished).timestamp())
        # A resumed run trained for longer than its last process lived.
        start = end - int(1000 * max(record.wall_seconds, record.train_seconds))
        key = f"{record.run} {record.config_hash} {end}"
        for found in self.client.search_runs([self.experiment], f"tags.{KEY} = '{key}'"):
            if found.info.status != "RUNNING":
                return False
            self.client.delete_run(found.info.run_id)
        tags = {**_tags(planned, record), KEY: key}
        made = self.client.create_run(
            self.experiment, start_time=start, tags=tags, run_name=record.run
        ).info.run_id
        self.client.log_batch(
            made, params=[Param(name, _text(value)) for name, value in record.config.items()]
        )
        metrics = [Metric(*metric) for metric in _metrics(folder, record, start, end)]
        for first in range(0, len(metrics), BATCH):
            self.client.log_batch(made, metrics=metrics[first : first + BATCH])
        for name in ARTIFACTS:
            if (folder / name).exists():
                self.client.log_artifact(made, str(folder / name))
        # Last: a run that is not terminated is known to be incomplete, and replaced by the next
        # attempt.
        self.client.set_terminated(made, "FINISHED", end_time=end)
        return True


def track_study(study_folder: Path, uri: str | None, log: Callable[[str], None]) -> None:
    """Logs every complete run of a study that MLflow does not have yet, and says how many."""
    plan = read_plan(study_folder)
    tracker = Tracker(plan["study"], uri)
    counts = {True: 0, False: 0}
    for name, planned in plan["runs"].items():
        if run_state(study_folder / name, planned).name == "complete":
            counts[tracker.log(study_folder / name, planned)] += 1
    waiting = len(plan["runs"]) - sum(counts.values())
    log(
        f"MLflow at {shown(tracker.uri)}, experiment {tracker.study}: {counts[True]} runs logged, {counts[False]} were "
        f"there before, {waiting} are not complete"
    )


def track_as_they_end(
    study: str,
    uri: str | None,
    entry: Callable[[PlannedRun], dict[str, Any]],
    log: Callable[[str], None],
) -> Callable[[PlannedRun, str | None], None]:
    """What the runner calls with each run that ended: logs it when it is complete, and never fails
    a run.

    After the first failure nothing more is tried: `cxr track` logs the rest later. Raises CxrError,
    before anything is started, when MLflow is not installed.
    """
    later = f"the study goes on, and `cxr track {study}` logs its runs later"
    _check_installed(_is_database(_address(uri)))
    try:
        trackers = [Tracker(study, uri)]
    except CxrError as error:
        trackers = []
        log(f"{error}; {later}")

    def on_end(run: PlannedRun, reason: str | None) -> None:
        if reason is not None or not trackers:
            return
        try:
            trackers[0].log(run.folder, entry(run))
        except CxrError as error:
            trackers.clear()
            log(f"{error}; {later}")

    return on_end


def shown(text: str) -> str:
    """`text` without the user and password of an address."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _address(uri: str | None) -> str:
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def _is_database(uri: str) -> bool:
    """Whether a store is used directly, without a server."""
    return re.match(r"(sqlite|postgresql|mysql|mssql)\b", uri) is not None


def _check_file(uri: str) -> Path:
    """The folder of an SQLite store; raises sqlite3.DatabaseError for another file, which MLflow
    tries for minutes."""
    file = resolve(uri.removeprefix("sqlite:///").partition("?")[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA schema_version")
    return file.parent


def _check_installed(database: bool) -> None:
    needed = ["mlflow", *(["sqlalchemy", "alembic"] if database else [])]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise CxrError(
            f"tracking needs {', '.join(missing)}, so nothing was started. Install the extra `track`, in {REPO_ROOT}: "
            f"{sys.executable} -m pip install -c constraints.txt -e '.[track]'"
        )


def _tags(planned: dict[str, Any], record: RunRecord) -> dict[str, str]:
    names = ("arm", "seed", "reference", "prerequisite", "changes", "what")
    tags = {name: planned[name] for name in names} | {"config_hash": record.config_hash}
    tags |= {"mlflow.source.name": planned["notebook"], "mlflow.source.type": "NOTEBOOK"}
    tags |= {
        "mlflow.note.content": planned["about"],
        "device": record.device.name or record.device.kind,
    }
    tags |= {"git_commit": record.git.commit, "git_dirty": record.git.dirty}
    tags |= {"phantom": record.data.phantom, "test_fingerprint": record.data.test_fingerprint}
    return {name: str(value) for name, value in tags.items() if value is not None}


def _metrics(
    folder: Path, record: RunRecord, start: int, end: int
) -> Iterator[tuple[str, float, int, int]]:
    """(name, value, time in ms, step) of each finite metric; a test metric's step is the best
    epoch."""
    history, seconds = read_table(folder / "history.csv"), 0.0
    found: list[tuple[str, Any, int, int]] = []
    for row in history.to_dict("records"):
        seconds += row["seconds"]
        found += [
            (name, row[name], start + int(1000 * seconds), row["epoch"])
            for name in row
            if name != "epoch"
        ]
    for row in read_table(folder / "metrics.csv").to_dict("records"):
        # n_*: over how many findings macro is the mean
        names = [name for name in row if row["finding"] == MACRO or not name.startswith("n_")]
        found += [
            (f"test/{row['finding']}/{name}", row[name], end, record.best_epoch) for name in names
        ]
    for name in ("train_seconds", "wall_seconds", "peak_memory_mb"):
        found.append((f"cost/{name}", getattr(record, name), end, record.best_epoch))
    yield from (
        metric
        for metric in found
        if isinstance(metric[1], int | float) and math.isfinite(metric[1])
    )


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _one_line(error: BaseException) -> str:
    """An error in one line, without the addresses and ids that differ every time."""
    text = re.sub(r"\b(0x)?[0-9a-f]{8,}\b", "...", str(error))
    return f"{type(error).__name__}: {textwrap.shorten(shown(text), 240, placeholder=' ...')}"
