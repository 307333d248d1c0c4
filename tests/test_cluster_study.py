"""A whole study on a cluster whose workers are killed all the time gives its table of record to the
last digit.

It takes as long as the study: CXR_CLUSTER_STUDY names its file, and without that it is skipped.

    CXR_CLUSTER_STUDY=studies/demo.yaml python -m pytest -n 0 -s tests/test_cluster_study.py
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
from clusters import MadeCluster, executing, jobs_of, slurm_stand_ins, worker_process

from lib.config import REPO_ROOT
from lib.runs.study import read_runs
from lib.studies.plan import plan_study

STUDY = os.environ.get("CXR_CLUSTER_STUDY")
WORKERS = 3
NOT_COMPARED = ["train_seconds", "peak_memory_mb", "cpu_latency_ms", "commit"]
SECONDS_BETWEEN_KILLS = (10.0, 40.0)

pytestmark = [
    pytest.mark.skipif(not STUDY, reason="CXR_CLUSTER_STUDY names no study: it takes a while"),
    pytest.mark.timeout(4 * 3600),
]


@pytest.fixture
def table() -> pd.DataFrame:
    """The study's table of record; where it has none, that of a run without a cluster."""
    recorded = REPO_ROOT / "results" / plan_study(Path(STUDY)).study / "table.csv"
    if not recorded.exists():
        recorded = REPO_ROOT / "runs" / "cluster-without" / "table.csv"
        command("cluster-without", "--jobs", str(WORKERS))
        read_runs(recorded.parent).to_csv(recorded, index=False)
    return pd.read_csv(recorded)


def command(name: str, *words: str) -> None:
    """Executes `cxr run` of the study under another name, with one thread a run."""
    environment = {**os.environ, "PYTHONPATH": str(REPO_ROOT), "CXR_THREADS": "1"}
    start = [sys.executable, "-m", "lib.cli", "run", STUDY, "--name", name, "--replace", *words]
    assert subprocess.run(start, cwd=REPO_ROOT, env=environment).returncode == 0


class Killer(threading.Thread):
    """Kills something at random moments, until it is told to end; counts by what."""

    def __init__(self, kill: Callable[[random.Random], str | None]) -> None:
        super().__init__(daemon=True)
        self.kill, self.ended, self.counts = kill, threading.Event(), Counter()
        self.seed = time.time_ns() % 10**6

    def run(self) -> None:
        chance = random.Random(self.seed)
        while not self.ended.wait(chance.uniform(*SECONDS_BETWEEN_KILLS)):
            with contextlib.suppress(psutil.NoSuchProcess, StopIteration, ProcessLookupError):
                if what := self.kill(chance):
                    self.counts[what] += 1
                    print(f"killed: {what}", flush=True)


def compare(name: str, table: pd.DataFrame, killer: Killer) -> None:
    killer.ended.set()
    print(f"\n{name}, seed {killer.seed}: {dict(killer.counts)} kills, {len(table)} runs")
    path = REPO_ROOT / "runs" / name / "table.csv"
    read_runs(path.parent).to_csv(path, index=False)
    made = pd.read_csv(path)
    keep = [column for column in table if column not in NOT_COMPARED and column in made]
    pd.testing.assert_frame_equal(made[keep], table[keep], check_exact=True, check_dtype=False)
    assert sum(killer.counts.values()) > 0


def test_on_three_workers(table, tmp_path, popen):
    cluster = MadeCluster(tmp_path, popen).start(WORKERS)

    def kill(chance: random.Random) -> str | None:
        busy = [one for one in cluster.workers if one.poll() is None and executing(one)]
        if not busy:
            return None
        worker, what = chance.choice(busy), chance.choice(["worker", "machine", "preemption"])
        if what in ("worker", "machine"):
            worker_process(worker).kill()
        if what in ("machine", "preemption"):
            worker.send_signal(signal.SIGKILL if what == "machine" else signal.SIGTERM)
            cluster.add_worker()
        return what

    killer = Killer(kill)
    killer.start()
    command("cluster-workers", "--dask", str(cluster.file))
    compare("cluster-workers", table, killer)


def test_on_slurm_jobs(table, tmp_path):
    def kill(chance: random.Random) -> str | None:
        jobs = jobs_of(file)
        if not jobs:
            return None
        number = chance.choice([signal.SIGKILL, signal.SIGTERM])
        os.killpg(chance.choice(jobs).pid, number)
        return f"job, {number.name}"

    with slurm_stand_ins(tmp_path, jobs=WORKERS) as file:
        killer = Killer(kill)
        killer.start()
        command("cluster-slurm", "--dask", str(file))
        compare("cluster-slurm", table, killer)
