"""Tracking: what MLflow holds of a run, once, whichever server or store, and that no study waits or
fails for it."""

import contextlib
import functools
import importlib.util
import itertools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pandas as pd
import pytest
import yaml
from made_datasets import write_smallest_dataset
from made_records import PARTS
from processes import free_port
from rich.console import Console
from typer.testing import CliRunner

from lib.cli import app
from lib.config import FINDINGS, REPO_ROOT, Config
from lib.exceptions import CxrError
from lib.files import read_json, write_json
from lib.runs.run import finish_run, start_run
from lib.studies.execute import INTERRUPTED
from lib.studies.plan import Plan, PlannedRun, plan_study
from lib.studies.runner import run_plan
from lib.studies.tracking import (
    ARTIFACTS,
    ENVIRONMENT,
    Tracker,
    shown,
    track_as_they_end,
    track_study,
)

PACKAGES = ("mlflow", "sqlalchemy", "alembic", "flask", "flask_cors")
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "train_loss": [0.5, 0.25, 0.2],
        "val_auroc": [0.6, 0.7, None],
        "seconds": [150, 250, 400],
    }
)
METRICS = pd.DataFrame(
    {
        "finding": ["Mass", "macro"],
        "auroc": [0.8, 0.75],
        "f1": [None, 0.5],
        "threshold_from": ["validation", None],
        "n_auroc": [1, 2],
    }
)
STUDIES = (f"study{number}" for number in itertools.count())


# --- a real server, and studies whose runs are complete without a training


@dataclass
class Server:
    """`mlflow server` on a port of its own, with an SQLite store and its artifacts in a folder."""

    folder: Path
    port: int
    process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        store += ["--artifacts-destination", str(self.folder / "artifacts")]
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            *store,
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        environment = {**os.environ, **ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--workers", "1"],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        until = time.monotonic() + 240
        while not self.healthy():
            assert self.process.poll() is None and time.monotonic() < until, (
                self.folder / "log"
            ).read_text()[-2000:]
            time.sleep(0.1)

    def healthy(self) -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{self.uri}/health", timeout=10) as answer,
        ):
            return answer.status == 200
        return False

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # a test killed it
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def mlflow():
    """The packages are there, and MLflow, in this process, keeps quiet; a busy machine has time."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        pytest.skip(
            f"{', '.join(missing)} not installed: the extra `track`, and flask for the server"
        )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def one_server(mlflow, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"), free_port())
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(one_server):
    """The server, alive also after a test that killed it."""
    if one_server.process.poll() is not None:
        one_server.start()
    return one_server


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A function that plans a study of the runs `good-s0` (the reference) and `other-s0`; nothing
    is executed."""
    monkeypatch.setattr(
        "lib.studies.runner.check_runs", lambda file, runs: None
    )  # tests/test_preflight.py has it
    (tmp_path / "n.ipynb").touch()
    write_smallest_dataset(tmp_path / "dataset_full")

    def plan() -> Plan:
        rows = {
            "good": {
                "notebook": str(tmp_path / "n.ipynb"),
                "reference": True,
                "about": "what is usual",
            },
            "other": {"changes": "good", "set": {"backbone": "resnet50"}},
        }
        base = {"data_root": str(tmp_path), "findings": ["Mass", "Hernia"]}
        file = tmp_path / "study.yaml"
        file.write_text(
            yaml.safe_dump({"study": next(STUDIES), "seeds": [0], "base": base, "runs": rows})
        )
        return plan_study(file, runs_dir=tmp_path / "runs")

    return plan


@pytest.fixture
def executed(monkeypatch):
    """Makes runs complete as soon as they are started; gives the list of their names."""
    names = []

    def execute(spec: dict) -> None:
        names.append(Path(spec["folder"]).name)
        complete(Config(**spec["parameters"]))

    monkeypatch.setattr("lib.studies.scheduler.execute_run", execute)
    return names


def complete(config: Config) -> Path:
    run = start_run(config)
    for name in ("notebook.ipynb", "card.json", "model.safetensors", "predictions.parquet"):
        (run.folder / name).write_text(name)
    finish_run(run, history=HISTORY, metrics=METRICS, **PARTS)
    return run.folder


def one_run(study) -> tuple[Plan, PlannedRun]:
    """A study, of whose runs `good-s0` is complete and in the plan."""
    plan = study()
    run = plan.runs["good-s0"]
    complete(run.config)
    write_json(plan.folder / "plan.json", plan.as_json())
    return plan, run


def log(server: Server, plan: Plan) -> list[str]:
    said = []
    track_study(plan.folder, server.uri, said.append)
    return said


def run(plan: Plan, uri: str) -> tuple[int, list[str]]:
    said = []
    on_end = track_as_they_end(plan.study, uri, plan.entry, said.append)
    console = Console(force_terminal=False, record=True, width=300)
    return run_plan(plan, console=console, on_end=on_end).exit_code, said


# --- what a server answers, asked without MLflow's client


def ask(server: Server, what: str, body: dict | None = None, **query: str) -> dict:
    url = f"{server.uri}/api/2.0/mlflow/{what}?{urlencode(query)}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def runs_of(server: Server, study: str) -> list[dict]:
    try:
        experiment = ask(server, "experiments/get-by-name", experiment_name=study)["experiment"]
    except urllib.error.HTTPError:
        return []
    return ask(server, "runs/search", {"experiment_ids": [experiment["experiment_id"]]}).get(
        "runs", []
    )


def pairs(items: list[dict]) -> dict:
    return {item["key"]: item["value"] for item in items}


def files_of(server: Server, run_id: str) -> set[str]:
    return {file["path"] for file in ask(server, "artifacts/list", run_id=run_id).get("files", [])}


# --- what is logged of a run


def test_a_run_is_logged_with_its_parameters_tags_and_times(server, study):
    plan, planned = one_run(study)
    name = plan.study
    assert "1 runs logged, 0 were there before, 1 are not complete" in log(server, plan)[0]
    (found,) = runs_of(server, name)
    record = read_json(planned.folder / "record.json")
    info, tags, params = found["info"], pairs(found["data"]["tags"]), pairs(found["data"]["params"])
    assert info["run_name"] == "good-s0" and info["status"] == "FINISHED"
    assert pd.Timestamp(info["end_time"], unit="ms", tz="UTC") == pd.Timestamp(record["finished"])
    assert (
        info["end_time"] - info["start_time"] == 800_000
    )  # longer in training than in this process: it was resumed
    assert set(params) == set(Config.model_fields)
    assert (
        params["findings"] == "Mass,Hernia"
        and params["init_from"] == "None"
        and params["lr"] == "0.0005"
    )
    told = {
        "arm": "good",
        "seed": "0",
        "config_hash": planned.config.hash(),
        "reference": "True",
        "phantom": "True",
    }
    told |= {"prerequisite": "False", "device": "A processor", "test_fingerprint": "f00"}
    told |= {"mlflow.note.content": "what is usual", "mlflow.source.name": planned.notebook}
    assert told.items() <= tags.items() and "reason" not in tags
    assert tags.get("git_commit") == record["git"]["commit"]


def test_every_epoch_is_logged_with_its_step_and_time(server, study):
    plan, _ = one_run(study)
    name = plan.study
    log(server, plan)
    (found,) = runs_of(server, name)
    history = ask(
        server, "metrics/get-history", run_id=found["info"]["run_id"], metric_key="train_loss"
    )["metrics"]
    start = found["info"]["start_time"]
    assert [(point["step"], point["value"], point["timestamp"] - start) for point in history] == [
        (1, 0.5, 150_000),
        (2, 0.25, 400_000),
        (3, 0.2, 800_000),
    ]


def test_metrics_that_are_not_finite_numbers_are_left_out(server, study):
    plan, _ = one_run(study)
    name = plan.study
    log(server, plan)
    (found,) = runs_of(server, name)
    metrics = {
        metric["key"]: (metric["value"], metric["step"]) for metric in found["data"]["metrics"]
    }
    assert metrics["val_auroc"] == (0.7, 2)
    tested = {key: value for key, value in metrics.items() if key.startswith("test/")}
    assert tested == {
        "test/Mass/auroc": (0.8, 2),
        "test/macro/auroc": (0.75, 2),
        "test/macro/f1": (0.5, 2),
        "test/macro/n_auroc": (2, 2),
    }
    assert metrics["cost/train_seconds"] == (800, 2)


def test_more_metrics_than_mlflow_takes_at_once_are_logged(server, study, monkeypatch):
    plan, planned = one_run(study)
    name = plan.study
    many = pd.DataFrame({"epoch": range(600), "train_loss": 0.5, "val_auroc": 0.5, "seconds": 0.1})
    many.to_csv(planned.folder / "history.csv", index=False)
    log(server, plan)
    (found,) = runs_of(server, name)
    query = {"run_id": found["info"]["run_id"], "metric_key": "val_auroc", "max_results": "1000"}
    assert len(ask(server, "metrics/get-history", **query)["metrics"]) == 600


def test_the_name_of_every_finding_is_accepted_in_a_metric(server, study):
    plan, planned = one_run(study)
    name = plan.study
    pd.DataFrame({"finding": FINDINGS, "auroc": 0.5}).to_csv(
        planned.folder / "metrics.csv", index=False
    )
    log(server, plan)
    (found,) = runs_of(server, name)
    assert {f"test/{finding}/auroc" for finding in FINDINGS} <= set(pairs(found["data"]["metrics"]))


def test_the_small_files_are_logged_and_neither_weights_nor_predictions(server, study):
    plan, planned = one_run(study)
    name = plan.study
    log(server, plan)
    (found,) = runs_of(server, name)
    assert files_of(server, found["info"]["run_id"]) == set(ARTIFACTS)
    kept = list(
        (server.folder / "artifacts").rglob(f"{found['info']['run_id']}/artifacts/record.json")
    )
    assert kept[0].read_bytes() == (planned.folder / "record.json").read_bytes()


# --- once


def test_a_run_is_logged_once_and_again_when_it_was_made_anew(server, study):
    plan, planned = one_run(study)
    log(server, plan)
    assert "0 runs logged, 1 were there before" in log(server, plan)[0]
    record = read_json(planned.folder / "record.json")
    write_json(planned.folder / "record.json", {**record, "finished": "2031-01-01T00:00:00+00:00"})
    assert "1 runs logged, 0 were there before" in log(server, plan)[0]
    assert len(runs_of(server, plan.study)) == 2


def test_what_a_broken_attempt_left_is_replaced_by_the_whole(server, study, monkeypatch):
    from mlflow import MlflowClient

    def broken(*words):
        raise OSError("disk is full")

    plan, _ = one_run(study)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", broken)
        with pytest.raises(CxrError, match="did not log good-s0: OSError: disk is full"):
            log(server, plan)
    assert [found["info"]["status"] for found in runs_of(server, plan.study)] == ["RUNNING"]
    log(server, plan)
    (found,) = runs_of(server, plan.study)
    assert found["info"]["status"] == "FINISHED" and files_of(
        server, found["info"]["run_id"]
    ) == set(ARTIFACTS)


# --- `cxr run --track` and `cxr track`


def cxr(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def command(study, tmp_path, monkeypatch, executed):
    """A planned study for `cxr run`: gives its plan and its file."""
    plan = study()
    monkeypatch.setattr(
        "lib.studies.plan_study", functools.partial(plan_study, runs_dir=tmp_path / "runs")
    )
    monkeypatch.setattr(
        "lib.studies.tracking.DEFAULT_URI", f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return plan, plan.file


def test_the_default_store_is_a_file_with_the_artifacts_beside_it(
    mlflow, command, tmp_path, executed
):
    plan, file = command
    complete(plan.runs["good-s0"].config)  # before it was tracked
    code, _ = cxr("run", file, "--track")
    assert code == 0 and executed == ["other-s0"]
    with contextlib.closing(sqlite3.connect(tmp_path / "runs" / "mlflow.db")) as database:
        rows = database.execute("SELECT name, status, run_uuid FROM runs ORDER BY name").fetchall()
    assert [row[:2] for row in rows] == [("good-s0", "FINISHED"), ("other-s0", "FINISHED")]
    for _, _, run_id in rows:
        folder = tmp_path / "runs" / "mlartifacts" / plan.study / run_id / "artifacts"
        assert {path.name for path in folder.iterdir()} == set(ARTIFACTS)
    code, text = cxr("track", plan.folder)
    assert code == 0 and "0 runs logged, 2 were there before, 0 are not complete" in text


def test_nothing_is_tracked_unless_it_is_asked_for(command, tmp_path):
    assert cxr("run", command[1])[0] == 0
    assert not (tmp_path / "runs" / "mlflow.db").exists()


@pytest.mark.parametrize("missing", ["mlflow", "sqlalchemy"])
def test_without_the_package_nothing_is_started_and_the_extra_is_named(
    command, executed, monkeypatch, missing
):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == missing else object()
    )
    code, text = cxr("run", command[1], "--track")
    assert code == 1 and executed == [] and "Traceback" not in text
    assert f"tracking needs {missing}, so nothing was started" in text and "-e '.[track]'" in text


def test_a_tracking_uri_alone_is_refused(command, executed):
    code, text = cxr("run", command[1], "--tracking-uri", "http://me:secret@host:5000")
    assert code == 1 and executed == [] and "add --track" in text and "secret" not in text


def test_the_address_of_the_environment_is_used(mlflow, monkeypatch, server):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert Tracker("elsewhere").uri == server.uri


# --- trouble


def test_an_address_without_a_server_is_reported_once_and_the_runs_go_on(mlflow, study, executed):
    plan = study()
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        code, said = run(plan, f"http://me:secret@127.0.0.1:{deaf.getsockname()[1]}")
    assert code == 0 and executed == ["good-s0", "other-s0"]
    assert len(said) == 1 and "cannot be used" in said[0] and "secret" not in said[0]
    assert f"`cxr track {plan.study}` logs its runs later" in said[0]


def test_a_server_that_fails_in_the_middle_is_reported_once_and_the_study_goes_on(
    server, study, executed, monkeypatch
):
    tried = []

    def failing(self, folder, planned):
        tried.append(folder.name)
        raise CxrError("away")

    monkeypatch.setattr(Tracker, "log", failing)
    plan = study()
    code, said = run(plan, server.uri)
    assert code == 0 and executed == ["good-s0", "other-s0"]
    assert tried == ["good-s0"] and len(said) == 1 and said[0].startswith("away; the study goes on")


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("localhost:5000", "unsupported URI 'localhost:5000'"),
        ("sqlite:///{folder}/text.db", "DatabaseError: file is not a database"),
        ("sqlite:///{folder}/text.db/mlflow.db", "FileExistsError"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_sentence(mlflow, tmp_path, uri, text):
    (tmp_path / "text.db").write_text("this is text, and not a database" * 10)
    with pytest.raises(CxrError) as error:
        Tracker("study", uri.format(folder=tmp_path))
    assert text in str(error.value) and "\n" not in str(error.value)


def test_a_run_that_is_interrupted_or_fails_is_not_logged(server, study):
    plan = study()
    on_end = track_as_they_end(plan.study, server.uri, plan.entry, print)
    for one, reason in zip(plan.runs.values(), (INTERRUPTED, "kernel killed"), strict=True):
        on_end(one, reason)
    assert runs_of(server, plan.study) == []


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("http://me:secret@host:5000/a", "http://host:5000/a"),
        ("postgresql://me:secret@host/db", "postgresql://host/db"),
        ("sqlite:////folder/mlflow.db", "sqlite:////folder/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_user_and_password(text, safe):
    assert shown(text) == safe


def test_the_runner_and_the_command_load_no_mlflow():
    code = "import sys, lib.studies.runner, lib.cli, lib.studies.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT).returncode == 0


def test_who_runs_the_tests_has_what_tracking_needs():
    extras = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(extras["track"]) <= set(extras["dev"])
