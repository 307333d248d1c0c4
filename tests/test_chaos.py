"""A study whose runner, kernel and training process are killed, run again, gives the table of one
that was not."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from lib.config import REPO_ROOT
from lib.runs.study import read_runs

RUN = """
import sys
from pathlib import Path
from lib.studies import plan_study, run_plan
sys.exit(run_plan(plan_study(Path(sys.argv[1]), runs_dir=Path(sys.argv[2]))).exit_code)
"""


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
        "adaptive": {
            "notebook": "multi-task/fourteen_findings.ipynb",
            "init_from": "first",
            "reference": True,
        },
    }
    path = tmp_path / "chaos.yaml"
    path.write_text(
        yaml.safe_dump(
            {"study": "chaos", "seeds": [0], "base": base, "runs": runs}, sort_keys=False
        )
    )
    return path


@pytest.fixture
def start(study, popen):
    """Starts the runner of the study, for a folder of runs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO_ROOT)}
    return lambda runs_dir: popen(
        [sys.executable, "-c", RUN, study, runs_dir], cwd=REPO_ROOT, env=environment
    )


def below(runner: subprocess.Popen, name: str) -> psutil.Process | None:
    """The first process of that name below the runner; None when the runner ends before."""
    while runner.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(runner.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.name() == name:
                        return process
        time.sleep(0.02)
    return None


def kill(runner: subprocess.Popen, what: str, folder: Path, seconds: float) -> bool:
    """Kills the runner or a process below it after `seconds`; whether something was left to do by
    then.

    "training" is the kernel, the seconds counted from the end of its first epoch.
    """
    while what == "training" and runner.poll() is None and not list(folder.glob("*/last.ckpt")):
        time.sleep(0.02)
    names = {"training": "cxr-kernel", "kernel": "cxr-kernel", "driver": "cxr-run"}
    victim = runner if what == "runner" else below(runner, names[what])
    time.sleep(seconds)
    if victim is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    return runner.wait() != 0


@pytest.mark.timeout(1800)
def test_killing_runner_kernel_and_process_changes_no_number(start, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    assert start(whole).wait() == 0
    stage = (time.monotonic() - began) / 2

    seed = time.time_ns() % 10**6
    rng = random.Random(seed)
    moments = [("training", rng.uniform(0, 1))]
    moments += [
        (what, rng.uniform(0, stage / 2)) for what in rng.sample(["runner", "kernel", "driver"], 3)
    ]
    told = f"seed {seed}: {moments}"
    for what, seconds in moments:
        while not kill(
            start(killed), what, killed / "chaos", seconds
        ):  # too late: the last stage once more
            shutil.rmtree(killed / "chaos" / "adaptive-s0")
            seconds /= 2

    assert start(killed).wait() == 0, told
    not_compared = ["train_seconds", "peak_memory_mb", "cpu_latency_ms", "commit"]
    tables = [read_runs(folder / "chaos").drop(columns=not_compared) for folder in (whole, killed)]
    pd.testing.assert_frame_equal(*tables, check_exact=True, obj=told)
