"""In: a plan. Out: its runs executed, what is needed first, complete ones skipped, and a summary of
what failed."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from lib.config import resolve
from lib.exceptions import DatasetError, StudyError
from lib.files import acquire_lock, read_json, write_json
from lib.runs.run import is_complete, set_aside, write_status
from lib.runs.study import RunState, run_state
from lib.studies.execute import INTERRUPTED, execute_run, process_environment
from lib.studies.fork_server import start_server
from lib.studies.plan import Plan, PlannedRun
from lib.studies.preflight import check_runs
from lib.studies.progress import StudyProgress
from lib.studies.stages import check_stages
from lib.studies.states import moved_from, planned_states, replaced_text, take_back
from lib.studies.study_data import StudyData, is_drawn_later

REPLACE_ADVICE = (
    "Add --replace to do that, run the study under another name with --name, or undo the change; "
    "nothing was touched."
)


@dataclass
class Summary:
    """How the runs of a plan ended; `failed` holds the reasons."""

    skipped: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 1 when a run failed, else 0."""
        if self.interrupted:
            return 130
        return 1 if self.failed else 0

    def text(self) -> str:
        """One sentence: how it ended and, if something is left, how to continue."""
        if not self.done and not self.failed and not self.interrupted:
            return f"everything is complete ({len(self.skipped)} runs); nothing to do"
        counts = f"{len(self.done)} done, {len(self.failed)} failed, {len(self.skipped)} were complete before"
        if self.interrupted:
            return f"interrupted: {counts}; nothing is lost, the same command continues"
        return f"{counts}; the same command repeats the failed ones" if self.failed else counts


def run_plan(
    plan: Plan,
    *,
    only: Iterable[str] = (),
    jobs: int = 1,
    executor: Executor | None = None,
    replace: bool = False,
    confirm: Callable[[str], bool] | None = None,
    console: Console | None = None,
    on_end: Callable[[PlannedRun, str | None], None] | None = None,
) -> Summary:
    """Executes the runs of `plan` that are not complete, `jobs` at a time, and writes `plan.json`.

    A complete run of other parameters is set aside and repeated only with `replace`, or when
    `confirm`, called with the list of them, returns True. A run that was set aside and matches the
    plan again is taken back. A broken run continues in its folder. A failed run fails those that
    need it and nothing else. `executor` submits `execute_run`: threads here by default, or Dask's
    `client.get_executor()` on a cluster with a shared disk. `on_end` is called with each run that
    ended, or was complete, and the reason of its failure; it must not raise. Raises StudyError for
    an unknown name in `only`, RunError when another process runs this study.
    """
    console = console or Console()
    on_end = on_end or (lambda run, reason: None)
    chosen = select(plan, only)
    with study_lock(plan.folder):
        entries = _plan_to_write(plan, chosen)
        _check_file(plan)
        data = _read_data(plan, chosen)
        states = _check(plan, chosen, data, replace, confirm)
        write_json(plan.folder / "plan.json", entries)
        _make_room(plan, chosen, states, console)
        summary = Summary()
        for run in chosen:
            if states[run.name].name == "complete":
                summary.skipped.append(run.name)
                on_end(run, None)
        waiting = {run.name: run for run in chosen if run.name not in summary.skipped}
        if not waiting:
            return summary
        for run in waiting.values():
            write_status(run.folder, "queued")
        work = _Work(
            plan,
            waiting,
            summary,
            jobs,
            StudyProgress(plan.study, len(chosen), jobs, console),
            on_end,
        )
        with _interrupts() as interrupted, work.progress:
            for folders, note in data.notes():
                work.mention(folders, note)
            work.progress.skip(len(summary.skipped))
            work.execute(executor, interrupted)
        return summary


def _check(
    plan: Plan,
    chosen: list[PlannedRun],
    data: StudyData,
    replace: bool,
    confirm: Callable[[str], bool] | None,
) -> dict[str, RunState]:
    """The states of the chosen runs, after all that can be known before training was checked;
    changes nothing."""
    states = planned_states(plan, chosen)
    replaced = {
        name: state
        for name, state in states.items()
        if state.name == "changed" and is_complete(plan.runs[name].folder)
    }
    if replaced and not (replace or (confirm and confirm(replaced_text(replaced)))):
        raise StudyError(
            f"{plan.file}: nothing was started\n{replaced_text(replaced)}\n{REPLACE_ADVICE}"
        )
    incomplete = [run for run in chosen if states[run.name].name != "complete"]
    check_runs(plan.file, incomplete)
    check_stages(plan, incomplete, data)
    return states


def _make_room(
    plan: Plan, chosen: list[PlannedRun], states: dict[str, RunState], console: Console
) -> None:
    """Sets aside what does not match the plan, and takes back what was set aside and matches;
    updates `states`."""
    for run in chosen:
        if states[run.name].name in ("changed", "damaged"):
            aside = set_aside(run.folder)
            console.print(
                f"{run.name}: {states[run.name].reason}; the old run is kept in {aside}",
                highlight=False,
            )
        if not run.folder.exists() and take_back(plan, run, console):
            states[run.name] = RunState("complete")


def _plan_to_write(plan: Plan, chosen: list[PlannedRun]) -> dict[str, Any]:
    """plan.json: runs that are not chosen, but complete as they were planned before, keep the entry
    that they had."""
    new, path = plan.as_json(), plan.folder / "plan.json"
    names = {run.name for run in chosen}
    before = read_json(path)["runs"] if path.exists() else {}
    for name, old in before.items():
        kept = name in new["runs"] and name not in names
        if kept and run_state(plan.folder / name, old).name == "complete":
            new["runs"][name] = old
    return new


def _check_file(plan: Plan) -> None:
    """Raise StudyError when the folder holds the study of another file, which is still there."""
    path = plan.folder / "plan.json"
    made_by = read_json(path)["file"] if path.exists() else plan.as_json()["file"]
    if made_by != plan.as_json()["file"] and resolve(made_by).exists():
        raise StudyError(
            f"{plan.file}: nothing was started: {plan.folder} holds the runs of {made_by}, which has the same "
            f"`study: {plan.study}`; give one of the two another name, in the file or with --name"
        )


def select(plan: Plan, only: Iterable[str]) -> list[PlannedRun]:
    """The runs whose name or arm is in `only`, and what they need, in the plan's order; all when it
    is empty."""
    only = list(only)
    names = {run.arm for run in plan.runs.values()} | set(plan.runs)
    if unknown := [name for name in only if name not in names]:
        raise StudyError(
            f"{plan.file}: --only names unknown runs: {', '.join(unknown)}; known: {', '.join(names)}"
        )
    wanted = {
        run.name for run in plan.runs.values() if not only or run.name in only or run.arm in only
    }
    for run in reversed(plan.runs.values()):
        if run.name in wanted:
            wanted.update(run.needs)
    return [run for run in plan.runs.values() if run.name in wanted]


def _read_data(plan: Plan, runs: list[PlannedRun]) -> StudyData:
    """The datasets of runs that are to start, or whose complete run is to be replaced.

    Raises StudyError, before anything starts or is set aside, for folders that hold no dataset and
    for rows that cannot be used.
    """
    data = StudyData()
    problems: dict[str, str] = {}
    for run in runs:
        complete = run_state(run.folder, plan.entry(run)).name == "complete"
        if is_drawn_later(run.config) or (complete and not moved_from(run)):
            continue
        try:
            data.dataset(run.config)
        except DatasetError as error:
            problems.setdefault(str(error), run.name)
    if problems:
        others = " and others" if len(runs) > 1 else ""
        lines = [f"run {name!r}{others}: {error}" for error, name in problems.items()]
        advice = (
            "Say where the data are with --set data_root=FOLDER, or leave runs out with --only."
        )
        raise StudyError("\n".join([f"{plan.file}: nothing was started", *lines, advice]))
    return data


# --- scheduling ---


@dataclass
class _Work:
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
def study_lock(folder: Path) -> Iterator[None]:
    """One runner per study; the lock ends with the process, however it ends."""
    lock = acquire_lock(folder.with_name(f".{folder.name}.lock"), str(folder))
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
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
