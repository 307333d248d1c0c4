"""In: the tables of an evaluation. Out: its folder, whole or not at all; the evaluations of a study as
frames."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lib.exceptions import RunError
from lib.files import read_json, read_table, write_json, write_table, write_text
from lib.runs.study import read_plan

RECORD = "evaluation.json"
"""Written last: an evaluation is complete when it exists."""


def find_kept(place: Path, key: dict[str, Any], replace: bool) -> bool:
    """Whether `place` holds the evaluation of this key.

    Raises RunError where it holds another one, or anything else, unless an evaluation may be replaced.
    """
    if not place.exists():
        return False
    if not (place / RECORD).exists():
        raise RunError(
            f"{place} holds something that is no evaluation; choose another name with --name NAME"
        )
    if replace:
        return False
    if read_json(place / RECORD).get("key") == key:
        return True
    raise RunError(
        f"{place} holds an evaluation of another model, other films or other numbers of local films: "
        "replace it with --replace, or choose another name with --name NAME"
    )


def write_evaluation(
    place: Path, tables: Mapping[str, pd.DataFrame], text: str, about: dict[str, Any]
) -> Path:
    """Writes the tables, summary.md and evaluation.json into `place`, which appears whole or not at all;
    an evaluation that was there is replaced."""
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{place.name}.partial-", dir=place.parent))
    try:
        for name, table in tables.items():
            write_table(draft / name, table)
        write_text(draft / "summary.md", text)
        write_json(draft / RECORD, about)
        draft.chmod(0o755)
        if place.exists():
            old = draft.with_name(f"{draft.name}.old")
            os.rename(place, old)  # noqa: PTH104 - of folders
            draft.rename(place)
            shutil.rmtree(old)
        else:
            draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return place


def read_evaluation(place: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """evaluation.json, metrics.csv and local_thresholds.csv of one evaluation; raises RunError where one
    is missing or damaged."""
    about = read_json(place / RECORD)
    return about, *(read_table(place / name) for name in ("metrics.csv", "local_thresholds.csv"))


def find_evaluations(study: Path) -> list[Path]:
    """The evaluations of a study: of its arms first, then of its runs, in the plan's order."""
    runs = read_plan(study)["runs"]
    found = sorted(study.glob(f"evaluations/*/*/{RECORD}"))
    for run in runs:
        found += sorted(study.glob(f"{run}/evaluations/*/{RECORD}"))
    return [path.parent for path in found]


def external_table(study: Path) -> pd.DataFrame:
    """The metrics of all evaluations of a study with the columns model, data and phantom before them;
    empty where there is none."""
    frames = []
    for place in find_evaluations(study):
        about, metrics, _ = read_evaluation(place)
        first = {"model": about["model"]["name"], "data": about["name"]}
        frames.append(metrics.assign(**first, phantom=about["phantom"]))
    if not frames:
        return pd.DataFrame()
    table = pd.concat(frames, ignore_index=True)
    head = ["model", "data", "phantom"]
    return table[[*head, *(name for name in table if name not in head)]]
