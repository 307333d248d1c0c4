"""In: the folder of a study, `runs/<study>`, or of a run. Out: its plan, and its complete runs as
frames."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config import Config, config_changes
from lib.exceptions import RunError
from lib.files import read_json, read_table
from lib.runs.record import RunRecord, checked_config, checked_record
from lib.runs.run import is_complete


def read_runs(study_folder: Path) -> pd.DataFrame:
    """One row per complete run of a study, in the plan's order: what it is, its macro test metrics,
    its cost.

    The macro metrics are those of `metrics.csv`, with intervals. A record that was made with other
    parameters than the plan's does not count. Raises RunError without a plan, or when no run is
    complete.
    """
    rows = []
    for name, planned in _complete(study_folder).items():
        record = read_record(study_folder / name)
        rows.append(
            {"run": name, **{key: planned[key] for key in ("arm", "seed", "what", "prerequisite")}}
            | {"fold": planned["config"].get("fold", 0)}
            | {"is_reference": planned["reference"], "backbone": record.config["backbone"]}
            | {"findings": len(record.config["findings"])}
            | {
                key: np.nan if value is None else value
                for key, value in record.macro.items()
                if key != "finding"
            }
            | record.model_dump(include={"best_epoch", "train_seconds", "peak_memory_mb"})
            | {"cpu_latency_ms": np.nan if record.cpu_latency_ms is None else record.cpu_latency_ms}
            | {
                "parameters": record.parameters["all"],
                "device": record.device.name or record.device.kind,
            }
            | {"phantom": record.data.phantom, "test_fingerprint": record.data.test_fingerprint}
            | {"torch": record.versions["torch"], "commit": (record.git.commit or "none")[:10]}
        )
    return pd.DataFrame(rows)


def _complete(study_folder: Path) -> dict[str, dict[str, Any]]:
    """The planned runs of a study that are complete; a damaged one is left out with a warning that
    names its file."""
    plan = read_plan(study_folder)["runs"]
    states = {name: run_state(study_folder / name, planned) for name, planned in plan.items()}
    for name, state in states.items():
        if state.name == "damaged":
            warnings.warn(f"{name} is left out: {state.reason}", stacklevel=3)
    complete = {name: plan[name] for name, state in states.items() if state.name == "complete"}
    if not complete:
        raise RunError(
            f"no run of {study_folder} is complete yet ({len(plan)} are planned): cxr run the study first"
        )
    return complete


@dataclass(frozen=True)
class RunState:
    """What the folder of a planned run holds.

    name: "new", "complete", "broken" (it continues), "damaged" (complete, but a file cannot be read
    or is missing), or "changed" (made with other parameters or from another earlier stage). reason:
    why, for the last two.
    """

    name: str
    reason: str = ""


def run_state(folder: Path, planned: dict[str, Any]) -> RunState:
    """Whether `folder` holds the run that `planned`, an entry of plan.json, describes: the one
    place that decides it.

    Where the data are does not count here: `data_root` may be mounted elsewhere (see
    `studies.states`).
    """
    complete = is_complete(folder)
    try:
        changes = _changes(folder, planned)
        if changes:
            return RunState("changed", changes)
        if complete:
            read_record(folder)
    except RunError as error:
        return RunState("damaged" if complete else "changed", str(error))
    if complete:
        return RunState("complete")
    return RunState("broken" if (folder / "config.json").exists() else "new")


def _changes(folder: Path, planned: dict[str, Any]) -> str:
    """How what lies in the folder differs from what is planned, in words; empty where it does
    not."""
    made, spec = folder / "config.json", folder / "spec.json"
    if made.exists() and (changes := config_changes(read_json(made), planned["config"])):
        return ", ".join(
            f"{name} {_short(old)} -> {_short(new)}" for name, (old, new) in changes.items()
        )
    if spec.exists() and read_json(spec)["lineage"] != planned["lineage"]:
        return "its notebook or an earlier stage changed"
    return ""


def read_record(folder: Path) -> RunRecord:
    """The record of a complete run; raises RunError where it is missing or damaged, or a file that
    it lists is gone."""
    record = checked_record(read_json(folder / "record.json"), folder / "record.json")
    if gone := [name for name in record.files if not (folder / name).exists()]:
        raise RunError(
            f"{folder} lacks {', '.join(gone)}, which its record lists; run the study again to make it"
        )
    return record


def read_plan(study_folder: Path) -> dict[str, Any]:
    """The plan of a study: which runs it has, of which arm and seed, and the reference arm."""
    path = study_folder / "plan.json"
    if not path.exists():
        raise RunError(
            f"{study_folder} contains no study. Run `make demo` (writes runs/demo) or `cxr run studies/NAME.yaml`, or "
            "set `study` to an existing folder."
        )
    return read_json(path)


def read_run(folder: Path) -> tuple[Config, RunRecord]:
    """The config and the record of a complete run; raises RunError where there is none."""
    if not is_complete(folder):
        raise RunError(
            f"{folder} holds no complete run. Run `make demo` (writes runs/demo/adaptive-s0), or set `run` to an "
            "existing folder."
        )
    path = folder / "config.json"
    return checked_config(read_json(path), path), read_record(folder)


def read_tables(study_folder: Path, name: str = "metrics.csv") -> pd.DataFrame:
    """A table of all complete runs with the columns run, arm, seed and prerequisite; empty where no
    run has it."""
    frames = []
    for run, planned in _complete(study_folder).items():
        path = study_folder / run / name
        if path.exists():
            columns = {
                "run": run,
                "arm": planned["arm"],
                "seed": planned["seed"],
                "prerequisite": planned["prerequisite"],
            }
            frames.append(read_table(path).assign(**columns))
    none = pd.DataFrame(columns=["run", "arm", "seed", "prerequisite", "finding"])
    return pd.concat(frames, ignore_index=True) if frames else none


def read_config_differences(study_folder: Path) -> pd.DataFrame:
    """The parameters in which complete runs differ, one row per run, in the plan's order; folders
    are left out."""
    configs = {
        name: read_json(study_folder / name / "config.json") for name in _complete(study_folder)
    }
    table = (
        pd.DataFrame.from_dict(configs, orient="index")
        .drop(columns=["run_dir", "seed"])
        .map(_short)
    )
    return table.loc[:, table.nunique() > 1].rename_axis("run")


def _short(value: Any) -> str:
    """A parameter as short text: folders by their names, many findings by their number."""
    if value is None or value != value:
        return "none"
    if isinstance(value, list):
        return f"{len(value)} findings" if len(value) > 4 else ", ".join(map(str, value))
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def read_histories(study_folder: Path) -> dict[str, pd.DataFrame]:
    """The training history of every complete run: {run: one row per epoch}."""
    return {
        name: read_table(study_folder / name / "history.csv") for name in _complete(study_folder)
    }
