"""In: this machine. Out: the cores, memory, devices and environment of a process, the state of git,
versions of packages; how worker processes start."""

import ctypes
import itertools
import math
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def available_cores(groups: Path = CGROUPS) -> int:
    """The cores that this process may use, at least 1: its affinity, and a container's CPU quota
    rounded up."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, math.ceil(min(cores, _quota(groups))))


def _quota(groups: Path) -> float:
    """Cores that the container's control group grants (cgroup v2, then v1); infinite where there is
    no limit."""
    try:
        quota, period = (groups / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (groups / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (groups / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    limited = quota.isdigit() and period.isdigit() and int(period) > 0
    return int(quota) / int(period) if limited else math.inf


BATCH_VARIABLES = re.compile(
    r"(SLURM|PMI|PMIX|OMPI|MV2|JSM|LSB|LSF|PBS|TORCHELASTIC|LT|PET)_\w+"
    r"|((LOCAL|GROUP|NODE|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)"
)
"""What batch systems and launchers of parallel programs set, and libraries take for a request to
train with others."""


def without_batch_system(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a batch system or a launcher says about ranks and tasks."""
    return {
        name: value for name, value in environment.items() if not BATCH_VARIABLES.fullmatch(name)
    }


def visible_ids(environment: Mapping[str, str] = os.environ) -> list[str] | None:
    """The devices in CUDA_VISIBLE_DEVICES: indices or UUIDs; None where it is not set.

    As CUDA reads it: the list ends at the first entry that names no device, such as -1.
    """
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    names = itertools.takewhile(
        re.compile(r"\d+|(GPU|MIG)-\S+").fullmatch, map(str.strip, text.split(","))
    )
    return list(dict.fromkeys(names))


def peak_memory_mb(process: int | str = "self") -> float:
    """The largest resident memory of a process (its id, or this one) so far, in MiB; other
    processes on Linux alone.

    Linux's own count begins with the program; that of getrusage may still hold the size of the
    process that started it.
    """
    status = Path(f"/proc/{process}/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return float(found[1]) / 2**10
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )


PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "lightning-fabric",
    "numpy",
    "pandas",
    "papermill",
    "scikit-learn",
)


def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the repository; both None outside git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {
            "commit": commit,
            "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*words: str) -> str:
    here = Path(__file__).parent
    return subprocess.run(
        ["git", *words], cwd=here, capture_output=True, text=True, check=True
    ).stdout.strip()


def package_versions() -> dict[str, str | None]:
    """Installed versions of the packages that decide numbers, and of Python."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def start_worker() -> None:
    """Start of a worker process: it leaves Ctrl-C to its parent, and ends when the parent ends,
    even when that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:

        def wait() -> None:
            connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


def die_with_parent(number: int) -> None:
    """Has Linux send this process the signal when its parent ends."""
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, number)
