"""In: the spec of a run, on a Dask worker. Out: the run executed there, with the worker's own threads
and devices.

One thread of a worker executes one run at a time. The run is a fresh process below the worker and
ends with it. A worker that is about to end stops its runs, and Dask gives them to other workers.
"""

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
from distributed import Status, Worker, WorkerPlugin, get_worker

from lib.config import REPO_ROOT, Config
from lib.exceptions import RunError, StudyError
from lib.files import acquire_lock
from lib.locks import lock_kind
from lib.runs.run import folder_lock
from lib.runs.study import run_state
from lib.studies.devices import Slots, devices_needed, find_devices
from lib.studies.execute import process_environment
from lib.system import git_state, package_versions

SLOTS = "cxr-run-slots"
WAIT_SECONDS = 10.0
"""How long a run that was just ended elsewhere may hold its folder before that is worth a line."""


def code_state() -> dict[str, Any]:
    """What decides the numbers of a run besides its parameters: the checkout and the packages."""
    versions = {name: text for name, text in package_versions().items() if name != "python"}
    return {
        "root": str(REPO_ROOT),
        **git_state(),
        "versions": {name: (text or "none").partition("+")[0] for name, text in versions.items()},
        "locks": lock_kind(),
    }


def code_difference(here: dict[str, Any], there: dict[str, Any]) -> str:
    """How a worker's `code_state` differs from that of the command, in words; empty where it does
    not.

    A build of the same version for another device (2.9.0+cpu, 2.9.0+cu126) is the same version.
    """
    found = [
        f"{name} {there['versions'][name]} instead of {version}"
        for name, version in here["versions"].items()
        if there["versions"][name] != version
    ]
    commits = [state["commit"] for state in (there, here)]
    if None not in commits and commits[0] != commits[1]:
        found.append(f"commit {commits[0][:10]} instead of {commits[1][:10]}")
    elif here["root"] != there["root"] and (here["dirty"] or there["dirty"]):
        found.append(f"another checkout, {there['root']}, with changes that are not committed")
    if here["locks"] != there["locks"]:
        found.append(f"CXR_LOCKS {there['locks']} instead of {here['locks']}")
    return ", ".join(found)


class RunSlots(WorkerPlugin):
    """Gives each run on a worker devices of its own; where a worker has fewer devices than threads,
    its runs share them."""

    name = SLOTS
    idempotent = True  # a second study on the same cluster shares the slots of the first

    def setup(self, worker: Worker) -> None:
        """Called by Dask on every worker, also on one that comes later."""
        devices, _ = find_devices()
        room = math.ceil(worker.state.nthreads / max(1, len(devices)))
        self.slots, self.change = Slots(None, dict.fromkeys(devices, room)), threading.Condition()

    @contextlib.contextmanager
    def devices(self, config: Config) -> Iterator[list[str] | None]:
        """The devices of one run, waited for until others end; None where the worker has none.

        Raises StudyError for a run that needs more devices than the worker has.
        """
        free = self.slots.free
        if free and devices_needed(config) > len(free):
            raise StudyError(
                f"devices_per_run is {config.devices_per_run}, and the worker on {socket.gethostname()} has "
                f"{len(free)}: {', '.join(free)}"
            )
        with self.change:
            while (taken := self.slots.take(config)) is None:
                self.change.wait()
        try:
            yield taken if free else None
        finally:
            with self.change:
                self.slots.give_back(taken)
                self.change.notify_all()


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of one run on a worker that executes `threads` at a time.

    Dask's nanny sets OMP_NUM_THREADS=1 and others for Dask's own use; these do not count. Values
    that the user has set do, and CXR_THREADS before all.
    """
    nanny = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    own = {name: value for name, value in os.environ.items() if str(nanny.get(name)) != value}
    return process_environment(threads, own)


def on_worker(
    execute: Callable[..., str | None], spec: dict[str, Any], code: dict[str, Any], topic: str
) -> dict[str, Any]:
    """Executes a run on this worker; tells the topic `topic` of Dask's events that it started.

    {"reason": None or why it failed}, {"refused": how this worker's code differs}, or {"moved":
    True} when this worker ends and the run has to continue on another one.
    """
    worker, folder, stop = get_worker(), Path(spec["folder"]), Path(spec["stop"])
    where = {"run": folder.name, "worker": worker.address, "host": socket.gethostname()}
    if difference := code_difference(code, code_state()):
        return {"refused": difference, **where}

    def leaves() -> bool:
        return worker.status not in (Status.running, Status.paused)

    def ended() -> bool:
        return stop.exists() or leaves()

    worker.log_event(topic, {"action": "started", **where})
    lock = folder_lock(folder)
    try:
        acquire_lock(lock, str(folder), WAIT_SECONDS, ended).release()
    except RunError as error:
        worker.log_event(topic, {"action": "waits", "reason": str(error), **where})
        with contextlib.suppress(RunError):  # asked to end meanwhile
            acquire_lock(lock, str(folder), -1, ended).release()
    if leaves():
        return _moved(worker)
    planned = {"config": spec["parameters"], "lineage": spec["lineage"]}
    if run_state(folder, planned).name == "complete":  # by a worker that was thought dead
        return {"reason": None}
    slots: Any = worker.plugins[SLOTS]
    with slots.devices(Config(**spec["parameters"])) as devices:
        environment = worker_environment(worker.state.nthreads)
        reason = execute({**spec, "environment": environment, "devices": devices}, leaves)
    return _moved(worker) if reason and leaves() else {"reason": reason}


def _moved(worker: Worker) -> dict[str, Any]:
    """The outcome of a run that another worker continues.

    Dask takes it away from a worker that retires; a result that came before would be moved first.
    """
    while worker.status == Status.closing_gracefully:
        time.sleep(0.1)
    return {"moved": True}
