"""In: the runs of a study as they end. Out: each of them handed to MLflow, which may be slow, hang or be away.

The runner neither imports MLflow nor waits for it: a thread gives the runs that ended to a process of its own, see
`lib.track_mlflow`, which ends itself when one run takes longer than LIMIT_SECONDS. What could not be logged is tried
again when the next run ends, and when the study is run again.
"""

import contextlib
import importlib.util
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console

from lib.config import REPO_ROOT
from lib.exceptions import CxrError
from lib.execute import INTERRUPTED
from lib.plan import PlannedRun
from lib.track_mlflow import is_database, problem

DEFAULT_URI = f"sqlite:///{REPO_ROOT / 'runs' / 'mlflow.db'}"
LIMIT_SECONDS = 60
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Of the process that logs; the user's own values win."""

OnEnd = Callable[[PlannedRun, str | None], None]
Queue = queue.SimpleQueue[dict[str, Any] | None]


@contextlib.contextmanager
def tracking(study: str, tracker: str | None, uri: str | None, console: Console) -> Iterator[OnEnd | None]:
    """What the runner calls with each run that ended and the reason of its failure; None without a `tracker`.

    `uri` is a tracking server or a store: by default MLFLOW_TRACKING_URI, else `runs/mlflow.db`. Interrupted runs are
    left out: they go on later. Leaving the block waits until everything is logged or given up. Raises CxrError
    when MLflow is not installed, ValueError for a `uri` without a tracker; every other failure is told on `console`.
    """
    if tracker is None:
        if uri:
            raise CxrError(f"--tracking-uri says where to log, but nothing is logged to {shown(uri)}: add --track")
        yield None
        return
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    _check_installed(uri)
    failed: set[str] = set()
    ended: Queue = queue.SimpleQueue()

    def on_end(run: PlannedRun, reason: str | None) -> None:
        if reason != INTERRUPTED:
            started = failed.isdisjoint(run.needs)
            failed.update([] if reason is None else [run.name])
            ended.put(describe(run, reason, started=started))

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    worker = threading.Thread(target=_log_what_ends, args=(uri, study, ended, say), name="track", daemon=True)
    worker.start()
    try:
        yield on_end
    finally:
        ended.put(None)
        worker.join()


def _check_installed(uri: str) -> None:
    needed = ["mlflow", *(["sqlalchemy", "alembic"] if is_database(uri) else [])]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise CxrError(
            f"--track mlflow needs {', '.join(missing)}, so nothing was started. Install the extra `track`, in "
            f"{REPO_ROOT}: {sys.executable} -m pip install -c constraints.txt -e '.[track]'"
        )


def describe(run: PlannedRun, reason: str | None, *, started: bool = True) -> dict[str, Any]:
    """What is logged of a run that its folder does not tell, as JSON values; `started`: it was executed this time."""
    config = run.config.model_dump(mode="json")
    params = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in config.items()}
    tags = {"arm": run.arm, "seed": run.seed, "config_hash": run.config.hash(), "reference": run.reference}
    tags |= {"prerequisite": run.prerequisite, "changes": run.changes, "what": run.what, "reason": reason}
    tags |= {"mlflow.source.name": run.notebook, "mlflow.source.type": "NOTEBOOK", "mlflow.note.content": run.about}
    tags = {name: str(value) for name, value in tags.items() if value is not None}
    told = {"name": run.name, "folder": str(run.folder.resolve()), "failed": reason is not None, "started": started}
    return {**told, "params": params, "tags": tags}


def _log_what_ends(uri: str, study: str, ended: Queue, say: Callable[[str], None]) -> None:
    """Tries the store, then logs runs as they end, together with those that are left over, until None comes."""
    where = f"MLflow at {shown(uri)}"
    left: dict[str, dict[str, Any]] = {}
    counts, said, ending = {True: 0, False: 0}, set(), False  # counts: newly logged, there before
    while True:
        for answer in log_apart({"uri": uri, "study": study, "runs": list(left.values()), "limit": LIMIT_SECONDS}):
            if "new" in answer:
                del left[answer["run"]]
                counts[answer["new"]] += 1
            elif answer["problem"] not in said:
                said.add(answer["problem"])
                what = f"{answer['run']} is not logged" if "run" in answer else "nothing can be logged"
                say(f"{where}: {what}: {shown(answer['problem'])}; the study goes on")
        fresh, ending = _take(ended) if not ending else ([], True)
        left |= {run["name"]: run for run in fresh}
        if not fresh:
            break
    missing = f", {len(left)} missing (the same command logs those that are complete)" if left else ""
    say(f"{where}, experiment {study}: {counts[True]} runs logged, {counts[False]} were there before{missing}")


def _take(ended: Queue) -> tuple[list[dict[str, Any]], bool]:
    """Waits for the next run, takes those behind it along, and tells whether it was the end."""
    batch = [ended.get()]
    while not ended.empty():
        batch.append(ended.get())
    return [run for run in batch if run], None in batch


def shown(text: str) -> str:
    """`text` without the user and password in an address."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def log_apart(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of `track_mlflow.log_runs` from a process of its own; the last is a problem if that ended badly.

    job: uri, study, runs (see `describe`), and the limit, in seconds, for each of them.
    """
    paths = [str(REPO_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**ENVIRONMENT, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        process = subprocess.run(
            [sys.executable, "-m", "lib.track_mlflow"], input=json.dumps(job), capture_output=True, text=True,
            check=False, env=environment, cwd=REPO_ROOT, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return [problem(error)]
    answers = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    if process.returncode == -signal.SIGALRM:
        answers.append({"problem": f"no answer within {job['limit']} seconds"})
    elif process.returncode:
        last_line = (process.stderr.strip().splitlines() or ["without a word"])[-1]
        answers.append({"problem": f"the process that logs ended with exit code {process.returncode}: {last_line}"})
    return answers
