"""In: a job on standard input: runs that ended, and where to log them. Out: MLflow runs, and an answer for each run.

`python -m lib.track_mlflow` is started by `lib.track`. An MLflow run holds the parameters, the history by epoch, the
test metrics as `test/<finding>/<metric>`, and the small files of the folder: no weights and no predictions.
"""

import contextlib
import json
import math
import re
import signal
import socket
import sqlite3
import sys
import textwrap
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lib.config import REPO_ROOT, resolve
from lib.metrics import MACRO
from lib.record import RunRecord
from lib.records import read_record
from lib.results import read_status

ARTIFACTS = ("config.json", "metrics.csv", "history.csv", "record.json", "card.json", "notebook.ipynb")
FAILED_ARTIFACTS = ("config.json", "notebook.ipynb", "papermill.log")
KEY = "cxr_run"
"""The tag by which a run is known again: its name, its config's hash, and when it ended."""
BATCH = 1000
"""The most metrics that MLflow takes at once."""


def main() -> None:
    """Logs the runs of a job and prints an answer a line; SIGALRM ends the process when one takes too long."""
    job = json.load(sys.stdin)
    signal.alarm(job["limit"])
    answers, sys.stdout = sys.stdout, sys.stderr  # MLflow prints
    for answer in log_runs(job["uri"], job["study"], job["runs"]):
        signal.alarm(0)
        print(json.dumps(answer), file=answers, flush=True)
        signal.alarm(job["limit"])


def log_runs(uri: str, study: str, runs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Logs runs (see `track.describe`) to the experiment `study`, which is made when it is missing.

    Yields {"run", "new"} for each that is logged, by this call or before, {"run", "problem"} for each that cannot be,
    and {"problem"}, as the last answer, when server or store cannot be used at all. Relative paths in a `uri` are
    below the repository's root.
    """
    try:
        client, experiment = _connect(uri, study)
        for run in runs:
            try:
                answer = {"run": run["name"], "new": _log_run(client, experiment, run)}
            except Exception as error:  # of any kind: no study fails for its tracking
                yield {"run": run["name"], **problem(error)}
                _connect(uri, study)  # which fails when the run is not to blame
            else:
                yield answer
    except Exception as error:
        yield problem(error)


def problem(error: BaseException) -> dict[str, str]:
    """An error in one line, the network's where one is behind it, without the ids that differ every time."""
    chain = [error]
    while link := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(link)
    network = [link for link in chain if isinstance(link, ConnectionError | TimeoutError | socket.gaierror)]
    told = network[-1] if network else error
    text = re.sub(r"\b(0x)?[0-9a-f]{8,}\b", "...", str(told))
    return {"problem": f"{type(told).__name__}: {textwrap.shorten(text, 240, placeholder=' ...')}"}


def is_database(uri: str) -> bool:
    """Whether a store is used directly, without a server."""
    return re.match(r"(sqlite|postgresql|mysql|mssql)\b", uri) is not None


def _connect(uri: str, study: str) -> tuple[Any, str]:
    """A client, and the id of the study's experiment."""
    folder = REPO_ROOT / "runs"
    if uri.startswith("sqlite:///"):
        file = resolve(uri.removeprefix("sqlite:///").partition("?")[0])
        folder = file.parent
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(file)) as database:  # MLflow tries a bad file for minutes
            database.execute("PRAGMA schema_version")
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    if found := client.get_experiment_by_name(study):
        return client, found.experiment_id
    location = (folder / "mlartifacts" / study).as_uri() if is_database(uri) else None  # a server has its own place
    return client, client.create_experiment(study, artifact_location=location)


def _log_run(client: Any, experiment: str, run: dict[str, Any]) -> bool:
    """Logs a run; False when it was logged before. What a broken attempt left is removed."""
    from mlflow.entities import Metric, Param

    folder = Path(run["folder"])
    start, end, metrics, known = _of_failed(folder, run["started"]) if run["failed"] else _of_complete(folder)
    key = f"{run['name']} {run['tags']['config_hash']} {end}"
    for found in client.search_runs([experiment], f"tags.{KEY} = '{key}'"):
        if found.info.status != "RUNNING":
            return False
        client.delete_run(found.info.run_id)
    tags = {**run["tags"], **known, KEY: key}
    made = client.create_run(experiment, start_time=start, tags=tags, run_name=run["name"]).info.run_id
    client.log_batch(made, params=[Param(name, value) for name, value in run["params"].items()])
    for first in range(0, len(metrics), BATCH):
        client.log_batch(made, metrics=[Metric(*metric) for metric in metrics[first : first + BATCH]])
    files = ARTIFACTS if not run["failed"] else FAILED_ARTIFACTS if run["started"] else ()
    for name in files:
        if (folder / name).exists():
            client.log_artifact(made, str(folder / name))
    client.set_terminated(made, "FAILED" if run["failed"] else "FINISHED", end_time=end)  # last: it is whole
    return True


def _of_failed(folder: Path, started: bool) -> tuple[int, int, list, dict[str, str]]:
    """Start and end in milliseconds, no metrics, no tags."""
    end = int(1000 * read_status(folder)["time"])
    spec = folder / "spec.json"  # written when the run was started
    return min(end, int(1000 * spec.stat().st_mtime)) if started and spec.exists() else end, end, [], {}


def _of_complete(folder: Path) -> tuple[int, int, list[tuple[str, float, int, int]], dict[str, str]]:
    """Start and end in milliseconds; (name, value, time, step) of each finite metric; tags.

    An epoch's time is the run's start and the seconds of the epochs so far; a test metric's step is the best epoch.
    """
    record = read_record(folder)
    end = int(1000 * datetime.fromisoformat(record.finished).timestamp())
    start = end - int(1000 * max(record.wall_seconds, record.train_seconds))  # a resumed run trained for longer
    history, metrics = pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "metrics.csv")
    best, costs = record.best_epoch, ("train_seconds", "wall_seconds", "peak_memory_mb")
    found = [
        (name, value, start + int(1000 * seconds), row["epoch"])
        for row, seconds in zip(history.to_dict("records"), history["seconds"].cumsum(), strict=True)
        for name, value in row.items()
        if name != "epoch"
    ]
    found += [
        (f"test/{row['finding']}/{name}", value, end, best)
        for row in metrics.to_dict("records")
        for name, value in row.items()
        if row["finding"] == MACRO or not name.startswith("n_")  # n_*: over how many findings
    ]
    found += [(f"cost/{name}", getattr(record, name), end, best) for name in costs]
    finite = [metric for metric in found if isinstance(metric[1], int | float) and math.isfinite(metric[1])]
    return start, end, finite, _tags(record)


def _tags(record: RunRecord) -> dict[str, str]:
    tags = {"git_commit": record.git.commit, "git_dirty": record.git.dirty}
    tags |= {"device": record.device.name or record.device.kind, "phantom": record.data.phantom}
    tags |= {"test_fingerprint": record.data.test_fingerprint}
    return {name: str(value) for name, value in tags.items() if value is not None}


if __name__ == "__main__":
    main()
