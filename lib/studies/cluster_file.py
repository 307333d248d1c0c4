"""In: a .yaml file that says how to start a Dask cluster. Out: that cluster, as long as the study runs.

    jobqueue: {slurm: {cores: 1, memory: 16GB, walltime: "08:00:00"}}   # dask-jobqueue's own settings
    jobs: 4                                                             # or adapt: {maximum_jobs: 16}

or `local: {n_workers: 3}`, for distributed.LocalCluster's own; see studies/clusters.
"""

import contextlib
import difflib
import importlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lib.config import REPO_ROOT
from lib.exceptions import ClusterError
from lib.system import available_cores

SYSTEMS = {
    "slurm": ("SLURMCluster", "sbatch"),
    "pbs": ("PBSCluster", "qsub"),
    "lsf": ("LSFCluster", "bsub"),
    "sge": ("SGECluster", "qsub"),
    "oar": ("OARCluster", "oarsub"),
    "moab": ("MoabCluster", "msub"),
    "htcondor": ("HTCondorCluster", "condor_submit"),
}
"""Batch systems: dask-jobqueue's class, and the command that must be there."""
KEYS = ("jobqueue", "jobs", "adapt", "local", "distributed")
LIFETIME_SHARE, LIFETIME_MARGIN = 0.1, 300.0
"""A worker ends by itself this share of the walltime, or these seconds, before it: the smaller."""
RUN_DURATION = "1h"
"""What Dask expects of a run, so that `adapt` asks for a worker for each."""


@dataclass
class ClusterFile:
    """What a cluster file says; `system` is "local" or a batch system."""

    path: Path
    system: str
    options: dict[str, Any]
    adapt: dict[str, int] = field(default_factory=dict)
    distributed: dict[str, Any] = field(default_factory=dict)


def read_cluster_file(path: Path) -> ClusterFile:
    """Reads and checks a cluster file; raises ClusterError that names the file and the field."""
    try:
        given = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path} cannot be read: {error}") from error
    if not isinstance(given, dict):
        raise ClusterError(f"{path} is no cluster file; see {REPO_ROOT / 'studies' / 'clusters'}")
    _check_names(path, "", given, KEYS)
    systems = {
        **(given.get("jobqueue") or {}),
        **({"local": given["local"]} if "local" in given else {}),
    }
    _check_names(path, "jobqueue.", given.get("jobqueue") or {}, tuple(SYSTEMS))
    if len(systems) != 1:
        raise ClusterError(
            f"{path}: give one of local, {', '.join(f'jobqueue.{name}' for name in SYSTEMS)}; "
            f"it has {', '.join(systems) or 'none'}"
        )
    [(system, options)] = systems.items()
    found = ClusterFile(
        path, system, dict(options or {}), distributed=given.get("distributed") or {}
    )
    if system != "local":
        _check_options(found)
        found.adapt = _jobs(found, given)
    return found


def _check_names(path: Path, where: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ClusterError(f"{path}: {where}{name} is unknown{hint} Known: {', '.join(known)}")


def _check_options(file: ClusterFile) -> None:
    """Refuses settings that dask-jobqueue does not know, and a walltime that YAML read as a number."""
    import dask
    import dask_jobqueue  # noqa: F401  (its import adds its settings to dask's)

    known = tuple(dask.config.get(f"jobqueue.{file.system}"))
    file.options = {name.replace("_", "-"): value for name, value in file.options.items()}
    _check_names(file.path, f"jobqueue.{file.system}.", file.options, known)
    for name in ("cores", "memory"):
        if name not in file.options:
            raise ClusterError(f"{file.path}: jobqueue.{file.system}.{name} is missing")
    walltime = file.options.get("walltime")
    if walltime is not None and not isinstance(walltime, str):
        raise ClusterError(
            f"{file.path}: jobqueue.{file.system}.walltime: put it in quotes; YAML reads it as {walltime!r}"
        )


def _jobs(file: ClusterFile, given: dict[str, Any]) -> dict[str, int]:
    """`jobs: N` keeps N jobs, also when one ends at its walltime; `adapt` as many as there is work
    for."""
    if ("jobs" in given) == ("adapt" in given):
        raise ClusterError(f"{file.path}: give either jobs: N or adapt: {{maximum_jobs: N}}")
    adapt = given.get("adapt") or {
        "minimum_jobs": given.get("jobs"),
        "maximum_jobs": given.get("jobs"),
    }
    _check_names(file.path, "adapt.", adapt, ("minimum_jobs", "maximum_jobs"))
    if "maximum_jobs" not in adapt or not all(
        type(count) is int and count >= 0 for count in adapt.values()
    ):
        raise ClusterError(f"{file.path}: the number of jobs must be a whole number, not {adapt}")
    return adapt


def walltime_seconds(system: str, text: str) -> float:
    """Seconds of a walltime as batch systems write it: D-HH:MM:SS, HH:MM:SS, or one or two numbers.

    Two numbers are hours and minutes for LSF and after days, else minutes and seconds; one is
    minutes for Slurm and LSF (hours after days), else seconds. Raises ValueError for other texts.
    """
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        raise ValueError(f"{text!r} is no walltime")
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days or (len(parts) == 2 and system == "lsf"):
        parts += [0] * (3 - len(parts))
    elif len(parts) == 1 and system in ("slurm", "lsf"):
        parts = [0, *parts, 0]
    hours, minutes, seconds = [0] * (3 - len(parts)) + parts
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def lifetime_arguments(system: str, walltime: str) -> list[str]:
    """Arguments of `dask worker` that end it before its job is ended."""
    seconds = walltime_seconds(system, walltime)
    margin = min(LIFETIME_SHARE * seconds, LIFETIME_MARGIN)
    return ["--lifetime", f"{seconds - margin:.0f}s", "--lifetime-stagger", f"{margin / 4:.0f}s"]


@contextlib.contextmanager
def start_cluster(path: Path, say: Callable[[str], None]) -> Iterator[Any]:
    """The cluster that a file describes; it ends with the block. Raises ClusterError."""
    import dask

    file = read_cluster_file(path)
    settings = {
        "distributed.scheduler.default-task-durations.on_worker": RUN_DURATION,
        **{f"distributed.{name}": value for name, value in file.distributed.items()},
    }
    if file.system != "local":  # dask-jobqueue reads them again for every job
        options = _options(file)
        settings |= {f"jobqueue.{file.system}.{key}": value for key, value in options.items()}
    with dask.config.set(settings):
        cluster = _local(file) if file.system == "local" else _batch(file, say)
        try:
            yield cluster
        finally:
            with _quiet_scheduler():
                cluster.close(timeout=30)


@contextlib.contextmanager
def _quiet_scheduler() -> Iterator[None]:
    """No traceback of a scheduler that ends while it still writes to a client that has left."""
    log = logging.getLogger("distributed.scheduler")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


def _local(file: ClusterFile) -> Any:
    from distributed import LocalCluster

    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None, **file.options}
    share = available_cores() // (options["n_workers"] * options["threads_per_worker"])
    threads = os.environ.get("CXR_THREADS") or str(max(1, share))
    options["env"] = {"CXR_THREADS": threads, **options.get("env", {})}
    return LocalCluster(**options, processes=True)


def _batch(file: ClusterFile, say: Callable[[str], None]) -> Any:
    name, command = SYSTEMS[file.system]
    if shutil.which(command) is None:
        raise ClusterError(
            f"{file.path}: {command} is not on this machine; run this where jobs of {file.system} can be submitted"
        )
    try:
        cluster = getattr(importlib.import_module("dask_jobqueue"), name)()
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise ClusterError(f"{file.path}: the cluster cannot be started: {error}") from error
    cluster.adapt(**file.adapt)
    counts = "to ".join(f"{count} " for count in dict.fromkeys(file.adapt.values()))
    say(f"{file.system}: {counts}jobs; runs start when they do")
    return cluster


def _options(file: ClusterFile) -> dict[str, Any]:
    """The settings of the file; where they say nothing else, one worker a job, which imports this
    checkout and ends before its walltime."""
    import dask

    defaults = dask.config.get(f"jobqueue.{file.system}")
    options = {"processes": 1, **file.options}
    arguments = [*(options.get("worker-extra-args") or [])]
    walltime = options.get("walltime", defaults.get("walltime"))
    if walltime and "--lifetime" not in arguments:
        try:
            arguments += lifetime_arguments(file.system, walltime)
        except ValueError as error:
            raise ClusterError(f"{file.path}: jobqueue.{file.system}.walltime: {error}") from error
    lines = [f"cd {REPO_ROOT}", f"export PYTHONPATH={REPO_ROOT}${{PYTHONPATH:+:$PYTHONPATH}}"]
    lines += options.get("job-script-prologue") or []
    return options | {"worker-extra-args": arguments, "job-script-prologue": lines}
