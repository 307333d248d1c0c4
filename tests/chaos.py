"""Disturb studies at random and show that nothing is lost: `make chaos MINUTES=20`.

In: minutes and a seed. Out: a table of faults per way of running, written to results/chaos.csv, and
exit code 1 where a disturbed study differs from the undisturbed one.

A small study is run once undisturbed in each way: forked kernels, fresh processes, two devices per
run, and a Dask cluster. It is then run again and again in a folder of its own while its processes
are killed (SIGKILL) or stopped for seconds (SIGSTOP, SIGCONT), and while its disk is full. The
command is repeated until it succeeds, as a user would repeat it. Afterwards the table of scores, and
every byte of predictions and models, must be those of the undisturbed study.

The disk is a small one in memory, mounted over `runs/` in a private namespace of Linux. Where that is
not possible, disks are not filled, and the table says so.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
import yaml

from lib.config import REPO_ROOT
from lib.files import write_table
from lib.phantoms import write_phantoms
from lib.runs import read_runs

INSIDE = "CXR_CHAOS_DISK"
DISK_MB = 1500  # a checkpoint of these networks takes 100
PAUSE = (0.1, 8.0)  # seconds between two faults
SPARED = 0.9  # of faults at the runner, which would else be hit before it has started anything
STOPPED = (0.2, 3.0)  # seconds that a process stands still, or a disk is full
FAULTS_PER_ROUND = 25
TRIES = 8  # undisturbed repetitions after the faults of a round
TRY_SECONDS = 300
NOT_COMPARED = ["train_seconds", "peak_memory_mb", "cpu_latency_ms", "commit"]
BYTES = ("predictions.parquet", "model.safetensors")
ARMS = {
    "first": {
        "notebook": "single-task/cardiomegaly.ipynb",
        "set": {"data_dir": "dataset_cardiomegaly", "findings": "Cardiomegaly"},
    },
    "adaptive": {
        "notebook": "multi-task/fourteen_findings.ipynb",
        "init_from": "first",
        "reference": True,
    },
    "direct": {"changes": "adaptive", "init_from": None},
}


@dataclass(frozen=True)
class Way:
    """A way to run the study: what the command gets, what may be hit, and whose bytes it must have."""

    name: str
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    victims: tuple[str, ...] = ("runner", "driver", "kernel")
    same_bytes_as: str = "forked"
    dask: bool = False


WAYS = (
    Way("forked", ("--jobs", "2")),
    Way("fresh processes", ("--jobs", "2"), {"CXR_FORK": "0"}),
    Way(
        "two devices per run",
        ("--set", "devices_per_run=2"),
        victims=("runner", "driver", "kernel", "rank"),
        same_bytes_as="two devices per run",
    ),
    Way(
        "dask",
        victims=("runner", "driver", "kernel", "worker", "scheduler"),
        dask=True,
    ),
)
MARKS = {
    "driver": ("cxr-run", "lib.studies.execute"),
    "kernel": ("cxr-kernel", "ipykernel_launcher"),
    "rank": ("cxr-rank", "from lib.models.ranks import follow; follow()"),
}
"""What the name or the command line of a process holds, by what it is."""


class Cluster:
    """A Dask scheduler and two workers on this machine; what died is started again."""

    def __init__(self, scratch: Path, environment: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.scratch, self.environment = scratch, environment
        self.processes: dict[str, subprocess.Popen] = {}

    def revive(self) -> None:
        """Starts what does not run."""
        port = self.address.rpartition(":")[2]
        words = {
            "scheduler": ["scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
        }
        for number in range(2):
            place = str(self.scratch / f"worker-{number}")
            words[f"worker-{number}"] = [
                *("worker", self.address, "--nthreads", "1", "--no-dashboard"),
                *("--local-directory", place, "--death-timeout", "60"),
            ]
        for name, command in words.items():
            process = self.processes.get(name)
            if process is None or process.poll() is not None:
                log = (self.scratch / f"{name}.log").open("ab")
                with log:
                    self.processes[name] = subprocess.Popen(
                        [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
                        stdout=log,
                        stderr=log,
                        env=self.environment,
                    )

    def pids(self, kind: str) -> list[int]:
        """The processes of that kind: a worker's nanny, or the worker below it."""
        found = []
        for name, process in self.processes.items():
            if name.startswith(kind) and process.poll() is None:
                found += [process.pid, *(child.pid for child in _below(process.pid))]
        return found

    def end(self) -> None:
        """Kills everything."""
        for process in self.processes.values():
            _kill_tree(process)


def main(minutes: float, seed: int) -> int:
    """Runs undisturbed studies, then disturbed ones until `minutes` are over; 1 if any differs."""
    rng = random.Random(seed)
    began = time.monotonic()
    counts: dict[str, Counter] = {way.name: Counter() for way in WAYS}
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="cxr-chaos-") as name:
        scratch = Path(name)
        study = _write_study(scratch)
        expected = {
            way.name: _undisturbed(way, study, scratch)
            for way in WAYS
            if way.same_bytes_as == way.name
        }
        print(f"seed {seed}; undisturbed after {time.monotonic() - began:.0f} s", flush=True)
        rounds = 0
        while time.monotonic() - began < 60 * minutes:
            way = WAYS[rounds % len(WAYS)]
            rounds += 1
            counted, found = _round(way, study, scratch, rng, expected[way.same_bytes_as])
            counts[way.name].update(counted)
            problems += [f"round {rounds}, {way.name}: {problem}" for problem in found]
            print(f"round {rounds}, {way.name}: {dict(counted)} {found or 'equal'}", flush=True)
    table = _table(counts)
    write_table(REPO_ROOT / "results" / "chaos.csv", table)
    print(table.to_string(index=False))
    taken = (time.monotonic() - began) / 60
    print(f"{table['SIGKILL'].iloc[-1]} kills in {taken:.0f} minutes, seed {seed}")
    print("\n".join(problems) or "every disturbed study equals the undisturbed one")
    return 1 if problems else 0


def _write_study(scratch: Path) -> Path:
    data = write_phantoms(scratch / "phantoms", patients=60, size=64, progress=False)
    base = {
        "data_root": str(data),
        "backbone": "resnet10t",
        "pretrained": False,
        "image_size": 32,
        "val_fraction": 0.3,
        "epochs": 4,
        "ema": 0.9,
        "accelerator": "cpu",
    }
    path = scratch / "chaos.yaml"
    study = {"study": "chaos", "seeds": [0], "base": base, "runs": ARMS}
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def _environment(way: Way, scratch: Path) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CXR_THREADS": "1",
        "CXR_STORE": str(scratch / "store"),
        **way.environment,
    }


def _command(way: Way, study: Path, name: str, cluster: Cluster | None) -> list[str]:
    dask = ["--dask", cluster.address] if cluster else []
    words = ["run", str(study), "--name", name, *way.options, *dask]
    return [sys.executable, "-m", "lib.cli", *words]


@contextlib.contextmanager
def _cluster(way: Way, scratch: Path) -> Iterator[Cluster | None]:
    if not way.dask:
        yield None
        return
    cluster = Cluster(scratch, _environment(way, scratch))
    try:
        cluster.revive()
        yield cluster
    finally:
        cluster.end()


def _undisturbed(way: Way, study: Path, scratch: Path) -> dict[str, bytes | pd.DataFrame]:
    name = "undisturbed-" + way.name.replace(" ", "-")
    done = subprocess.run(
        _command(way, study, name, None),
        cwd=REPO_ROOT,
        env=_environment(way, scratch),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{way.name}: the undisturbed study failed\n{done.stdout}{done.stderr}")
    return _results(REPO_ROOT / "runs" / name)


def _results(folder: Path) -> dict[str, bytes | pd.DataFrame]:
    """The table of scores, and the bytes of each run's predictions and model."""
    found: dict[str, bytes | pd.DataFrame] = {
        "table": read_runs(folder).drop(columns=NOT_COMPARED, errors="ignore")
    }
    for name in BYTES:
        for path in sorted(folder.glob(f"*/{name}")):
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def _round(
    way: Way, study: Path, scratch: Path, rng: random.Random, expected: dict
) -> tuple[Counter, list[str]]:
    """One study, disturbed until it had its faults or was complete; what was done, what differs."""
    name = "chaos"
    folder = REPO_ROOT / "runs" / name
    counted = Counter(rounds=1)
    log = scratch / "command.log"
    with _cluster(way, scratch) as cluster:

        def start() -> subprocess.Popen:
            counted["commands"] += 1
            if cluster:
                cluster.revive()
            with log.open("wb") as file:
                return subprocess.Popen(
                    _command(way, study, name, cluster),
                    cwd=REPO_ROOT,
                    env=_environment(way, scratch),
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )

        runner = start()
        try:
            faults = _faults(way, rng, lambda: runner, cluster)
            while counted["faults"] < FAULTS_PER_ROUND and runner.poll() != 0:
                if runner.poll() is not None:
                    runner = start()
                time.sleep(rng.uniform(*PAUSE))
                if fault := rng.choice(faults)():
                    counted.update([fault, "faults"])
            for _ in range(TRIES):
                if _ended(runner, counted) == 0:
                    break
                runner = start()
            problems = _compare(folder, expected) if _ended(runner, counted) == 0 else []
            if runner.poll() != 0:
                problems = [f"does not finish: {log.read_text(errors='replace')[-2000:]}"]
        finally:
            _kill_tree(runner)
    shutil.rmtree(folder, ignore_errors=True)
    return counted, problems


def _ended(runner: subprocess.Popen, counted: Counter) -> int | None:
    """The exit code; a command that hangs is ended and counted."""
    try:
        return runner.wait(TRY_SECONDS)
    except subprocess.TimeoutExpired:
        counted["hung"] += 1
        _kill_tree(runner)
        return None


def _compare(folder: Path, expected: dict) -> list[str]:
    """The names of what differs."""
    found = _results(folder)
    if found.keys() != expected.keys():
        return [f"other files: {sorted(found.keys() ^ expected.keys())}"]
    return [
        f"{name} differs"
        for name, value in expected.items()
        if not (found[name].equals(value) if name == "table" else found[name] == value)
    ]


def _faults(
    way: Way, rng: random.Random, runner: Callable[[], subprocess.Popen], cluster: Cluster | None
) -> list[Callable[[], str]]:
    """What can be done to this way of running; each returns what it did, or nothing."""

    def find(kind: str) -> int | None:
        if kind == "runner":
            return runner().pid if runner().poll() is None else None
        if kind in ("worker", "scheduler"):
            pids = cluster.pids(kind) if cluster else []
        else:
            roots = [runner().pid, *(cluster.pids("worker") if cluster else [])]
            pids = [p.pid for root in roots for p in _below(root) if _is(p, kind)]
        return rng.choice(pids) if pids else None

    def victim() -> tuple[str, int | None]:
        """What is hit, of what is there now, and its process."""
        alive = {kind: pid for kind in way.victims if (pid := find(kind))}
        if len(alive) > 1 and rng.random() < SPARED:
            alive.pop("runner", None)
        elif list(alive) == ["runner"] and rng.random() < SPARED:
            return "runner", None
        kind = rng.choice(list(alive)) if alive else "runner"
        return kind, alive.get(kind)

    def kill() -> str:
        kind, pid = victim()
        return f"SIGKILL {kind}" if pid and _signal(pid, signal.SIGKILL) else ""

    def pause() -> str:
        kind, pid = victim()
        if not pid or not _signal(pid, signal.SIGSTOP):
            return ""
        time.sleep(rng.uniform(*STOPPED))
        _signal(pid, signal.SIGCONT)
        return f"SIGSTOP {kind}"

    def fill() -> str:
        filler = REPO_ROOT / "runs" / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**20))
        time.sleep(rng.uniform(*STOPPED))
        filler.unlink()
        return "disk full"

    disk = [fill] if os.environ.get(INSIDE) else []
    return [kill, kill, kill, kill, pause, *disk]


def _below(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _is(process: psutil.Process, kind: str) -> bool:
    with contextlib.suppress(psutil.Error):
        name, module = MARKS[kind]
        return process.name() == name or module in process.cmdline()
    return False


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _kill_tree(process: subprocess.Popen) -> None:
    for child in _below(process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    if process.poll() is None:
        process.kill()
    process.wait()


def _table(counts: dict[str, Counter]) -> pd.DataFrame:
    """One row per way and a last one of sums: rounds, commands, kills and stops by victim."""
    names = ["rounds", "commands", "hung"]
    faults = sorted({key for counted in counts.values() for key in counted if " " in key})
    rows = []
    for way, counted in counts.items():
        row = {"way": way, **{name: counted[name] for name in [*names, *faults]}}
        rows.append(row)
    table = pd.DataFrame(rows)
    kills = [name for name in faults if name.startswith("SIGKILL")]
    table["SIGKILL"] = table[kills].sum(axis=1) if kills else 0
    total = table.drop(columns="way").sum().to_dict()
    return pd.concat([table, pd.DataFrame([{"way": "all", **total}])], ignore_index=True)


def enter_small_disk() -> None:
    """Starts this program again where `runs/` is a small disk in memory, if Linux allows that."""
    if os.environ.get(INSIDE) or not shutil.which("unshare"):
        return
    (REPO_ROOT / "runs").mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={DISK_MB}m cxr '{REPO_ROOT / 'runs'}'"
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*inside, mount], capture_output=True).returncode:
        print("no private disk here: disks are not filled", flush=True)
        return
    os.environ[INSIDE] = "1"
    again = [sys.executable, __file__, *sys.argv[1:]]
    os.execvp("unshare", [*inside, mount + ' && exec "$@"', "sh", *again])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None)
    chosen = parser.parse_args()
    enter_small_disk()
    sys.exit(main(chosen.minutes, time.time_ns() % 10**6 if chosen.seed is None else chosen.seed))
