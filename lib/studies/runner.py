"""In: a plan. Out: its runs executed, what is needed first, complete ones skipped, and a summary of
what failed."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from rich.console import Console

from lib.config import resolve
from lib.exceptions import DatasetError, StudyError
from lib.files import acquire_lock, read_json, write_json
from lib.runs.run import is_complete, set_aside, write_status
from lib.runs.study import RunState, run_state
from lib.studies.devices import Jobs, Slots, check_devices, plan_slots
from lib.studies.plan import Plan, PlannedRun
from lib.studies.preflight import check_runs
from lib.studies.progress import StudyProgress
from lib.studies.scheduler import Limits, Scheduler, interrupts
from lib.studies.stages import check_stages
from lib.studies.states import moved_from, planned_states, replaced_text, take_back
from lib.studies.study_data import StudyData, is_drawn_later
from lib.studies.summary import Summary

REPLACE_ADVICE = (
    "Add --replace to do that, run the study under another name with --name, or undo the change; "
    "nothing was touched."
)


def run_plan(
    plan: Plan,
    *,
    only: Iterable[str] = (),
    jobs: Jobs | None = None,
    runs_per_device: int = 1,
    retries: int = 0,
    time_limit: float | None = None,
    executor: Executor | None = None,
    replace: bool = False,
    confirm: Callable[[str], bool] | None = None,
    console: Console | None = None,
    on_end: Callable[[PlannedRun, str | None], None] | None = None,
) -> Summary:
    """Executes the runs of `plan` that are not complete, `jobs` at a time (1 by default; "auto": as
    many as this machine has devices or cores for), and writes `plan.json`. Each run has its own
    device, or shares it with `runs_per_device` - 1 others.

    A complete run of other parameters is set aside and repeated only with `replace`, or when
    `confirm`, called with the list of them, returns True. A run that was set aside and matches the
    plan again is taken back. A broken run continues in its folder. A failed run fails those that
    need it and nothing else, after `retries` more tries; a try has failed after `time_limit`
    seconds. `executor` submits `execute_run`: threads here by default, or a Dask
    cluster with a shared disk (`open_cluster`), where `jobs` is the only limit, none by
    default, and devices are not assigned here. `on_end` is called with each run that ended, or was
    complete, and the reason of its failure; it must not raise. Raises StudyError for an unknown
    name in `only` and for a run that wants more devices than there are, RunError when another
    process runs this study.
    """
    console = console or Console()
    on_end = on_end or (lambda run, reason: None)
    chosen = select(plan, only)
    with study_lock(plan.folder):
        entries = _plan_to_write(plan, chosen)
        _check_file(plan)
        data = _read_data(plan, chosen)
        states = _check(plan, chosen, data, replace, confirm, here=executor is None)
        slots = _slots(plan, chosen, states, jobs, runs_per_device, executor)
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
        work = Scheduler(
            plan,
            waiting,
            summary,
            slots,
            Limits(retries, time_limit),
            StudyProgress(plan.study, len(chosen), slots.jobs or len(chosen), console),
            on_end,
        )
        with interrupts() as interrupted, work.progress:
            if slots.note:
                work.progress.say(slots.note)
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
    here: bool,
) -> dict[str, RunState]:
    """The states of the chosen runs, after all that can be known before training was checked;
    changes nothing. `here`: whether runs are executed on this machine, and need its devices."""
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
    check_runs(plan.file, incomplete if here else [_anywhere(run) for run in incomplete])
    check_stages(plan, incomplete, data)
    return states


def _anywhere(run: PlannedRun) -> PlannedRun:
    """The run without the device that another machine has to have."""
    return dataclasses.replace(run, config=run.config.model_copy(update={"accelerator": "auto"}))


def _slots(
    plan: Plan,
    chosen: list[PlannedRun],
    states: dict[str, RunState],
    jobs: Jobs | None,
    runs_per_device: int,
    executor: Executor | None,
) -> Slots:
    """How many runs at a time, and on which devices; it depends on all chosen runs, not on those
    that are left, so that a run that is continued has the same number of threads."""
    if executor is not None:
        return Slots(None if jobs == "auto" else jobs)
    slots = plan_slots([run.config for run in chosen], jobs, runs_per_device)
    left = {run.name: run.config for run in chosen if states[run.name].name != "complete"}
    check_devices(plan.file, left, list(slots.free))
    return slots


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


@contextlib.contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """One runner per study; the lock ends with the process, however it ends."""
    lock = acquire_lock(folder.with_name(f".{folder.name}.lock"), str(folder))
    try:
        yield
    finally:
        lock.release()
