"""In: a study's folder. Out: a table of how far each run is."""

import time
from pathlib import Path
from typing import Any

from rich.table import Table

from lib.runs.run import HEARTBEAT_SECONDS, is_complete, read_status
from lib.runs.study import RunState, read_plan, run_state
from lib.studies.progress import text_table


def status_table(study_folder: Path) -> Table:
    """The runs of a study's folder and how far they are."""
    plan = read_plan(study_folder)
    rows = [
        (name, run["what"] or "", state_text(study_folder / name, run))
        for name, run in plan["runs"].items()
    ]
    return text_table(plan["study"], ("run", "changes", "state"), rows)


def state_text(folder: Path, planned: dict[str, Any] | None = None) -> str:
    """The state of a run in words: "running, epoch 2 of 5", "failed: ...", "done"; `planned`:
    its plan's entry."""
    status = read_status(folder)
    if is_complete(folder):
        state = run_state(folder, planned) if planned else RunState("complete")
        return "done" if state.name == "complete" else f"done, but {state.name}: {state.reason}"
    if status["state"] in ("failed", "unknown"):
        return f"{status['state']}: {status['reason']}"
    if status["state"] == "running" and time.time() - status["time"] > 6 * HEARTBEAT_SECONDS:
        return (
            f"no heartbeat for {6 * HEARTBEAT_SECONDS:.0f} s, no error recorded: the process was probably killed. "
            "Run the study again to resume."
        )
    if status["state"] == "running" and status.get("epochs"):
        return f"running, epoch {status.get('epoch', 0)} of {status['epochs']}"
    return status["state"]
