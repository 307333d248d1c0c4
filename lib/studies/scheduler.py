"""In: the runs of a plan that are to start. Out: each executed once what it needs is complete and a
slot is free, tried again where that is wanted, and noted in the summary."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from lib.config import resolve
from lib.exceptions import ClusterError
from lib.files import read_json
from lib.runs.run import HEARTBEAT_SECONDS, note_failure, write_status
from lib.studies.devices import Slots, device_text
from lib.studies.execute import INTERRUPTED, execute_run, process_environment
from lib.studies.fork_server import start_server
from lib.studies.plan import Plan, PlannedRun
from lib.studies.progress import StudyProgress
from lib.studies.status import write_runner
from lib.studies.summary import Summary


@dataclass(frozen=True)
class Limits:
    """How often a failed run is tried again, and after how many seconds a try is ended."""

    retries: int = 0
    time_limit: float | None = None


@dataclass
class Scheduler:
    """The runs under way: `waiting` -> `running` -> the summary's done or failed, or `waiting` once
    more."""

    plan: Plan
    waiting: dict[str, PlannedRun]
    summary: Summary
    slots: Slots
    limits: Limits
    progress: StudyProgress
    on_end: Callable[[PlannedRun, str | None], None]
    running: dict[Future, PlannedRun] = field(default_factory=dict)
    devices: dict[str, list[str]] = field(default_factory=dict)
    tries: dict[str, list[str]] = field(default_factory=dict)
    mentioned: set[tuple] = field(default_factory=set)
    noted: float = -math.inf

    @property
    def stop(self) -> Path:
        return self.plan.folder / f".stop-{os.getpid()}"

    def execute(self, executor: Executor | None, interrupted: threading.Event) -> None:
        """Runs everything; once `interrupted` is set, ends the runs under way, which then failed as
        interrupted."""
        for stale in self.plan.folder.glob(".stop-*"):
            stale.unlink()
        with contextlib.ExitStack() as stack:
            stack.callback(self.stop.unlink, missing_ok=True)
            stack.callback(self._note, "ended")
            if executor is None:
                start_server(process_environment(self.slots.jobs or 1))
            pool = executor or stack.enter_context(
                ThreadPoolExecutor(self.slots.jobs, thread_name_prefix="run")
            )
            while (self.waiting or self.running) and not interrupted.is_set():
                self._start_ready(pool)
                finished, _ = wait(self.running, timeout=0.5, return_when=FIRST_COMPLETED)
                try:
                    self._collect(finished)
                except ClusterError:
                    stack.pop_all()  # the file stays, for workers that have not heard of the loss
                    self.stop.touch()
                    self._note("ended")
                    raise
                self.progress.refresh(
                    [run.folder for run in self.running.values()], len(self.waiting)
                )
                self._note("running")
            if self.waiting or self.running:
                self.stop.touch()
                self.summary.interrupted = True
                pool.shutdown(wait=False, cancel_futures=True)
                self._collect(wait(self.running).done)

    def _note(self, state: str) -> None:
        """Writes runner.json, which shows others that the study runs, every HEARTBEAT_SECONDS; it
        waits while a disk is full."""
        now = time.monotonic()
        if state == "ended" or now - self.noted > HEARTBEAT_SECONDS:
            self.noted = now
            with contextlib.suppress(OSError):
                write_runner(self.plan.folder, state, self.progress.seconds_left(len(self.waiting)))

    def _start_ready(self, pool: Executor) -> None:
        for run in list(self.waiting.values()):
            failed = [name for name in run.needs if name in self.summary.failed]
            if failed:
                del self.waiting[run.name]
                reason = f"needs {failed[0]}, which failed"
                write_status(run.folder, "failed", reason=reason)
                self._fail(run, reason)
            elif self._has_place() and not any(name in self.unfinished for name in run.needs):
                devices = self.slots.take(run.config)
                if devices is not None:
                    del self.waiting[run.name]
                    self.devices[run.name] = devices
                    word = "started" if self.slots.jobs else "submitted"
                    self.progress.start(run.name, run.folder, device_text(devices), word)
                    self.running[pool.submit(execute_run, self._spec(run))] = run

    def _has_place(self) -> bool:
        return self.slots.jobs is None or len(self.running) < self.slots.jobs

    @property
    def unfinished(self) -> set[str]:
        return {*self.waiting, *(run.name for run in self.running.values())}

    def _spec(self, run: PlannedRun) -> dict[str, Any]:
        return {
            "notebook": str(resolve(run.notebook)),
            "folder": str(run.folder.resolve()),
            "parameters": run.config.model_dump(mode="json"),
            "lineage": run.lineage,
            "environment": process_environment(self.slots.jobs or 1),
            "devices": self.devices[run.name] if self.slots.free else None,
            "time_limit": self.limits.time_limit,
            "stop": str(self.stop.resolve()),
        }

    def _collect(self, finished: Iterable[Future]) -> None:
        for future in finished:
            run = self.running.pop(future)
            self.slots.give_back(self.devices.pop(run.name))
            error = future.exception()
            if isinstance(error, ClusterError):
                raise error
            reason = (
                f"could not be executed: {type(error).__name__}: {error}"
                if error
                else future.result()
            )
            if reason and self._may_try_again(run, reason):
                self._keep_reason(run, reason)
                self.waiting[run.name] = run
                write_status(run.folder, "queued")
                self.progress.finish(run.name, "tried again", reason)
            elif reason:
                reason = self._with_earlier(run, reason)
                note_failure(run.folder, reason)
                self._fail(run, reason)
            else:
                self.summary.done.append(run.name)
                self.progress.finish(run.name, "done")
                self._mention_data(run)
                self.on_end(run, None)

    def _may_try_again(self, run: PlannedRun, reason: str) -> bool:
        ended = reason == INTERRUPTED or self.summary.interrupted
        return not ended and len(self.tries.get(run.name, ())) < self.limits.retries

    def _keep_reason(self, run: PlannedRun, reason: str) -> None:
        """Keeps why a try failed, also in failures.log, unless the disk is full."""
        tries = self.tries.setdefault(run.name, [])
        tries.append(reason)
        self.summary.repeated[run.name] = len(tries) + 1
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        with contextlib.suppress(OSError), (run.folder / "failures.log").open("a") as log:
            log.write(f"{when} try {len(tries)}: {reason}\n")

    def _with_earlier(self, run: PlannedRun, reason: str) -> str:
        """The reason of the last failure, followed by those of the earlier tries."""
        tries = self.tries.get(run.name, [])
        lines = [f"try {number}: {text}" for number, text in enumerate(tries, 1)]
        return "\n".join([reason, "what failed before:", *lines] if lines else [reason])

    def _mention_data(self, run: PlannedRun) -> None:
        """Prints what only the run could find: images that cannot be decoded."""
        path = run.folder / "data.json"
        data = read_json(path) if path.exists() else {}
        folders = ", ".join(run.config.data_dir)
        for note in data.get("warnings", ()):
            self.mention(folders, note)
        if count := data.get("undecodable"):
            self.mention(
                folders,
                f"{count} images cannot be decoded and were left out (on_bad=skip); "
                f"see {run.folder / 'bad_rows.csv'}",
            )

    def mention(self, folders: str, note: str) -> None:
        """Prints a note about a dataset, once."""
        if (folders, note) not in self.mentioned:
            self.mentioned.add((folders, note))
            self.progress.say(f"{folders}: {note}")

    def _fail(self, run: PlannedRun, reason: str) -> None:
        self.summary.failed[run.name] = reason
        stopped = reason == INTERRUPTED
        self.progress.finish(
            run.name, "stopped" if stopped else "failed", "" if stopped else reason
        )
        self.on_end(run, reason)


@contextlib.contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C, or a scheduler's SIGTERM, sets; a second one has its usual effect.

    A KeyboardInterrupt could fall between the start of a run and its registration, and leave it
    running unseen.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def first(number: int, frame: Any) -> None:
        restore()
        event.set()

    for number in before:
        signal.signal(number, first)
    try:
        yield event
    finally:
        restore()
