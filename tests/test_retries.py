"""What happens when a run fails or takes too long: it is tried again, it is ended, and the user's
command is told."""

import os
from pathlib import Path

import nbformat
import psutil
import pytest
from made_datasets import write_smallest_dataset
from rich.console import Console

from lib.exceptions import StudyError
from lib.runs.run import is_complete, note_failure, read_status, write_status
from lib.studies.durations import parse_duration
from lib.studies.execute import INTERRUPTED, execute_run, process_environment
from lib.studies.plan import plan_study
from lib.studies.runner import run_plan
from lib.studies.summary import Summary, tell_command

STARTS = (
    "from lib.config import Config\nfrom lib.runs import start_run\n"
    "run = start_run(Config.from_namespace(globals()))"
)
TOO_LONG = "import time\nwhile True: time.sleep(0.05)"


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """The plan of a study of two runs, `b` from `a`; nothing is checked."""
    monkeypatch.setattr("lib.studies.runner.check_runs", lambda file, runs: None)
    monkeypatch.setattr("lib.studies.runner.check_stages", lambda plan, runs, data: None)
    monkeypatch.setattr("lib.studies.scheduler.start_server", lambda environment: None)
    write_smallest_dataset(tmp_path / "dataset_full")
    (tmp_path / "n.ipynb").touch()
    notebook = f"notebook: {tmp_path}/n.ipynb"
    rows = [f"  a: {{{notebook}}}", f"  b: {{{notebook}, init_from: a, reference: true}}"]
    base = f"{{data_root: {tmp_path}}}"
    file = tmp_path / "study.yaml"
    file.write_text("\n".join(["study: tiny", "seeds: [0]", f"base: {base}", "runs:", *rows]))
    return plan_study(file, runs_dir=tmp_path / "runs")


@pytest.fixture
def fails(monkeypatch):
    """Replaces the execution of runs: gives a dictionary, run -> reasons with which it fails before
    it succeeds, and the list of runs that were started."""
    reasons: dict[str, list] = {}
    started: list[str] = []

    def execute(spec: dict) -> str | None:
        folder = Path(spec["folder"])
        started.append(folder.name)
        found = (folder / "last.ckpt").exists()
        (folder / "last.ckpt").touch()
        left = reasons.get(folder.name, [])
        if found != (started.count(folder.name) > 1):
            return "the checkpoint is not the one of the try before"
        reason = left.pop(0) if left else None
        if isinstance(reason, Exception):
            raise reason
        return reason

    monkeypatch.setattr("lib.studies.scheduler.execute_run", execute)
    return reasons, started


def run(plan, **options) -> tuple[Summary, str]:
    console = Console(force_terminal=False, record=True, width=200)
    return run_plan(plan, console=console, **options), console.export_text()


# --- tries


def test_a_failed_run_is_tried_again_in_its_folder_and_what_needs_it_waits(plan, fails):
    reasons, started = fails
    reasons["a-s0"] = ["kernel killed", OSError("worker lost")]
    summary, text = run(plan, retries=2, jobs=2)
    assert started == ["a-s0"] * 3 + ["b-s0"] and summary.exit_code == 0
    assert summary.text().endswith("tried again: a-s0 (3 tries)")
    assert "a-s0: tried again after" in text and "kernel killed" in text


def test_the_reasons_of_all_tries_are_kept_and_told(plan, fails):
    fails[0]["a-s0"] = ["first\nsee log", "second", "third"]
    summary, _ = run(plan, retries=2)
    told = "third\nwhat failed before:\ntry 1: first\nsee log\ntry 2: second"
    folder = plan.runs["a-s0"].folder
    assert summary.failed == {"a-s0": told, "b-s0": "needs a-s0, which failed"}
    assert read_status(folder)["reason"] == told
    log = (folder / "failures.log").read_text()
    assert "try 1: first\nsee log\n" in log and "try 2: second\n" in log


def test_without_retries_a_run_is_tried_once(plan, fails):
    fails[0]["a-s0"] = ["first"]
    summary, _ = run(plan)
    assert summary.failed["a-s0"] == "first" and fails[1] == ["a-s0"] and not summary.repeated


def test_an_interrupted_run_is_not_tried_again(plan, fails):
    fails[0]["a-s0"] = [INTERRUPTED]
    summary, _ = run(plan, retries=5)
    assert fails[1] == ["a-s0"] and summary.failed["a-s0"] == INTERRUPTED


def test_a_failed_run_keeps_how_far_it_came_and_where(tmp_path):
    write_status(tmp_path, "running", epoch=2, epochs=5, host="here", devices=["1"], pid=3)
    note_failure(tmp_path, "kernel killed")
    status = read_status(tmp_path)
    assert (status["state"], status["reason"]) == ("failed", "kernel killed")
    assert (status["epoch"], status["host"], status["devices"]) == (2, "here", ["1"])
    assert "pid" not in status


# --- too long


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("1d", 86400)],
)
def test_times_have_units(text, seconds):
    assert parse_duration(text, "--time-limit") == seconds


@pytest.mark.parametrize("text", ["90", "", "2 h", "h", "0m", "2x", "-2h", "2h later"])
def test_other_times_are_refused(text):
    with pytest.raises(StudyError, match=f"^--time-limit {text}: write a number and a unit"):
        parse_duration(text, "--time-limit")


@pytest.mark.timeout(900)
def test_a_run_that_takes_too_long_is_ended_and_says_how_to_go_on(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("run_dir = ''", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(STARTS + "\n" + TOO_LONG),
        ]
    )
    nbformat.write(notebook, tmp_path / "n.ipynb")
    folder = tmp_path / "run"
    spec = {"notebook": str(tmp_path / "n.ipynb"), "folder": str(folder), "lineage": ""}
    spec |= {"parameters": {"run_dir": str(folder)}, "environment": process_environment(1)}
    reason = execute_run({**spec, "stop": str(tmp_path / "stop"), "time_limit": 60.0})
    assert reason == "ran longer than 60 s; the same command continues it"
    status = read_status(folder)
    assert status["state"] == "failed" and status["reason"] == reason
    assert not any(works_in(folder, process) for process in psutil.process_iter())
    assert not is_complete(folder)


def works_in(folder: Path, process: psutil.Process) -> bool:
    try:
        files = [file.path for file in process.open_files()]
    except psutil.Error:
        return False
    return process.pid != os.getpid() and str(folder / "papermill.log") in files


# --- the end


def test_the_users_command_finds_how_the_study_ended(tmp_path):
    summary = Summary(["a"], ["b", "c"], {"d-s0": "killed", "e-s0": "no\nmemory"})
    names = ("STUDY", "DONE", "FAILED", "SKIPPED", "EXIT_CODE", "FAILED_RUNS")
    words = " ".join(f'"$CXR_{name}"' for name in names)
    assert tell_command(f"printf '%s|' {words} > {tmp_path}/told", "demo", summary) is None
    assert (tmp_path / "told").read_text() == "demo|2|2|1|1|d-s0 e-s0|"


def test_a_command_that_fails_is_told():
    assert tell_command("exit 3", "demo", Summary()) == "--on-end: 'exit 3' ended with exit code 3"
