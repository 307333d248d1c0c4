"""The runner: notebooks in processes of their own, resumed, killed, interrupted, failing, several
at a time."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from made_datasets import write_smallest_dataset
from made_records import PARTS, full_record
from rich.console import Console

from lib.config import REPO_ROOT
from lib.datasets.prepare import data_fingerprint
from lib.exceptions import CxrError, StudyError
from lib.files import read_json, sha256, write_json
from lib.runs.run import is_complete, read_status
from lib.runs.study import read_plan
from lib.studies.durations import clock
from lib.studies.execute import process_environment, remove_stale
from lib.studies.plan import Plan, plan_study
from lib.studies.runner import run_plan
from lib.studies.states import planned_states
from lib.studies.status import state_text, status_table
from lib.studies.summary import Summary

pytestmark = pytest.mark.timeout(900)  # on a machine that may be busy

PARAMETERS = "run_dir = 'x'\nseed = 9\ndata_root = '.'\nfreeze = 'none'\ninit_from = None"
START = (
    "from lib.config import Config\nfrom lib.runs.run import start_run\n"
    "run = start_run(Config.from_namespace(globals()))"
)
FINISH = (
    "import pandas as pd\nfrom lib.runs.run import finish_run\n"
    "history = pd.DataFrame({'epoch': [1], 'seconds': [0.1], 'val_auroc': [0.5]})\n"
    "[(run.folder / name).touch() for name in ('model.safetensors', 'card.json')]\n"
    f"finish_run(run, history=history, metrics=pd.DataFrame({{'finding': ['macro']}}), **{PARTS!r})"
)
WAIT = (
    "import pathlib, time\nwhile not pathlib.Path(data_root, 'go').exists():\n    time.sleep(0.05)"
)
CELLS = {
    "good": [START, FINISH],
    "raises": ["1 + 1", "raise ValueError('no such\\nthing')"],
    "killed": [START, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", FINISH],
    "silent": ["1 + 1"],
    "waits": [START, WAIT, FINISH],
    "tells": [
        "import json, os, sys\nprint(json.dumps([sys.executable, os.getcwd(), os.environ['OMP_NUM_THREADS'], seed]))"
    ],
}
RUNNER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from lib.studies.plan import plan_study
from lib.studies.runner import run_plan
plan = plan_study(Path(sys.argv[1]), runs_dir=Path(sys.argv[2]))
summary = run_plan(plan, jobs=2)
print(summary.text())
sys.exit(summary.exit_code)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Writes tiny notebooks, a dataset by name, and a study of them; gives a function: rows ->
    plan."""
    monkeypatch.setattr(
        "lib.studies.runner.check_runs", lambda file, runs: None
    )  # tests/test_preflight.py has it
    monkeypatch.setattr(
        "lib.studies.runner.check_stages", lambda plan, runs, data: None
    )  # tests/test_stages.py has it
    write_smallest_dataset(tmp_path / "dataset_full")
    for name, cells in CELLS.items():
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
        notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")

    def plan(*settings: str, **rows: dict) -> Plan:
        rows = {
            name: {**row, "notebook": str(tmp_path / row["notebook"])} for name, row in rows.items()
        }
        base = {"data_root": str(tmp_path)}
        file = tmp_path / "study.yaml"
        file.write_text(
            yaml.safe_dump(
                {"study": "tiny", "seeds": [0], "base": base, "runs": rows}, sort_keys=False
            )
        )
        return plan_study(file, settings, runs_dir=tmp_path / "runs")

    return plan


def run(plan: Plan, **options) -> tuple[Summary, str]:
    console = Console(force_terminal=False, record=True, width=200)
    summary = run_plan(plan, console=console, **options)
    return summary, console.export_text()


def state(plan: Plan, name: str) -> str:
    return planned_states(plan, [plan.runs[name]])[name].name


def row(notebook: str, **fields) -> dict:
    return {"notebook": f"{notebook}.ipynb", **fields}


@pytest.fixture
def start_runner(tmp_path, popen):
    """Starts a runner of the study that was planned, in a process of its own."""
    command = [sys.executable, "-c", RUNNER, str(tmp_path / "study.yaml"), str(tmp_path / "runs")]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return lambda: popen(command, cwd=REPO_ROOT, **options)


def wait_for(fact, seconds: float = 240.0) -> None:
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def ours(tmp_path: Path) -> list[psutil.Process]:
    """Processes that execute runs below `tmp_path`: drivers and kernels, whose output goes to a log
    there."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            logs = [
                file.path for file in process.open_files() if file.path.endswith("papermill.log")
            ]
            if any(str(tmp_path) in log for log in logs) and process.pid != os.getpid():
                found.append(process)
    return found


TWO = {"good": row("good", reference=True), "slow": row("waits", set={"freeze": "backbone"})}


# --- what a run leaves


@pytest.mark.parametrize("fork", ["0", "1"])
def test_a_run_executes_in_this_interpreter_from_the_repository_with_its_parameters(
    study, fork, monkeypatch
):
    monkeypatch.setenv("CXR_FORK", fork)
    plan = study(tells=row("tells", reference=True))
    run(plan, jobs=1)
    notebook = nbformat.read(plan.runs["tells-s0"].folder / "notebook.ipynb", 4)
    told = json.loads(notebook.cells[-1].outputs[0].text)
    assert told == [sys.executable, str(REPO_ROOT), process_environment(1)["OMP_NUM_THREADS"], 0]


def test_failures_are_told_with_their_reasons_and_stop_nothing_else(study):
    plan = study(
        raises=row("raises", reference=True),
        killed=row("killed", set={"lr": 0.1}),
        silent=row("silent", set={"lr": 0.2}),
        needy=row("good", init_from="raises", set={"dropout": 0.25}),
        good=row("good", set={"lr": 0.4}),
    )
    summary, text = run(plan, jobs=2)
    assert summary.exit_code == 1 and summary.done == ["good-s0"]
    reasons = summary.failed
    notebook = plan.runs["raises-s0"].folder / "notebook.ipynb"
    assert reasons["raises-s0"] == f"cell 4: ValueError: no such\nthing\nsee {notebook}"
    assert reasons["killed-s0"].startswith(
        "kernel killed by signal 9 (SIGKILL); often that is out of memory"
    )
    assert reasons["silent-s0"].startswith("finished without a record")
    assert reasons["needy-s0"] == "needs raises-s0, which failed"
    assert not (plan.runs["needy-s0"].folder / "spec.json").exists()
    assert all(
        read_status(plan.runs[name].folder)["reason"] == reason for name, reason in reasons.items()
    )
    assert "good-s0: done" in text and "killed-s0: failed" in text
    executed = plan.runs["raises-s0"].folder / "notebook.ipynb"
    assert (
        "ValueError" in executed.read_text()
        and not executed.with_name("notebook.running.ipynb").exists()
    )
    assert "no such" in (executed.parent / "papermill.log").read_text()


def test_a_chain_runs_in_order_and_the_plan_is_written(study):
    plan = study(
        first=row("good", set={"ema": 0.1}), arm=row("good", init_from="first", reference=True)
    )
    summary, _ = run(plan, jobs=2)
    assert summary.done == ["first-s0", "arm-s0"] and summary.exit_code == 0
    assert read_plan(plan.folder) == json.loads(json.dumps(plan.as_json()))
    record = read_json(plan.runs["arm-s0"].folder / "record.json")
    assert record["config"]["init_from"] == str(plan.runs["first-s0"].folder)
    assert record["config_hash"] == plan.runs["arm-s0"].config.hash()


def test_two_jobs_run_at_the_same_time(study, tmp_path):
    both = "import pathlib, time\n(pathlib.Path(data_root) / freeze).touch()\n" + WAIT.replace(
        "'go'", "'none'"
    )
    notebook = nbformat.read(tmp_path / "waits.ipynb", 4)
    notebook.cells[2].source = both + "\n" + WAIT.replace("'go'", "'backbone'")
    nbformat.write(notebook, tmp_path / "waits.ipynb")
    plan = study(one=row("waits", reference=True), other=row("waits", set={"freeze": "backbone"}))
    assert run(plan, jobs=2)[0].exit_code == 0


# --- again


@pytest.fixture
def complete(study):
    """A study of two runs, the second from the first, that look complete without having been
    executed."""

    def plan(**first) -> Plan:
        made = study(
            first=row("good", set={"lr": 0.1, **first}),
            arm=row("good", init_from="first", reference=True),
        )
        for one in [] if first else made.runs.values():
            write_json(one.folder / "spec.json", {"lineage": one.lineage})
            write_json(one.folder / "config.json", one.config.model_dump(mode="json"))
            made_of = {
                "config": one.config.model_dump(mode="json"),
                "config_hash": one.config.hash(),
            }
            write_json(one.folder / "record.json", full_record(run=one.name, **made_of))
            for name in ("model.safetensors", "card.json"):
                (one.folder / name).touch()
        return made

    return plan


@pytest.fixture
def nothing_executed(monkeypatch):
    started = []
    monkeypatch.setattr(
        "lib.studies.scheduler.execute_run", lambda spec: started.append(Path(spec["folder"]).name)
    )
    return started


def test_nothing_is_started_when_everything_is_complete(complete, nothing_executed):
    summary, _ = run(complete())
    assert nothing_executed == [] and summary.exit_code == 0
    assert summary.text() == "everything is complete (2 runs); nothing to do"


def test_a_complete_run_whose_prerequisite_changed_is_set_aside_with_it(complete, nothing_executed):
    complete()
    summary, text = run(complete(epochs=7), replace=True)
    assert nothing_executed == ["first-s0", "arm-s0"] == summary.done
    assert text.count("the old run is kept in") == 2


def test_a_prerequisite_that_was_run_alone_does_not_hide_that_it_changed(
    complete, nothing_executed
):
    complete()
    run(complete(epochs=7), only=["first"], replace=True)
    assert state(complete(epochs=7), "arm-s0") == "changed"


def test_a_broken_run_is_continued_in_its_folder(complete, nothing_executed):
    plan = complete()
    folder = plan.runs["arm-s0"].folder
    (folder / "record.json").unlink()
    (folder / "last.ckpt").touch()
    assert state(plan, "arm-s0") == "broken"
    run(plan)
    assert nothing_executed == ["arm-s0"] and (folder / "last.ckpt").exists()


def test_a_config_of_another_version_is_set_aside(complete):
    plan = complete()
    folder = plan.runs["arm-s0"].folder
    (folder / "record.json").unlink()
    write_json(folder / "config.json", {"gone": 1})
    assert state(plan, "arm-s0") == "changed"


def test_only_brings_what_is_needed(study, nothing_executed):
    rows = {"first": row("good", set={"lr": 0.1}), "other": row("good")}
    plan = study(**rows, arm=row("good", init_from="first", set={"lr": 0.2}, reference=True))
    run(plan, only=["arm-s0"])
    assert nothing_executed[-1] == "arm-s0" and len(nothing_executed) == 2
    assert "other-s0" not in nothing_executed


def test_only_of_an_unknown_run_is_refused(study):
    with pytest.raises(StudyError, match="--only names unknown runs: none"):
        run_plan(study(good=row("good", reference=True)), only=["none"])


def test_an_error_of_the_executor_fails_the_run_with_its_reason(study, monkeypatch):
    def broken(spec):
        raise OSError("disk is full")

    monkeypatch.setattr("lib.studies.scheduler.execute_run", broken)
    summary, _ = run(study(good=row("good", reference=True)))
    assert summary.failed == {"good-s0": "could not be executed: OSError: disk is full"}


# --- death


def test_a_killed_runner_takes_its_runs_along_and_the_next_one_finishes(
    study, tmp_path, start_runner
):
    plan = study(**TWO)
    runner = start_runner()
    waiting = plan.runs["slow-s0"].folder
    wait_for(
        lambda: (
            is_complete(plan.runs["good-s0"].folder) and read_status(waiting)["state"] == "running"
        )
    )
    wait_for(lambda: (waiting / "config.json").exists())
    processes = ours(tmp_path)
    runner.kill()
    runner.wait()
    assert len(processes) >= 2
    assert psutil.wait_procs(processes, timeout=60)[1] == []
    assert not is_complete(waiting)
    (tmp_path / "go").touch()
    summary, _ = run(plan)
    assert summary.skipped == ["good-s0"] and summary.done == ["slow-s0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_runner_ends_its_runs_and_says_how_to_go_on(
    study, tmp_path, start_runner, number
):
    plan = study(slow=row("waits", reference=True))
    runner = start_runner()
    folder = plan.runs["slow-s0"].folder
    wait_for(lambda: (folder / "config.json").exists())
    processes = ours(tmp_path)
    runner.send_signal(number)
    said, _ = runner.communicate(timeout=120)
    assert runner.returncode == 130
    assert "the same command continues" in said
    assert psutil.wait_procs(processes, timeout=60)[1] == []
    assert read_status(folder)["reason"] == "interrupted" and state(plan, "slow-s0") == "broken"
    assert list(plan.folder.glob(".stop*")) == []


def test_a_run_whose_process_is_killed_fails_with_the_signal(study, tmp_path, start_runner):
    plan = study(slow=row("waits", reference=True))
    runner = start_runner()
    folder = plan.runs["slow-s0"].folder
    wait_for(lambda: (folder / "config.json").exists())
    process, *kernel = ours(tmp_path)
    process.kill()
    runner.communicate(timeout=120)
    assert runner.returncode == 1
    assert "killed by signal 9 (SIGKILL)" in read_status(folder)["reason"]
    assert psutil.wait_procs(kernel, timeout=60)[1] == []


def test_an_interrupt_while_a_run_is_being_started_loses_no_run(study):
    class Interrupting(ThreadPoolExecutor):
        def submit(self, *arguments):
            os.kill(os.getpid(), signal.SIGINT)
            return super().submit(*arguments)

    plan = study(slow=row("waits", reference=True))
    with Interrupting(1) as pool:
        summary = run_plan(plan, executor=pool)
    assert summary.interrupted and summary.failed == {"slow-s0": "interrupted"}


def test_one_study_has_one_runner(study, tmp_path, start_runner):
    plan = study(slow=row("waits", reference=True))
    runner = start_runner()
    wait_for(lambda: (plan.folder / "plan.json").exists())
    with pytest.raises(CxrError, match=f"is in use by process {runner.pid}"):
        run_plan(plan)
    runner.terminate()
    runner.communicate(timeout=120)


# --- what is shown


def test_a_run_without_a_heartbeat_is_not_running(tmp_path):
    write_json(tmp_path / "status.json", {"state": "running", "time": time.time() - 60})
    assert state_text(tmp_path).startswith("no heartbeat for 30 s, no error recorded")


def test_the_status_table_has_a_row_a_run(study, nothing_executed):
    plan = study(**TWO)
    run(plan)
    assert status_table(plan.folder).row_count == 2


def test_threads_are_shared_among_the_jobs(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert (
        process_environment(3)["OMP_NUM_THREADS"]
        == process_environment(3)["MKL_NUM_THREADS"]
        == "2"
    )
    assert process_environment(20)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(("seconds", "text"), [(4, "4 s"), (100, "2 min"), (7500, "2 h 5 min")])
def test_durations_are_told_shortly(seconds, text):
    assert clock(seconds) == text


def test_a_folder_without_a_dataset_is_refused_before_anything_starts_or_is_set_aside(
    study, tmp_path
):
    done, _ = run(study(a=row("good", reference=True)))
    assert done.done == ["a-s0"]
    with pytest.raises(
        StudyError, match=r"nothing was started\n.*elsewhere/dataset_full: no such folder"
    ):
        run(study(f"data_root={tmp_path / 'elsewhere'}", a=row("good", reference=True)))
    assert is_complete(tmp_path / "runs" / "tiny" / "a-s0")


def test_rows_that_cannot_be_used_are_named_before_anything_starts(study, tmp_path):
    next((tmp_path / "dataset_full" / "train").iterdir()).unlink()
    plan = study(a=row("good", reference=True))
    with pytest.raises(StudyError, match=r"(?s)nothing was started.*1 of 2 rows cannot be used"):
        run(plan)
    assert not plan.folder.exists() or not list(plan.folder.glob("*"))


def test_what_is_odd_about_a_dataset_is_said_once_and_before_the_first_run(study, tmp_path):
    films = tmp_path / "dataset_full" / "train"
    shutil.copy(next(films.iterdir()), films / "unlisted.png")
    _, text = run(study(a=row("good", reference=True), b=row("raises")))
    assert text.count("1 images are not listed in train.csv") == 1
    assert text.index("1 images are not listed") < text.index("a-s0")


# --- nothing complete is lost, hidden or repeated


def test_a_typo_in_the_data_root_leaves_the_plan_as_it_was(study, tmp_path):
    run(study(a=row("good", reference=True)))
    before = (tmp_path / "runs" / "tiny" / "plan.json").read_bytes()
    with pytest.raises(StudyError, match="nothing was started"):
        run(study(f"data_root={tmp_path / 'typo'}", a=row("good", reference=True)))
    assert (tmp_path / "runs" / "tiny" / "plan.json").read_bytes() == before


def test_a_complete_run_of_other_parameters_is_not_set_aside_without_a_yes(
    complete, nothing_executed
):
    before = (complete().folder / "first-s0" / "record.json").read_bytes()
    with pytest.raises(
        StudyError, match=r"(?s)would be set aside.*first-s0: epochs 5 -> 7.*--replace"
    ):
        run(complete(epochs=7))
    assert nothing_executed == [] and not (complete().folder / "plan.json").exists()
    assert (complete().folder / "first-s0" / "record.json").read_bytes() == before


def test_a_yes_sets_it_aside_and_the_question_lists_what_changed(complete, nothing_executed):
    complete()
    asked = []
    run(complete(epochs=7), confirm=lambda text: not asked.append(text))
    assert nothing_executed == ["first-s0", "arm-s0"] and "first-s0: epochs 5 -> 7" in asked[0]


def test_a_run_that_was_set_aside_is_taken_back_when_it_is_planned_again(
    complete, nothing_executed
):
    plan = complete()
    plan.runs["arm-s0"].folder.rename(plan.folder / "arm-s0.replaced-20260101T000000")
    summary, text = run(plan)
    assert nothing_executed == [] and summary.skipped == ["first-s0", "arm-s0"]
    assert "arm-s0.replaced-20260101T000000 matches the plan and was taken back" in text


def test_runs_that_are_not_chosen_keep_the_plan_that_they_were_made_by(
    complete, study, nothing_executed
):
    plan = complete()
    run(plan)
    changed = study(
        "epochs=7",
        first=row("good", set={"lr": 0.1}),
        arm=row("good", init_from="first", reference=True),
    )
    run(changed, only=["first"], replace=True)
    entries = read_plan(plan.folder)["runs"]
    assert (
        entries["first-s0"]["config"]["epochs"] == 7 and entries["arm-s0"]["config"]["epochs"] == 5
    )


def test_another_file_of_the_same_study_is_refused(complete, nothing_executed, tmp_path):
    run(complete())
    other = tmp_path / "other.yaml"
    other.write_text((tmp_path / "study.yaml").read_text())
    with pytest.raises(
        StudyError, match=r"holds the runs of .*study.yaml, which has the same `study: tiny`"
    ):
        run(plan_study(other, runs_dir=tmp_path / "runs"))
    (tmp_path / "study.yaml").unlink()  # renamed, then
    assert run(plan_study(other, runs_dir=tmp_path / "runs"))[0].skipped == ["first-s0", "arm-s0"]


def test_a_stage_without_its_model_is_made_again_and_the_file_is_named(complete, nothing_executed):
    plan = complete()
    (plan.runs["first-s0"].folder / "model.safetensors").unlink()
    _, text = run(plan)
    assert (
        nothing_executed == ["first-s0"]
        and "lacks model.safetensors, from which other runs start" in text
    )


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"{", b"\xff\xfe\x00"])
def test_a_damaged_record_is_named_with_what_to_do(complete, content):
    plan = complete()
    (plan.runs["arm-s0"].folder / "record.json").write_bytes(content)
    found = planned_states(plan, plan.runs.values())["arm-s0"]
    assert (
        found.name == "damaged"
        and "arm-s0/record.json" in found.reason
        and "run the study again" in found.reason
    )


def test_status_and_comparison_agree_on_what_is_done(complete, nothing_executed):
    plan = complete()
    run(plan)
    write_json(
        plan.runs["arm-s0"].folder / "config.json",
        plan.runs["arm-s0"].config.model_dump() | {"epochs": 9},
    )
    planned = read_plan(plan.folder)["runs"]["arm-s0"]
    assert state_text(plan.runs["arm-s0"].folder, planned) == "done, but changed: epochs 9 -> 5"


def test_a_damaged_status_is_shown_and_stops_nothing(tmp_path):
    (tmp_path / "status.json").write_bytes(b"\xff\xfe\x00")
    assert state_text(tmp_path).startswith("unknown: ") and "status.json is damaged" in state_text(
        tmp_path
    )


def test_moved_data_are_known_by_their_fingerprint(
    study, tmp_path, tiny_phantoms, nothing_executed
):
    def plan(root: Path) -> Plan:
        return study(f"data_root={root}", "val_fraction=0.3", a=row("good", reference=True))

    made = plan(tiny_phantoms).runs["a-s0"]
    data = PARTS["data"] | {"fingerprint": data_fingerprint(made.config)}
    record = full_record(
        run="a-s0", config=made.config.model_dump(mode="json"), config_hash=made.config.hash()
    )
    write_json(made.folder / "config.json", record["config"])
    write_json(made.folder / "record.json", record | {"data": data})
    shutil.copytree(tiny_phantoms, tmp_path / "moved")
    assert state(plan(tmp_path / "moved"), "a-s0") == "complete"
    listed = tmp_path / "moved" / "dataset_full" / "Data_Entry_2017_v2020.csv"
    listed.write_text("\n".join(listed.read_text().splitlines()[:-1]) + "\n")
    found = planned_states(plan(tmp_path / "moved"), plan(tmp_path / "moved").runs.values())["a-s0"]
    assert found.name == "changed" and "are not those below" in found.reason


def test_another_weight_file_of_the_same_name_is_another_experiment(study, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"first")
    file = {"source": "file", "sha256": sha256(weights)}
    first = row("good", set={"pretrained": str(weights)})
    made = study(first=first, arm=row("good", init_from="first", reference=True))
    starts = {"first-s0": file, "arm-s0": {"source": "run", "starts_from": file}}
    for one in made.runs.values():
        about = {"config": one.config.model_dump(mode="json"), "config_hash": one.config.hash()}
        record = full_record(run=one.name, **about) | {"weights": starts[one.name]}
        write_json(one.folder / "spec.json", {"lineage": one.lineage})
        write_json(one.folder / "config.json", about["config"])
        write_json(one.folder / "record.json", record)
        for name in ("model.safetensors", "card.json"):
            (one.folder / name).touch()

    def states() -> list[str]:
        return [one.name for one in planned_states(made, made.runs.values()).values()]

    assert states() == ["complete", "complete"]
    weights.write_bytes(b"second")
    assert states() == ["changed", "changed"]
    found = planned_states(made, made.runs.values())["arm-s0"]
    assert f"weight file {weights} is not the one" in found.reason
    weights.unlink()
    assert states() == ["complete", "complete"]  # nothing needs it again


def test_scratch_folders_of_dead_processes_are_removed_and_others_stay(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f"cxr-{ended.pid}-abc", f"cxr-{os.getpid()}-abc", "cxr-notes-abc", "cxr-old"):
        (tmp_path / name).mkdir()
    remove_stale(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"cxr-{os.getpid()}-abc", "cxr-notes-abc", "cxr-old"]
    )
