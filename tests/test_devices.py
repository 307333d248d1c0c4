"""Every run has its own device: how devices are listed, shared out, and what a run's process
sees."""

import json
import os
import shutil
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from made_datasets import write_smallest_dataset

from lib.config import Config
from lib.exceptions import StudyError
from lib.runs.run import read_status
from lib.studies.devices import (
    Slots,
    check_devices,
    device_environment,
    find_devices,
    listed_devices,
    parse_jobs,
    plan_slots,
)
from lib.studies.execute import execute_run, process_environment, run_environment
from lib.studies.fork_server import start_server
from lib.studies.plan import plan_study
from lib.studies.runner import run_plan
from lib.system import visible_ids

LISTED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aa32b2fc)
"""
ONE, TWO, CPU = Config(), Config(devices_per_run=2), Config(accelerator="cpu")


@pytest.fixture
def gpus(monkeypatch):
    """Sets the list of this machine's devices."""
    return lambda *ids: monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(ids))


@pytest.fixture
def no_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("lib.studies.devices.available_cores", lambda: 9)


# --- which devices there are


def test_a_divided_gpu_is_listed_as_its_instances():
    assert listed_devices(LISTED) == ["MIG-c6d4f1ef", "MIG-cba663e8", "1"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (None, None),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2, 0", ["2", "0"]),
        ("0,-1,1", ["0"]),
        ("GPU-5d5b,MIG-c6d4", ["GPU-5d5b", "MIG-c6d4"]),
    ],
)
def test_the_users_own_choice_is_read_as_cuda_reads_it(text, ids):
    assert visible_ids({} if text is None else {"CUDA_VISIBLE_DEVICES": text}) == ids


@pytest.fixture
def nvidia_smi(tmp_path):
    """Makes a stand-in for nvidia-smi that prints a text; gives the environment that finds it."""

    def make(text: str, code: int = 0) -> dict[str, str]:
        (tmp_path / "listed").write_text(text)
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncat {tmp_path}/listed\nexit {code}\n")
        script.chmod(0o755)
        return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    return make


def test_without_a_choice_nvidia_smi_lists_the_devices(nvidia_smi):
    assert find_devices(nvidia_smi("GPU 0: A (UUID: GPU-1)\nGPU 1: A (UUID: GPU-2)\n")) == (
        ["0", "1"],
        "",
    )


def test_a_choice_is_taken_without_asking_nvidia_smi(nvidia_smi):
    assert find_devices({**nvidia_smi(LISTED), "CUDA_VISIBLE_DEVICES": "7"}) == (["7"], "")


def test_a_failure_of_nvidia_smi_is_told(nvidia_smi):
    devices, note = find_devices(nvidia_smi("NVIDIA-SMI has failed", code=9))
    assert devices == [] and "(NVIDIA-SMI has failed)" in note and "accelerator=cpu" in note


def test_a_machine_without_nvidia_smi_has_no_devices(tmp_path):
    assert find_devices({"PATH": str(tmp_path)}) == ([], "")


def test_devices_are_listed_without_torch():
    code = (
        "import sys; from lib.studies.devices import find_devices; find_devices(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert os.system(f'"{sys.executable}" -c "{code}"') == 0


# --- how many runs at a time


@pytest.mark.parametrize(
    ("configs", "per_device", "jobs"),
    [([ONE], 1, 5), ([ONE], 2, 10), ([TWO], 1, 2), ([TWO], 2, 5), ([ONE, TWO, CPU], 1, 5)],
)
def test_auto_is_as_many_as_the_devices_take(gpus, configs, per_device, jobs):
    gpus(*"01234")
    assert plan_slots(configs, "auto", per_device).jobs == jobs


@pytest.mark.parametrize("configs", [[ONE], [CPU], [Config(accelerator="mps")]])
def test_auto_without_a_device_gives_each_run_two_cores(no_gpus, configs):
    assert plan_slots(configs, "auto").jobs == 4


def test_runs_on_the_cpu_take_no_device(gpus, monkeypatch):
    gpus("0")
    monkeypatch.setattr("lib.studies.devices.available_cores", lambda: 6)
    assert plan_slots([CPU], "auto") == Slots(3) and plan_slots([CPU], 8) == Slots(8)


def test_more_jobs_than_the_devices_take_are_capped_and_that_is_said(gpus):
    gpus("0", "3")
    slots = plan_slots([ONE], 8)
    assert slots.jobs == 2
    assert slots.note.startswith("--jobs 8: 2 at a time, for there are 2 devices (0, 3) with 1 per")
    assert plan_slots([ONE], 2).note == plan_slots([ONE], 4, 2).note == ""


def test_where_some_runs_need_no_device_the_others_wait_for_one(gpus):
    gpus("0")
    slots = plan_slots([ONE, CPU], 3)
    assert slots.jobs == 3 and slots.note == ""
    assert [slots.take(config) for config in (ONE, ONE, CPU)] == [["0"], None, []]


def test_a_number_or_auto_is_wanted():
    assert (parse_jobs("auto"), parse_jobs("3")) == ("auto", 3)
    for text in ("0", "-1", "many", "1.5"):
        with pytest.raises(StudyError, match=f"--jobs {text}: write auto, or how many"):
            parse_jobs(text)


def test_a_run_that_wants_more_devices_than_there_are_is_refused():
    with pytest.raises(StudyError, match=r"run 'a': devices_per_run is 2, and there are 1 devices"):
        check_devices(Path("s.yaml"), {"a": TWO}, ["0"])
    check_devices(Path("s.yaml"), {"a": TWO}, [])


def test_a_run_on_several_mig_instances_is_refused():
    with pytest.raises(StudyError, match="CUDA shows one process a single MIG instance"):
        check_devices(Path("s.yaml"), {"a": TWO}, ["MIG-1", "MIG-2"])


# --- which device a run gets


def test_a_device_takes_one_run_until_that_gives_it_back():
    slots = Slots(9, {"0": 1, "1": 1})
    assert [slots.take(ONE) for _ in range(3)] == [["0"], ["1"], None]
    slots.give_back(["1"])
    assert slots.take(ONE) == ["1"]


def test_runs_are_spread_before_a_device_is_shared():
    slots = Slots(9, {"0": 2, "1": 2})
    assert [slots.take(ONE) for _ in range(5)] == [["0"], ["1"], ["0"], ["1"], None]


def test_a_run_on_two_devices_takes_both_or_waits():
    slots = Slots(9, dict.fromkeys("012", 1))
    assert [slots.take(TWO), slots.take(TWO), slots.take(ONE)] == [["0", "1"], None, ["2"]]


def test_indices_of_nvidia_smi_are_counted_as_it_does():
    assert device_environment(["1"], {}) == {
        "CUDA_VISIBLE_DEVICES": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    own = {"CUDA_VISIBLE_DEVICES": "1,2"}
    assert device_environment(["2"], own) == {"CUDA_VISIBLE_DEVICES": "2"}
    assert device_environment(None, own) == {}


def test_a_batch_systems_variables_do_not_reach_a_run(monkeypatch):
    names = ("SLURM_NTASKS", "PMI_RANK", "TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "WORLD_SIZE")
    for name in (*names, "LT_DEVICES", "MASTER_ADDR", "CXR_MARK"):
        monkeypatch.setenv(name, "3")
    environment = run_environment({"environment": {}, "devices": ["3"]})
    assert not set(environment) & {*names, "LT_DEVICES", "MASTER_ADDR"}
    assert environment["CXR_MARK"] == "3" and environment["CUDA_VISIBLE_DEVICES"] == "3"


# --- a whole study


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plans a study of six runs, of which nothing is checked; takes settings."""
    monkeypatch.setattr("lib.studies.runner.check_runs", lambda file, runs: None)
    monkeypatch.setattr("lib.studies.runner.check_stages", lambda plan, runs, data: None)
    monkeypatch.setattr("lib.studies.scheduler.start_server", lambda environment: None)
    write_smallest_dataset(tmp_path / "dataset_full")
    (tmp_path / "n.ipynb").touch()
    rows = [f"  a: {{notebook: {tmp_path}/n.ipynb, reference: true}}"]
    rows += [f"  b{i}: {{changes: a, set: {{lr: 0.{i}}}}}" for i in range(1, 6)]
    file = tmp_path / "study.yaml"
    base = f"{{data_root: {tmp_path}}}"
    file.write_text("\n".join(["study: tiny", "seeds: [0]", f"base: {base}", "runs:", *rows]))
    return lambda *settings: plan_study(file, settings, runs_dir=tmp_path / "runs")


@pytest.fixture
def seen(monkeypatch):
    """Replaces the execution of runs: notes the devices of each, and how many were on one at a
    time. Names in `bad` fail, those in `dead` raise."""

    seen = SimpleNamespace(devices=[], most=Counter(), bad=set(), dead=set())
    now, lock = Counter(), threading.Lock()

    def execute(spec: dict) -> str | None:
        mine, name = spec["devices"] or [], Path(spec["folder"]).name
        with lock:
            seen.devices.append(spec["devices"])
            now.update(mine)
            seen.most |= now
        threading.Event().wait(0.05)
        with lock:
            now.subtract(mine)
        if name in seen.dead:
            raise OSError("killed")
        return "kernel killed" if name in seen.bad else None

    monkeypatch.setattr("lib.studies.scheduler.execute_run", execute)
    return seen


def test_no_two_runs_are_on_one_device_at_once_and_all_devices_are_used(plan, gpus, seen):
    gpus("3", "GPU-5d5b")
    assert len(run_plan(plan(), jobs="auto").done) == 6
    assert seen.most == {"3": 1, "GPU-5d5b": 1} and all(len(ids) == 1 for ids in seen.devices)


def test_a_device_takes_as_many_runs_as_it_is_allowed(plan, gpus, seen):
    gpus("0")
    run_plan(plan(), jobs=8, runs_per_device=2)
    assert seen.most == {"0": 2}


def test_a_device_is_free_again_after_a_failure(plan, gpus, seen):
    gpus("0")
    seen.bad, seen.dead = {"a-s0", "b2-s0"}, {"b1-s0"}
    summary = run_plan(plan(), jobs="auto")
    assert len(summary.failed) == len(summary.done) == 3 and seen.most == {"0": 1}


def test_runs_on_two_devices_each_share_none(plan, gpus, seen):
    gpus("0", "1", "2", "3", "4")
    run_plan(plan("devices_per_run=2"), jobs="auto")
    assert max(seen.most.values()) == 1 and all(len(set(ids)) == 2 for ids in seen.devices)


def test_runs_on_the_cpu_see_no_device_to_choose_from(plan, gpus, seen):
    gpus("0")
    run_plan(plan("accelerator=cpu"), jobs=2)
    assert seen.devices == [None] * 6


def test_without_devices_runs_see_what_the_runner_sees(plan, gpus, seen):
    gpus()
    run_plan(plan(), jobs=2)
    assert seen.devices == [None] * 6 and not seen.most


def test_nothing_is_started_where_a_run_wants_too_many_devices(plan, gpus, seen):
    gpus("0")
    with pytest.raises(StudyError, match="run 'a-s0': devices_per_run is 2"):
        run_plan(plan("devices_per_run=2"))
    assert seen.devices == [] and not (plan().folder / "plan.json").exists()


# --- what a run's process sees

CELL = """
import json, os, torch
names = ("CUDA_VISIBLE_DEVICES", "RANK", "SLURM_NTASKS")
print(json.dumps([os.environ.get(name) for name in names] + [torch.cuda.is_initialized()]))
"""
WAITS = (
    "from lib.config import Config\nfrom lib.runs import start_run\n"
    "run = start_run(Config.from_namespace(globals()))\n"
    "import time\nwhile True: time.sleep(0.05)"
)


@pytest.fixture
def spec(tmp_path):
    """A cell -> the spec of a run that executes it on device 5."""

    def make(cell: str) -> dict:
        parameters = nbformat.v4.new_code_cell("run_dir = ''", metadata={"tags": ["parameters"]})
        cells = [parameters, nbformat.v4.new_code_cell(cell)]
        notebook = nbformat.v4.new_notebook(cells=cells)
        nbformat.write(notebook, tmp_path / "n.ipynb")
        made = {"notebook": str(tmp_path / "n.ipynb"), "folder": str(tmp_path / "run")}
        made |= {"parameters": {"run_dir": made["folder"]}, "lineage": ""}
        made |= {"environment": process_environment(1)}
        return made | {"stop": str(tmp_path / "stop"), "devices": ["5"], "time_limit": None}

    return make


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fork", ["0", "1"])
def test_a_runs_kernel_sees_its_own_device_and_no_batch_system(spec, tmp_path, monkeypatch, fork):
    for name, value in {"CUDA_VISIBLE_DEVICES": "4,5", "RANK": "3", "SLURM_NTASKS": "8"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CXR_FORK", fork)
    start_server(process_environment(1))
    assert execute_run(spec(CELL)).startswith("finished without a record")
    output = nbformat.read(tmp_path / "run" / "notebook.ipynb", 4).cells[-1].outputs[0]
    assert json.loads(output.text) == ["5", None, None, False]
    assert read_status(tmp_path / "run")["devices"] == ["5"]


@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA GPU on this machine")
def test_a_forked_run_computes_on_the_one_gpu_that_it_sees(spec, tmp_path):
    start_server(process_environment(1))
    cell = (
        "import json, torch\nvalue = float(torch.ones(2, device='cuda').sum())\n"
        "print(json.dumps([torch.cuda.device_count(), value]))"
    )
    devices, _ = find_devices()
    execute_run(spec(cell) | {"devices": devices[-1:]})
    output = nbformat.read(tmp_path / "run" / "notebook.ipynb", 4).cells[-1].outputs[0]
    assert json.loads(output.text) == [1, 2.0]


@pytest.mark.timeout(900)
def test_the_device_of_a_killed_run_is_not_given_away_before_its_kernel_has_ended(
    spec, tmp_path, monkeypatch
):
    monkeypatch.setenv("CXR_FORK", "0")  # its kernel notices a moment later
    kernels: list[int] = []

    def kill() -> None:
        while "pid" not in (status := read_status(tmp_path / "run")):
            threading.Event().wait(0.05)
        kernels.append(status["pid"])
        psutil.Process(status["pid"]).parent().kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    assert "killed by signal 9" in execute_run(spec(WAITS))
    assert not psutil.pid_exists(kernels[0]) or (
        psutil.Process(kernels[0]).status() == psutil.STATUS_ZOMBIE
    )
