"""A study whose runner, kernel and training process are killed, run again, gives the table of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from lib.config import REPO_ROOT
from lib.records import read_runs

RUN = "from pathlib import Path; import sys; from lib.plan import plan_study; from lib.runner import run_plan; \
sys.exit(run_plan(plan_study(Path(sys.argv[1]), runs_dir=Path(sys.argv[2]))).exit_code)"


@pytest.fixture
def study(tmp_path, tiny_phantoms) -> Path:
    base = {
        "data_root": str(tiny_phantoms),
        "backbone": "resnet10t",
        "pretrained": False,
        "image_size": 32,
        "val_fraction": 0.3,
        "epochs": 3,
        "ema": 0.9,
        "accelerator": "cpu",
    }
    single = {"data_dir": "dataset_cardiomegaly", "findings": "Cardiomegaly"}
    runs = {
        "first": {"notebook": "single-task/cardiomegaly.ipynb", "set": single},
        "adaptive": {"notebook": "multi-task/fourteen_findings.ipynb", "init_from": "first", "reference": True},
    }
    path = tmp_path / "chaos.yaml"
    path.write_text(yaml.safe_dump({"study": "chaos", "seeds": [0], "base": base, "runs": runs}, sort_keys=False))
    return path


def start(study: Path, runs_dir: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO_ROOT)}
    return subprocess.Popen([sys.executable, "-c", RUN, str(study), str(runs_dir)], cwd=REPO_ROOT, env=environment)


def victim(runner: subprocess.Popen, words: str) -> psutil.Process:
    """The first process below the runner whose command line holds `words`; waits for it."""
    until = time.monotonic() + 60
    while time.monotonic() < until and runner.poll() is None:
        for process in psutil.Process(runner.pid).children(recursive=True):
            try:
                if words in " ".join(process.cmdline()):
                    return process
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.05)
    raise AssertionError(f"no process with {words!r} came up")


def wait_for(path: Path, runner: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while not path.exists() and runner.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert path.exists()


@pytest.mark.timeout(900)
def test_killing_runner_kernel_and_process_changes_no_number(study, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(study, whole).wait() == 0

    runner = start(study, killed)  # the kernel dies in the first stage, after its first epoch
    wait_for(killed / "chaos" / "first-s0" / "last.ckpt", runner)
    victim(runner, "ipykernel_launcher").send_signal(signal.SIGKILL)
    assert runner.wait() == 1

    runner = start(study, killed)  # the runner dies in the second stage, between two epochs
    wait_for(killed / "chaos" / "adaptive-s0" / "last.ckpt", runner)
    runner.send_signal(signal.SIGKILL)
    runner.wait()

    runner = start(study, killed)  # the process that drives the notebook dies
    victim(runner, "lib.execute").send_signal(signal.SIGKILL)
    assert runner.wait() == 1

    assert start(study, killed).wait() == 0
    cost = ["train_seconds", "peak_memory_mb", "cpu_latency_ms"]
    tables = [read_runs(folder / "chaos").drop(columns=cost) for folder in (whole, killed)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
