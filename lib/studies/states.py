"""In: a plan. Out: what the folder of each run holds, and whether its data and the file of its first
weights are the same."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from lib.datasets.prepare import data_fingerprint
from lib.files import model_files, sha256
from lib.runs.study import RunState, read_record, run_state
from lib.studies.plan import Plan, PlannedRun

DATA_PARAMETERS = (
    "data_root",
    "data_dir",
    "hold_out",
    "findings",
    "split_by",
    "val_fraction",
    "test_fraction",
    "folds",
    "fold",
    "train_fraction",
    "seed",
    "on_bad",
)


def planned_states(plan: Plan, runs: Iterable[PlannedRun]) -> dict[str, RunState]:
    """The states of the runs' folders, their data and weight files included; a stage that other runs
    need must have its model."""
    fingerprints: dict[tuple, str] = {}
    digests: dict[Path, str] = {}
    return {run.name: _planned_state(plan, run, fingerprints, digests) for run in runs}


def _planned_state(
    plan: Plan, run: PlannedRun, fingerprints: dict[tuple, str], digests: dict[Path, str]
) -> RunState:
    state = run_state(run.folder, plan.entry(run))
    if state.name != "complete":
        return state
    needed = any(run.name in other.needs for other in plan.runs.values())
    if needed and (gone := [path.name for path in model_files(run.folder) if not path.exists()]):
        return RunState(
            "damaged", f"{run.folder} lacks {', '.join(gone)}, from which other runs start"
        )
    if other := _other_weights(plan, run, digests):
        return RunState("changed", other)
    if not moved_from(run):
        return state
    config, recorded = run.config, read_record(run.folder).data.fingerprint
    key = tuple(getattr(config, name) for name in DATA_PARAMETERS)
    if key not in fingerprints:
        fingerprints[key] = data_fingerprint(config)
    if fingerprints[key] == recorded:
        return state
    return RunState(
        "changed", f"the data below {config.data_root} are not those below {moved_from(run)}"
    )


def _other_weights(plan: Plan, run: PlannedRun, digests: dict[Path, str]) -> str:
    """What is said where a complete run, or its first stage, started from another file than
    `pretrained` names now; else nothing, also where that file is gone."""
    made, first = read_record(run.folder).weights, run
    while made is not None and made.starts_from is not None:
        made = made.starts_from
    while first.start:
        first = plan.runs[first.start]
    file = first.config.weights_file
    if made is None or made.source != "file" or file is None or not file.is_file():
        return ""
    if file not in digests:
        digests[file] = sha256(file)
    same = digests[file] == made.sha256
    return "" if same else f"the weight file {file} is not the one that it started from"


def moved_from(run: PlannedRun) -> str:
    """The data root that a complete run was made with, where the plan names another one; else
    nothing."""
    before = read_record(run.folder).config["data_root"]
    return before if before != run.config.data_root else ""


def replaced_text(replaced: dict[str, RunState]) -> str:
    """The complete runs that would be replaced, each with the reason, as lines."""
    lines = [f"  {name}: {state.reason}" for name, state in replaced.items()]
    return "\n".join(["These complete runs would be set aside and repeated:", *lines])


def take_back(plan: Plan, run: PlannedRun, console: Console) -> bool:
    """Renames a complete run that was set aside back to its place if it matches the plan; returns
    whether one did."""
    for aside in sorted(run.folder.parent.glob(f"{run.folder.name}.replaced-*"), reverse=True):
        if run_state(aside, plan.entry(run)).name == "complete":
            aside.rename(run.folder)
            if planned_states(plan, [run])[run.name].name == "complete":
                console.print(
                    f"{run.name}: {aside.name} matches the plan and was taken back",
                    highlight=False,
                )
                return True
            run.folder.rename(aside)
    return False
