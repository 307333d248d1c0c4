"""Studies on a Dask cluster: real schedulers and workers, which are killed, frozen and ended."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from clusters import (
    MadeCluster,
    executing,
    jobs_of,
    processes_in_turn,
    slurm_stand_ins,
    ticks,
    wait_for,
    worker_process,
    write_study,
)
from distributed import Client
from rich.console import Console

from lib.config import REPO_ROOT
from lib.exceptions import ClusterError
from lib.runs.run import is_complete, read_status
from lib.runs.study import read_runs
from lib.studies.cluster import open_cluster
from lib.studies.cluster_file import lifetime_arguments, read_cluster_file, walltime_seconds
from lib.studies.cluster_worker import code_difference, code_state, worker_environment
from lib.studies.plan import Plan, plan_study
from lib.studies.runner import Summary, run_plan

pytestmark = pytest.mark.timeout(3600)  # on a machine that may be busy

LONG = 900  # seconds, for what takes some on a quiet machine
COMMAND = """
import sys
from pathlib import Path
from rich.console import Console
from lib.exceptions import ClusterError
from lib.studies import open_cluster, plan_study, run_plan
import lib.studies.runner as runner
runner.check_runs = runner.check_stages = lambda *_: None
study, runs, where = sys.argv[1:]
plan = plan_study(Path(study), (), runs_dir=Path(runs))
try:
    with open_cluster(where, print) as executor:
        summary = run_plan(plan, executor=executor, jobs=99, console=Console(width=200))
    print(summary.text())
    sys.exit(summary.exit_code)
except ClusterError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Without the checks of backbones and stages, which the small notebooks do not have."""
    monkeypatch.setattr("lib.studies.runner.check_runs", lambda file, runs: None)
    monkeypatch.setattr("lib.studies.runner.check_stages", lambda plan, runs, data: None)


@pytest.fixture
def cluster(tmp_path, popen) -> MadeCluster:
    return MadeCluster(tmp_path, popen)


@pytest.fixture
def start_command(tmp_path, popen):
    """Starts the command of a study in a process of its own: where -> process, and its output."""

    def start(where: Path | str, **environ: str) -> tuple[subprocess.Popen, Path]:
        words = [str(tmp_path / "study.yaml"), str(tmp_path / "runs"), str(where)]
        said = tmp_path / "said.txt"
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPO_ROOT),
            "PYTHONUNBUFFERED": "1",
            **environ,
        }
        with said.open("w") as file:
            process = popen(
                [sys.executable, "-c", COMMAND, *words],
                cwd=tmp_path, env=environment, stdout=file, stderr=file,
            )  # fmt: skip
        return process, said

    return start


def run(plan: Plan, where: Path | str) -> tuple[Summary, str]:
    """Executes the plan on a cluster; the summary, and what was told about workers."""
    said: list[str] = []
    with open_cluster(str(where), said.append) as executor:
        console = Console(force_terminal=False, record=True, width=200)
        summary = run_plan(plan, executor=executor, jobs=99, console=console)
    return summary, "\n".join(said)


def busy(cluster: MadeCluster) -> subprocess.Popen | None:
    """A worker that executes a run."""
    return next((one for one in cluster.workers if executing(one)), None)


# --- the same numbers, whatever is killed


@pytest.fixture
def real_study(tmp_path, tiny_phantoms) -> Path:
    """A study of the project's own notebooks, small."""
    base = {"data_root": str(tiny_phantoms), "backbone": "resnet10t", "pretrained": False}
    base |= {"image_size": 32, "val_fraction": 0.3, "epochs": 3, "accelerator": "cpu"}
    single = {"data_dir": "dataset_cardiomegaly", "findings": "Cardiomegaly"}
    full = "multi-task/fourteen_findings.ipynb"
    runs = {
        "first": {"notebook": "single-task/cardiomegaly.ipynb", "set": single},
        "adaptive": {"notebook": full, "init_from": "first", "reference": True},
        "direct": {"changes": "adaptive", "init_from": None},
    }
    path = tmp_path / "study.yaml"
    content = {"study": "real", "seeds": [0], "base": base, "runs": runs}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_study_on_workers_that_are_killed_gives_the_numbers_of_one_that_was_run_here(
    real_study, tmp_path, cluster, monkeypatch
):
    monkeypatch.setenv("CXR_THREADS", "1")
    here = plan_study(real_study, (), runs_dir=tmp_path / "here")
    assert run_plan(here, jobs=1, console=Console(quiet=True)).exit_code == 0

    cluster.start(3)
    there = plan_study(real_study, (), runs_dir=tmp_path / "there")
    seed = time.time_ns() % 10**6
    delay = random.Random(seed).uniform(0, 8)
    killer = subprocess.Popen(
        [sys.executable, "-c", KILLER, str(delay), *(str(one.pid) for one in cluster.workers)],
        cwd=REPO_ROOT, env={**os.environ, "PYTHONPATH": f"{REPO_ROOT}:{REPO_ROOT / 'tests'}"},
    )  # fmt: skip
    try:
        summary, said = run(there, cluster.file)
    finally:
        killer.kill()
        killer.wait()
    assert summary.exit_code == 0, (seed, said)
    not_compared = ["train_seconds", "peak_memory_mb", "cpu_latency_ms", "commit"]
    tables = [read_runs(plan.folder).drop(columns=not_compared) for plan in (here, there)]
    pd.testing.assert_frame_equal(*tables, check_exact=True, obj=f"seed {seed}")


KILLER = """
import sys, time
from clusters import executing, worker_process
class Worker:
    def __init__(self, pid): self.pid = pid
workers = [Worker(int(word)) for word in sys.argv[2:]]
while not (busy := [one for one in workers if executing(one)]):
    time.sleep(0.05)
time.sleep(float(sys.argv[1]))
busy = [one for one in workers if executing(one)] or busy
worker_process(busy[0]).kill()
"""


# --- workers that are lost


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "preempted"])
def test_a_run_whose_worker_ends_takes_its_processes_with_it_and_resumes_elsewhere(
    cluster, tmp_path, start_command, number
):
    plan = write_study(tmp_path, slow="trains")
    (tmp_path / "wait").touch()
    cluster.start(2)
    command, said = start_command(cluster.file)
    wait_for(lambda: len(ticks(plan, "slow-s0")) > 3)
    worker = busy(cluster)
    below = executing(worker)
    if number == signal.SIGKILL:  # the worker with its nanny, as when a machine goes
        worker_process(worker).kill()
    worker.send_signal(number)
    assert len(below) == 2 and psutil.wait_procs(below, timeout=LONG)[1] == []
    epochs = len(ticks(plan, "slow-s0"))
    (tmp_path / "wait").unlink()
    assert command.wait(LONG) == 0, said.read_text()
    ticked = ticks(plan, "slow-s0")
    assert processes_in_turn(ticked) == 2
    assert epochs == len(ticked) or ticked[epochs][1] >= epochs - 1  # it went on, not anew
    assert "the run continues on another one" in said.read_text()
    if number == signal.SIGKILL:
        assert "its worker was lost (1 of 10 times without a new epoch)" in said.read_text()


def test_a_worker_at_the_end_of_its_lifetime_stops_its_run_which_resumes_elsewhere(
    cluster, tmp_path, start_command
):
    plan = write_study(tmp_path, slow="trains")
    (tmp_path / "wait").touch()
    cluster.start(2)
    command, said = start_command(cluster.file)
    wait_for(lambda: ticks(plan, "slow-s0"))
    first = busy(cluster)
    name = f"w{cluster.workers.index(first)}"
    with Client(scheduler_file=str(cluster.file), set_as_default=False) as client:
        client.run(  # what Dask calls when the lifetime is reached
            lambda dask_worker: (
                dask_worker.name == name
                and dask_worker.loop.add_callback(dask_worker.close_gracefully)
            )
        )
    assert first.wait(LONG) == 0
    (tmp_path / "wait").unlink()
    assert command.wait(LONG) == 0, said.read_text()
    assert processes_in_turn(ticks(plan, "slow-s0")) == 2
    assert "slow-s0: its worker ends; the run continues on another one" in said.read_text()


def test_a_worker_that_only_seems_dead_keeps_its_run_to_itself(cluster, tmp_path, start_command):
    plan = write_study(tmp_path, slow="trains")
    (tmp_path / "wait").touch()
    cluster.start(1)
    command, said = start_command(cluster.file)
    wait_for(lambda: ticks(plan, "slow-s0"))
    cluster.workers[0].send_signal(signal.SIGSTOP)  # as where the network is away: its run goes on
    worker_process(cluster.workers[0]).suspend()
    with Client(scheduler_file=str(cluster.file), set_as_default=False) as client:
        client.run_on_scheduler(
            lambda dask_scheduler: dask_scheduler.loop.add_callback(
                dask_scheduler.remove_worker, dask_scheduler.aliases["w0"], stimulus_id="test"
            )
        )
    cluster.add_worker()
    wait_for(lambda: "slow-s0: waits on" in said.read_text())
    (tmp_path / "wait").unlink()
    assert command.wait(LONG) == 0, said.read_text()
    assert processes_in_turn(ticks(plan, "slow-s0")) == 1


def test_a_run_that_loses_worker_after_worker_fails_with_the_count(
    cluster, tmp_path, unchecked, monkeypatch
):
    monkeypatch.setattr("lib.studies.cluster_executor.LOST_LIMIT", 2)
    plan = write_study(tmp_path, bad="kills_its_worker", good="trains")
    cluster.start(2)
    summary, said = run(plan, cluster.file)
    assert summary.done == ["good-s0"]
    assert summary.failed["bad-s0"].startswith("2 workers were lost while they executed it")
    assert "bad-s0: its worker was lost (1 of 2 times" in said


# --- the scheduler, and the command


def test_a_lost_scheduler_is_told_in_a_sentence_and_the_same_command_continues(
    cluster, tmp_path, start_command
):
    plan = write_study(tmp_path, slow="trains")
    (tmp_path / "wait").touch()
    cluster.start(1)
    command, said = start_command(cluster.file)
    wait_for(lambda: len(ticks(plan, "slow-s0")) > 3)
    below = executing(cluster.workers[0])
    cluster.scheduler.kill()
    assert command.wait(LONG) == 1
    last = said.read_text().strip().splitlines()[-1]
    assert last.startswith("the Dask scheduler") and "the same command continues" in last
    assert psutil.wait_procs(below, timeout=LONG)[1] == []
    (tmp_path / "wait").unlink()
    cluster.scheduler.wait()
    cluster.start(1)
    command, said = start_command(cluster.file)
    assert command.wait(LONG) == 0, said.read_text()
    ticked = ticks(plan, "slow-s0")
    assert processes_in_turn(ticked) == 2 and [epoch for _, epoch in ticked].count(0) == 1


def test_an_interrupted_command_ends_the_runs_on_the_workers_and_the_queue(
    cluster, tmp_path, start_command
):
    plan = write_study(tmp_path, slow="trains", queued="trains")
    (tmp_path / "wait").touch()
    cluster.start(1)
    command, said = start_command(cluster.file)
    wait_for(lambda: ticks(plan, "slow-s0") or ticks(plan, "queued-s0"))
    below = executing(cluster.workers[0])
    command.send_signal(signal.SIGINT)
    assert command.wait(LONG) == 130, said.read_text()
    assert "interrupted: 0 done, 2 failed" in said.read_text()
    assert psutil.wait_procs(below, timeout=LONG)[1] == []
    assert not (ticks(plan, "slow-s0") and ticks(plan, "queued-s0"))
    assert list(plan.folder.glob(".stop*")) == []


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("tcp://127.0.0.1:1", "no scheduler answers there"),
        ("nowhere.json", "neither an address"),
    ],
)
def test_a_cluster_that_is_not_there_is_told(where, told, monkeypatch):
    monkeypatch.setattr("lib.studies.cluster.CONNECT_SECONDS", 1.0)
    with pytest.raises(ClusterError, match=told), open_cluster(where, print):
        pass


# --- what a worker decides


def test_threads_and_devices_are_those_of_the_worker(cluster, tmp_path, unchecked):
    plan = write_study(tmp_path, one="tells", other="tells")
    cluster.start(0)
    cluster.add_worker(
        "--nthreads", "2", CUDA_VISIBLE_DEVICES="3,5", CXR_THREADS="7", OMP_NUM_THREADS="2"
    )
    assert run(plan, cluster.file)[0].exit_code == 0
    told = [json.loads((one.folder / "told.json").read_text()) for one in plan.runs.values()]
    assert [one["OMP_NUM_THREADS"] for one in told] == ["7", "7"]
    assert sorted(one["CUDA_VISIBLE_DEVICES"] for one in told) == ["3", "5"]


def test_what_the_nanny_sets_for_dask_does_not_decide_the_threads_of_a_run(monkeypatch):
    monkeypatch.setattr("lib.studies.execute.available_cores", lambda: 8)
    monkeypatch.delenv("CXR_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the nanny does
    monkeypatch.setenv("MKL_NUM_THREADS", "3")  # as a user does
    found = worker_environment(2)
    assert found["OMP_NUM_THREADS"] == "4" and found["MKL_NUM_THREADS"] == "3"


def test_a_worker_with_other_locks_is_refused_at_the_start_and_when_it_comes_later(
    cluster, tmp_path, start_command
):
    plan = write_study(tmp_path, slow="trains", other="trains")
    (tmp_path / "wait").touch()
    cluster.start(1)
    command, said = start_command(cluster.file)
    wait_for(lambda: ticks(plan, "slow-s0") or ticks(plan, "other-s0"))
    cluster.add_worker(CXR_LOCKS="lease")
    wait_for(lambda: "this worker would give other numbers" in said.read_text())
    with (
        pytest.raises(ClusterError, match="CXR_LOCKS lease instead of flock"),
        open_cluster(str(cluster.file), print),
    ):
        pass
    (tmp_path / "wait").unlink()
    assert command.wait(LONG) == 0, said.read_text()


def test_the_code_of_a_worker_is_compared_by_commit_and_versions():
    here = code_state()
    assert code_difference(here, here) == ""
    other = {**here, "versions": {**here["versions"], "torch": "1.0"}}
    assert code_difference(here, other) == f"torch 1.0 instead of {here['versions']['torch']}"
    two = [{**here, "commit": letter * 40, "dirty": False} for letter in "ab"]
    assert code_difference(*two) == f"commit {'b' * 10} instead of {'a' * 10}"
    moved = {**two[0], "root": "/elsewhere"}
    assert code_difference(two[0], moved) == ""
    assert "another checkout, /elsewhere" in code_difference(two[0], {**moved, "dirty": True})


# --- clusters from files


@pytest.fixture
def slurm(tmp_path):
    with slurm_stand_ins(tmp_path, jobs=2) as file:
        yield file


def test_a_study_in_slurm_jobs_of_which_one_is_killed(slurm, tmp_path, start_command):
    plan = write_study(tmp_path, slow="trains", other="trains")
    (tmp_path / "wait").touch()
    command, said = start_command(slurm)
    wait_for(lambda: ticks(plan, "slow-s0") and ticks(plan, "other-s0"))
    os.killpg(jobs_of(slurm)[0].pid, signal.SIGKILL)
    wait_for(lambda: "its worker was lost" in said.read_text())
    (tmp_path / "wait").unlink()
    assert command.wait(LONG) == 0, said.read_text()
    assert all(is_complete(one.folder) for one in plan.runs.values())
    assert psutil.wait_procs(jobs_of(slurm), timeout=LONG)[1] == []
    script = next((tmp_path / "jobs").glob("*.sh")).read_text()
    assert "#SBATCH --cpus-per-task=2" in script and "--lifetime 1620s" in script
    assert f"cd {REPO_ROOT}" in script


def test_a_local_cluster_of_a_file(tmp_path, unchecked, start_command):
    plan = write_study(tmp_path, one="tells", other="tells")
    file = tmp_path / "local.yaml"
    file.write_text("local: {n_workers: 2}\n")
    command, said = start_command(file, CXR_THREADS="")
    assert command.wait(LONG) == 0, said.read_text()
    assert all(is_complete(one.folder) for one in plan.runs.values())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("jobs: 3", "give one of local, jobqueue.slurm"),
        ("jobqueue: {slurn: {}}", "jobqueue.slurn is unknown; did you mean slurm?"),
        ("jobqueue: {slurm: {cores: 1, memory: 1GB, waltime: x}}\njobs: 1", "did you mean walltime?"),
        ("jobqueue: {slurm: {cores: 1}}\njobs: 1", "jobqueue.slurm.memory is missing"),
        ("jobqueue: {slurm: {cores: 1, memory: 1GB}}", "give either jobs: N or adapt"),
        ("jobqueue: {slurm: {cores: 1, memory: 1GB, walltime: 8:00:00}}\njobs: 1", "put it in quotes"),
        ("jobqueue: {pbs: {cores: 1, memory: 1GB}}\njobs: many", "must be a whole number"),
        ("[", "cannot be read"),
    ],
)  # fmt: skip
def test_a_wrong_cluster_file_is_told_with_file_and_field(tmp_path, content, told):
    file = tmp_path / "cluster.yaml"
    file.write_text(content)
    with pytest.raises(ClusterError, match=told.replace("?", r"\?")) as error:
        read_cluster_file(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("name", ["slurm", "pbs", "local"])
def test_the_examples_are_cluster_files(name):
    found = read_cluster_file(REPO_ROOT / "studies" / "clusters" / f"{name}.yaml")
    assert found.system == name


def test_a_batch_system_that_is_not_there_is_named(tmp_path):
    with (
        pytest.raises(ClusterError, match="sbatch is not on this machine"),
        open_cluster(str(REPO_ROOT / "studies" / "clusters" / "slurm.yaml"), print),
    ):
        pass


@pytest.mark.parametrize(
    ("system", "text", "seconds"),
    [
        ("slurm", "08:00:00", 28800),
        ("slurm", "2-12", 216000),
        ("slurm", "1-00:30:00", 88200),
        ("slurm", "90", 5400),
        ("slurm", "10:30", 630),
        ("pbs", "90", 90),
        ("lsf", "10:30", 37800),
    ],
)
def test_walltimes_are_read_as_the_batch_system_does(system, text, seconds):
    assert walltime_seconds(system, text) == seconds


def test_a_worker_ends_before_its_walltime():
    assert lifetime_arguments("slurm", "08:00:00") == [
        "--lifetime", "28500s", "--lifetime-stagger", "75s",
    ]  # fmt: skip
    assert lifetime_arguments("slurm", "00:10:00")[1] == "540s"


def test_the_state_of_a_run_that_was_never_started_is_queued(cluster, tmp_path, start_command):
    plan = write_study(tmp_path, slow="trains")
    cluster.start(0)
    command, said = start_command(cluster.file)
    wait_for(lambda: "no worker yet" in said.read_text())
    wait_for(lambda: (plan.runs["slow-s0"].folder / "status.json").exists())
    assert read_status(plan.runs["slow-s0"].folder)["state"] == "queued"
    command.send_signal(signal.SIGINT)
    assert command.wait(LONG) == 130, said.read_text()
