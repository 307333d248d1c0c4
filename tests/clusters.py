"""Small Dask clusters for tests, as processes of their own, and small studies to execute on them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from made_datasets import write_smallest_dataset
from made_records import PARTS

from lib.config import REPO_ROOT
from lib.studies.plan import Plan, plan_study

PARAMETERS = "run_dir = 'x'\nseed = 9\ndata_root = '.'\nfreeze = 'none'\ninit_from = None"
START = (
    "from lib.config import Config\nfrom lib.runs.run import start_run\n"
    "run = start_run(Config.from_namespace(globals()))"
)
TRAIN = """
import os, pathlib, time
at = run.folder / "epoch.txt"
epoch = int(at.read_text()) if at.exists() else 0
while epoch < 20 or pathlib.Path(data_root, "wait").exists():
    with open(pathlib.Path(data_root, f"{run.folder.name}.ticks"), "a") as file:
        file.write(f"{os.getpid()} {epoch}\\n")
    time.sleep(0.1)
    epoch += 1
    at.write_text(str(epoch))
"""
TELL = """
import json, os
names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
(run.folder / "told.json").write_text(json.dumps({name: os.environ.get(name) for name in names}))
"""
KILL = """
import os, psutil, signal
worker = psutil.Process(os.getppid()).ppid()
os.kill(worker, signal.SIGKILL)
import time
time.sleep(600)
"""
FINISH = (
    "import pandas as pd\nfrom lib.runs.run import finish_run\n"
    "history = pd.DataFrame({'epoch': [1], 'seconds': [0.1], 'val_auroc': [0.5]})\n"
    "[(run.folder / name).touch() for name in ('model.safetensors', 'card.json')]\n"
    f"finish_run(run, history=history, metrics=pd.DataFrame({{'finding': ['macro']}}), **{PARTS!r})"
)
CELLS = {
    "trains": [START, TRAIN, FINISH],
    "tells": [START, TELL, TRAIN, FINISH],
    "kills_its_worker": [START, KILL, FINISH],
}
"""`trains`: 20 epochs of a tenth of a second, and on while the file `wait` exists; it continues."""


def write_study(folder: Path, **notebooks: str) -> Plan:
    """Writes the notebooks, a dataset and a study of arm -> notebook; returns its plan."""
    if not (folder / "dataset_full").exists():
        write_smallest_dataset(folder / "dataset_full")
    for name, cells in CELLS.items():
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
        notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
        nbformat.write(notebook, folder / f"{name}.ipynb")
    rows = {
        arm: {"notebook": str(folder / f"{notebook}.ipynb"), "set": {"lr": 0.1 * (number + 1)}}
        for number, (arm, notebook) in enumerate(notebooks.items())
    }
    next(iter(rows.values()))["reference"] = True
    content = {"study": "tiny", "seeds": [0], "base": {"data_root": str(folder)}, "runs": rows}
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return plan_study(file, (), runs_dir=folder / "runs")


def wait_for(fact: Callable[[], object], seconds: float = 900.0) -> None:
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


class MadeCluster:
    """A scheduler and workers on loopback, each a process of its own that `popen` reaps."""

    def __init__(self, folder: Path, popen: Callable[..., subprocess.Popen]) -> None:
        self.folder, self.popen = folder, popen
        self.file = folder / "scheduler.json"
        self.workers: list[subprocess.Popen] = []

    def start(self, workers: int, **environ: str) -> "MadeCluster":
        """A scheduler, with `environ` in its environment, and so many workers of one thread."""
        self.file.unlink(missing_ok=True)
        words = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file)]
        self.scheduler = self._start("dask_scheduler", *words, "--no-dashboard", **environ)
        wait_for(self.file.exists)
        for _ in range(workers):
            self.add_worker()
        return self

    def add_worker(self, *words: str, **environ: str) -> subprocess.Popen:
        """Another worker; `words` are arguments of `dask worker`."""
        name = f"w{len(self.workers)}"
        options = ["--scheduler-file", str(self.file), "--name", name, "--host", "127.0.0.1"]
        options += ["--local-directory", str(self.folder), "--no-dashboard"]
        if "--nthreads" not in words:
            options += ["--nthreads", "1"]
        self.workers.append(self._start("dask_worker", *options, *words, **environ))
        return self.workers[-1]

    def _start(self, module: str, *words: str, **environ: str) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(REPO_ROOT), "CXR_THREADS": "1", **environ}
        log = self.folder / f"{module}-{len(self.workers)}.log"
        with log.open("ab") as file:
            command = [sys.executable, "-m", f"distributed.cli.{module}", *words]
            return self.popen(command, cwd=self.folder, env=environment, stdout=file, stderr=file)


def executing(worker: subprocess.Popen) -> list[psutil.Process]:
    """What a worker executes: drivers and kernels below the process that the nanny started."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(worker.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                words = " ".join(process.cmdline())
                if "lib.studies.execute" in words or "ipykernel" in words:
                    found.append(process)
    return found


def worker_process(worker: subprocess.Popen) -> psutil.Process:
    """The worker itself, which the nanny started and would start again."""
    children = psutil.Process(worker.pid).children()
    return next(one for one in children if "spawn_main" in " ".join(one.cmdline()))


def ticks(plan: Plan, name: str) -> list[tuple[str, int]]:
    """(process, epoch) of every epoch that the run trained, in order, in whatever process."""
    path = plan.folder.parents[1] / f"{name}.ticks"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def processes_in_turn(ticked: list[tuple[str, int]]) -> int:
    """How many processes trained; fails where two did at the same time."""
    turns = [
        pid for number, (pid, _) in enumerate(ticked) if number == 0 or ticked[number - 1][0] != pid
    ]
    assert len(turns) == len(set(turns)), f"two processes trained at the same time: {ticked}"
    return len(turns)


@contextlib.contextmanager
def slurm_stand_ins(folder: Path, jobs: int) -> Iterator[Path]:
    """A cluster file for the stand-ins of sbatch, squeue and scancel; what they started is ended."""
    (folder / "jobs").mkdir(parents=True)
    options = {"cores": 1, "memory": "4GB", "walltime": "00:30:00", "job-cpu": 2}
    options |= {"scheduler-options": {"host": "127.0.0.1"}, "local-directory": str(folder)}
    file = folder / "slurm.yaml"
    file.write_text(yaml.safe_dump({"jobqueue": {"slurm": options}, "jobs": jobs}))
    stand_ins = REPO_ROOT / "tests" / "slurm_stand_ins"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{stand_ins}:{os.environ['PATH']}")
        patch.setenv("SLURM_STAND_IN_FOLDER", str(folder / "jobs"))
        yield file
    for pid in (folder / "jobs").glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def jobs_of(file: Path) -> list[psutil.Process]:
    """The jobs that the stand-ins have started and that run."""
    found = []
    for pid in (file.parent / "jobs").glob("*.pid"):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid.read_text()))
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
