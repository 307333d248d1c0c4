"""In: the folder of a study, `runs/<study>`, or of a run. Out: its plan, and its complete runs as frames."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config import Config
from lib.exceptions import RunError
from lib.metrics import MACRO
from lib.results import is_complete, read_json


def read_runs(study_folder: Path) -> pd.DataFrame:
    """One row a complete run of a study, in the plan's order: what it is, its macro test metrics, what it cost.

    The macro metrics are those of `metrics.csv`, with intervals. A record that was made with other parameters than
    the plan's does not count. Raises RunError without a plan, or when no run is complete.
    """
    rows = []
    for name, planned in _complete(study_folder).items():
        record = read_json(study_folder / name / "record.json")
        macro = next(row for row in record["metrics"] if row["finding"] == MACRO)
        rows.append(
            {"run": name, **{key: planned[key] for key in ("arm", "seed", "what", "prerequisite")}}
            | {"is_reference": planned["reference"], "backbone": record["config"]["backbone"]}
            | {"findings": len(record["config"]["findings"])}
            | {key: np.nan if value is None else value for key, value in macro.items() if key != "finding"}
            | {key: record[key] for key in ("best_epoch", "train_seconds", "peak_memory_mb")}
            | {"cpu_latency_ms": record.get("cpu_latency_ms", np.nan)}
            | {
                "parameters": record["parameters"]["all"],
                "device": record["device"].get("name", record["device"]["kind"]),
            }
            | {"phantom": record["data"]["phantom"], "test_fingerprint": record["data"]["test_fingerprint"]}
            | {"torch": record["versions"]["torch"], "commit": (record["git"]["commit"] or "none")[:10]}
        )
    return pd.DataFrame(rows)


def _complete(study_folder: Path) -> dict[str, dict[str, Any]]:
    plan = read_plan(study_folder)["runs"]
    complete = {}
    for name, planned in plan.items():
        folder = study_folder / name
        if is_complete(folder) and _is_planned(folder, planned):
            complete[name] = planned
    if not complete:
        raise RunError(f"no run of {study_folder} is complete yet ({len(plan)} are planned): cxr run the study first")
    return complete


def _is_planned(folder: Path, planned: dict[str, Any]) -> bool:
    """Whether a complete run was made with the plan's parameters, from a stage made with the plan's, and so on."""
    spec = folder / "spec.json"
    same = read_json(folder / "record.json")["config_hash"] == planned["config_hash"]
    return same and (not spec.exists() or read_json(spec)["lineage"] == planned["lineage"])


def read_plan(study_folder: Path) -> dict[str, Any]:
    """The plan of a study: which runs it has, of which arm and seed, and the reference arm."""
    path = study_folder / "plan.json"
    if not path.exists():
        raise RunError(
            f"{study_folder} holds no study that was run: `make demo` makes runs/demo, `cxr run studies/NAME.yaml` "
            "another; or name one that is there in the parameter `study`"
        )
    return read_json(path)


def read_run(folder: Path) -> tuple[Config, dict[str, Any]]:
    """The config and the record of a complete run; raises FileNotFoundError where there is none."""
    if not is_complete(folder):
        raise RunError(
            f"{folder} holds no complete run: `make demo` makes runs/demo/adaptive-s0, or name one that is there in "
            "the parameter `run`"
        )
    return Config(**read_json(folder / "config.json")), read_json(folder / "record.json")


def read_tables(study_folder: Path, name: str = "metrics.csv") -> pd.DataFrame:
    """A table of all complete runs with the columns run, arm, seed and prerequisite; empty where no run has it."""
    frames = []
    for run, planned in _complete(study_folder).items():
        path = study_folder / run / name
        if path.exists():
            told = {"run": run, "arm": planned["arm"], "seed": planned["seed"], "prerequisite": planned["prerequisite"]}
            frames.append(pd.read_csv(path).assign(**told))
    none = pd.DataFrame(columns=["run", "arm", "seed", "prerequisite", "finding"])
    return pd.concat(frames, ignore_index=True) if frames else none


def read_config_differences(study_folder: Path) -> pd.DataFrame:
    """The parameters in which complete runs differ, one row a run, in the plan's order; folders are left out."""
    configs = {name: read_json(study_folder / name / "config.json") for name in _complete(study_folder)}
    table = pd.DataFrame.from_dict(configs, orient="index").drop(columns=["run_dir", "seed"]).map(_told)
    return table.loc[:, table.nunique() > 1].rename_axis("run")


def _told(value: Any) -> str:
    """A parameter in few letters: folders by their names, all findings by their number."""
    if value is None or value != value:
        return "none"
    if isinstance(value, list):
        return f"{len(value)} findings" if len(value) > 4 else ", ".join(map(str, value))
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def read_histories(study_folder: Path) -> dict[str, pd.DataFrame]:
    """The training history of every complete run: {run: one row an epoch}."""
    return {name: pd.read_csv(study_folder / name / "history.csv") for name in _complete(study_folder)}
