"""In: the runs of a plan that are to start. Out: each executed once what it needs is complete, and
noted in the summary.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.config import resolve
from lib.files import read_json
from lib.runs.run import write_status
from lib.studies.execute import INTERRUPTED, execute_run, process_environment
from lib.studies.fork_server import start_server
from lib.studies.plan import Plan, PlannedRun
from lib.studies.progress import StudyProgress
from lib.studies.summary import Summary


@dataclass
class Scheduler:
    """The runs under way: `waiting` -> `running` -> the summary's done or failed."""

    plan: Plan
    waiting: dict[str, PlannedRun]
    summary: Summary
    jobs: int
    progress: StudyProgress
    on_end: Callable[[PlannedRun, str | None], None]
    running: dict[Future, PlannedRun] = field(default_factory=dict)
    mentioned: set[tuple] = field(default_factory=set)

    @property
    def stop(self) -> Path:
        return self.plan.folder / f".stop-{os.getpid()}"

    def execute(self, executor: Executor | None, interrupted: threading.Event) -> None:
        """Runs everything; once `interrupted` is set, ends the runs under way, which then failed as
        interrupted."""
        self.stop.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            stack.callback(self.stop.unlink, missing_ok=True)
            if executor is None:
                start_server(process_environment(self.jobs))
            pool = executor or stack.enter_context(
                ThreadPoolExecutor(self.jobs, thread_name_prefix="run")
            )
            while (self.waiting or self.running) and not interrupted.is_set():
                self._start_ready(pool)
                finished, _ = wait(self.running, timeout=0.5, return_when=FIRST_COMPLETED)
                self._collect(finished)
                self.progress.refresh(
                    [run.folder for run in self.running.values()], len(self.waiting)
                )
            if self.waiting or self.running:
                self.stop.touch()
                self.summary.interrupted = True
                self._collect(wait(self.running).done)

    def _start_ready(self, pool: Executor) -> None:
        for run in list(self.waiting.values()):
            failed = [name for name in run.needs if name in self.summary.failed]
            if failed:
                del self.waiting[run.name]
                reason = f"needs {failed[0]}, which failed"
                write_status(run.folder, "failed", reason=reason)
                self._fail(run, reason)
            elif len(self.running) < self.jobs and not any(
                name in self.unfinished for name in run.needs
            ):
                del self.waiting[run.name]
                self.progress.start(run.name, run.folder)
                self.running[pool.submit(execute_run, self._spec(run))] = run

    @property
    def unfinished(self) -> set[str]:
        return {*self.waiting, *(run.name for run in self.running.values())}

    def _spec(self, run: PlannedRun) -> dict[str, Any]:
        return {
            "notebook": str(resolve(run.notebook)),
            "folder": str(run.folder.resolve()),
            "parameters": run.config.model_dump(mode="json"),
            "lineage": run.lineage,
            "environment": process_environment(self.jobs),
            "stop": str(self.stop.resolve()),
        }

    def _collect(self, finished: Iterable[Future]) -> None:
        for future in finished:
            run = self.running.pop(future)
            error = future.exception()
            reason = (
                f"could not be executed: {type(error).__name__}: {error}"
                if error
                else future.result()
            )
            if error:
                write_status(run.folder, "failed", reason=reason)
            if reason:
                self._fail(run, reason)
            else:
                self.summary.done.append(run.name)
                self.progress.finish(run.name, "done")
                self._mention_data(run)
                self.on_end(run, None)

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
