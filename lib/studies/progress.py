"""In: the runs of a study while it runs. Out: a live display (in a log, one line per event), and
the plan as a table."""

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from lib.runs.run import read_status
from lib.studies.durations import clock
from lib.studies.plan import Plan, PlannedRun


class StudyProgress:
    """Shows a study: runs done, running and failed, the time left, and the epoch of each run under
    way."""

    def __init__(self, study: str, total: int, jobs: int, console: Console) -> None:
        self.total, self.jobs, self.console = total, jobs, console
        self.skipped = self.done = self.failed = 0
        self.started: dict[str, float] = {}
        self.seconds: list[float] = []
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        self.display = Progress(
            *columns, console=console, refresh_per_second=2, disable=not console.is_terminal
        )
        self.overall = self.display.add_task(study, total=total, note="")
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "StudyProgress":
        self.display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.display.stop()

    def skip(self, count: int) -> None:
        """Counts runs that were complete before."""
        self.skipped = count
        if count:
            self.say(f"{count} of {self.total} runs are complete already")

    def start(self, name: str, folder: Path, device: str = "", word: str = "started") -> None:
        """A run starts, on `device`; `word` says it otherwise, as of a run that may be queued."""
        self.started[name] = time.monotonic()
        self.tasks[name] = self.display.add_task(
            f"  {name}", total=None, note=f"starting {device}".strip(), folder=folder
        )
        if not self.console.is_terminal:
            self.say(f"{name}: {word}{' on ' if device else ''}{device}")

    def finish(self, name: str, outcome: str, reason: str = "") -> None:
        """A run ended: "done", "stopped", "tried again", or "failed" with its reason."""
        self.done += outcome == "done"
        self.failed += outcome == "failed"
        taken = ""
        if name in self.tasks:
            self.display.remove_task(self.tasks.pop(name))
            seconds = time.monotonic() - self.started.pop(name)
            taken = f" after {clock(seconds)}"
            if outcome == "done":
                self.seconds.append(seconds)
        counts = f"{self.skipped + self.done} of {self.total} done, {self.failed} failed"
        first = reason.partition("\n")[0]
        self.say(f"{name}: {outcome}{taken} ({counts}){': ' if first else ''}{first}")

    def refresh(self, folders: list[Path], waiting: int) -> None:
        """Reads the epochs of the runs under way from their `status.json`."""
        left = self.seconds_left(waiting)
        note = f"{self.skipped + self.done} done, {len(self.tasks)} running, {self.failed} failed"
        note += f", about {clock(left)} left" if left else ""
        self.display.update(
            self.overall, completed=self.skipped + self.done + self.failed, note=note
        )
        for folder in folders:
            status = read_status(folder)
            epochs, epoch = status.get("epochs"), status.get("epoch", 0)
            if folder.name in self.tasks and epochs:
                note = f"epoch {epoch} of {epochs}"
                self.display.update(
                    self.tasks[folder.name], total=epochs, completed=epoch, note=note
                )

    def seconds_left(self, waiting: int) -> float:
        """From the mean of the runs that are done: 0 while none is."""
        if not self.seconds:
            return 0.0
        mean, now = sum(self.seconds) / len(self.seconds), time.monotonic()
        running = [max(0.0, mean - (now - started)) for started in self.started.values()]
        return max([(waiting * mean + sum(running)) / self.jobs, *running])

    def say(self, text: str) -> None:
        """Prints a line above the display."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


def plan_table(plan: Plan, runs: list[tuple[PlannedRun, str]]) -> Table:
    """The plan as a table: what each run changes, what it needs, and what its folder holds."""
    rows = []
    for run, state in runs:
        roles = ["reference"] * run.reference + ["prerequisite"] * run.prerequisite
        changes = f"{run.changes}: {run.what}" if run.changes else "".join(roles[:1])
        rows.append((run.name, changes, run.notebook, ", ".join(run.needs), state))
    return text_table(
        f"{plan.study}: {len(rows)} runs", ("run", "changes", "notebook", "needs", "state"), rows
    )


def plain_text(table: Table) -> str:
    """A table as one line per row, nothing cut off: for pipes, logs and narrow terminals."""
    columns = [[str(cell).replace("\\[", "[") for cell in column.cells] for column in table.columns]
    heads = [str(column.header) for column in table.columns]
    return "\n".join("  ".join(row).rstrip() for row in [heads, *zip(*columns, strict=True)])


def failure_text(failed: dict[str, str]) -> str:
    """The runs that failed, each with its whole reason, as plain lines for terminals, pipes and
    logs."""
    blocks = [f"{name}: " + reason.replace("\n", "\n    ") for name, reason in failed.items()]
    return "\n".join([f"{len(failed)} failed:", *blocks])


def text_table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
