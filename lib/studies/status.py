"""In: a study's folder. Out: a table of its runs: how far each is, how good, and where it runs; once,
or live."""

import os
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lib.exceptions import RunError
from lib.files import read_json, write_json
from lib.runs.run import HEARTBEAT_SECONDS, is_complete, read_status
from lib.runs.study import RunState, read_plan, read_record, run_state
from lib.studies.devices import device_text
from lib.studies.durations import clock
from lib.studies.progress import plain_text, text_table

SILENCE_SECONDS = 6 * HEARTBEAT_SECONDS
"""What has not noted anything for so long does not run any more."""
COLUMNS = ("run", "changes", "state", "epoch", "best", "device", "machine", "left")
FIRST = ("running", "failed")
"""States that a live table shows at its top: its end may not fit on the screen."""


def status_table(study_folder: Path, *, live: bool = False) -> Table:
    """The runs of a study's folder and how far they are; `live`: those under way first, and of a
    reason the first line."""
    plan = read_plan(study_folder)
    rows = [_row(study_folder / name, name, run) for name, run in plan["runs"].items()]
    if live:
        rows.sort(key=lambda row: not row[2].startswith(FIRST))
        rows = [tuple(cell.partition("\n")[0] for cell in row) for row in rows]
    return text_table(_title(study_folder, plan["study"], rows), COLUMNS, rows)


def watch_study(study_folder: Path, console: Console, seconds: float = 2.0) -> None:
    """Shows the table anew every few seconds until the study no longer runs: in place on a
    terminal, else as one plain block after the other."""
    if not console.is_terminal:
        while True:
            going, table = is_running(study_folder), status_table(study_folder, live=True)
            text = f"{table.title}\n{plain_text(table)}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            if not going:
                return
            time.sleep(seconds)
    with Live(console=console, auto_refresh=False) as display:
        while True:
            going = is_running(study_folder)
            display.update(status_table(study_folder, live=True), refresh=True)
            if not going:
                return
            time.sleep(seconds)


def is_running(study_folder: Path) -> bool:
    """Whether a runner works on the study, or one of its runs goes on without it."""
    if _runner(study_folder):
        return True
    return any(
        state_text(study_folder / name) == "running" for name in read_plan(study_folder)["runs"]
    )


def write_runner(study_folder: Path, state: str, left: float) -> None:
    """Notes in `runner.json` that a runner works on the study (running), or no longer (ended);
    `left`: seconds, 0 when unknown."""
    fields = {"host": socket.gethostname(), "pid": os.getpid(), "left": round(left)}
    write_json(study_folder / "runner.json", {"state": state, "time": time.time(), **fields})


def _runner(study_folder: Path) -> dict[str, Any]:
    """What the study's runner noted last; nothing when none works on it."""
    path = study_folder / "runner.json"
    noted = read_json(path) if path.exists() else {"state": "ended"}
    return noted if noted["state"] == "running" and not _is_silent(noted) else {}


def _is_silent(noted: dict[str, Any]) -> bool:
    return time.time() - noted["time"] > SILENCE_SECONDS


def _title(study_folder: Path, study: str, rows: list[tuple[str, ...]]) -> str:
    states = Counter(row[2].partition(":")[0].partition(",")[0] for row in rows)
    counts = [f"{states['done']} of {len(rows)} done"]
    counts += [f"{states[name]} {name}" for name in FIRST if states[name]]
    left = _runner(study_folder).get("left", 0)
    counts += [f"about {clock(left)} left"] if left else []
    return f"{study}: {', '.join(counts)}"


def _row(folder: Path, name: str, planned: dict[str, Any]) -> tuple[str, ...]:
    status, state = read_status(folder), state_text(folder, planned)
    epochs, best = status.get("epochs"), status.get("best")
    epoch = f"{status.get('epoch', 0)} of {epochs}" if epochs else ""
    score = f"{best['score']} {best['value']:.3f}" if best else ""
    left = _seconds_left(status) if state == "running" else 0
    about = f"about {clock(left)}" if left else ""
    place = _place(folder, status, planned["config"].get("accelerator", "auto"))
    return (name, planned["what"] or "", state, epoch, score, *place, about)


def _seconds_left(status: dict[str, Any]) -> float:
    """Of training, from the duration of the last epoch; 0 when it is not known."""
    left = status.get("epochs", 0) - status.get("epoch", 0)
    return left * status.get("seconds", 0.0)


def _place(folder: Path, status: dict[str, Any], accelerator: str) -> tuple[str, str]:
    """Device and machine of a run: those of its record where it is complete; `accelerator` stands
    for a device that nobody assigned."""
    if is_complete(folder):
        try:
            made = read_record(folder).device
        except RunError:
            return "", ""
        return device_text(made.ids) or made.kind, made.host
    if "host" not in status:
        return "", ""
    return device_text(status.get("devices", ())) or accelerator, status["host"]


def state_text(folder: Path, planned: dict[str, Any] | None = None) -> str:
    """The state of a run in words: "running", "failed: ...", "done"; `planned`: its plan's
    entry."""
    status = read_status(folder)
    if is_complete(folder):
        state = run_state(folder, planned) if planned else RunState("complete")
        return "done" if state.name == "complete" else f"done, but {state.name}: {state.reason}"
    if status["state"] in ("failed", "unknown"):
        return f"{status['state']}: {status['reason']}"
    if status["state"] == "running" and _is_silent(status):
        return (
            f"no heartbeat for {SILENCE_SECONDS:.0f} s, no error recorded: the process was probably killed. "
            "Run the study again to resume."
        )
    return status["state"]
