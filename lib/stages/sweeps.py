"""In: a study's plan and its arms' scores. Out: the freeze sweep and the learning curves: arms that
differ in one number alone, with their macro AUROC."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from lib.metrics.scores import MACRO
from lib.runs.study import read_plan, read_record, read_runs

SCORE = ["value", "low", "high", "seeds"]
SWEEP = ["arm", "frozen", *SCORE, "backbone", "is_reference"]
CURVES = ["family", "arm", "train_fraction", "train_images", *SCORE, "backbone"]


def freeze_sweep(folder: Path, scores: pd.DataFrame, depths: int) -> pd.DataFrame:
    """Macro AUROC by how many depths of the backbone are frozen: the reference, and the arms that
    change nothing but its `freeze`.

    scores: arm, metric, finding, value, low, high, seeds, as `comparison.compare_study` gives them.
    depths: of the backbone, all of which `freeze: backbone` freezes. Columns SWEEP, by frozen.
    Without such an arm the table is empty. Raises RunError as `read_plan`.
    """
    plan, macro = read_plan(folder), _macro(scores)
    rows = []
    for arm, run in _arms(plan).items():
        changed = re.fullmatch(r"freeze=(\w+)", run["what"] or "")
        of_reference = arm == plan["reference"]
        if arm not in macro.index or not (
            of_reference or (changed and run["changes"] == plan["reference"])
        ):
            continue
        freeze = run["config"]["freeze"]
        frozen = {"none": 0, "backbone": depths}.get(freeze, freeze)
        about = {"backbone": run["config"]["backbone"], "is_reference": of_reference}
        rows.append({"arm": arm, "frozen": frozen, **macro.loc[arm].to_dict(), **about})
    if len(rows) < 2:
        return pd.DataFrame(columns=SWEEP)
    return pd.DataFrame(rows)[SWEEP].sort_values("frozen", kind="stable", ignore_index=True)


def learning_curves(folder: Path, scores: pd.DataFrame) -> pd.DataFrame:
    """Macro AUROC by the share of training patients, in families of arms.

    An arm whose one change is `train_fraction` belongs to the family of the arm that it changes,
    which is a point itself. scores: as for `freeze_sweep`. Columns CURVES, by family and share;
    train_images is the mean over an arm's runs. Without such an arm the table is empty. Raises
    RunError as `read_runs`.
    """
    plan, macro = read_plan(folder), _macro(scores)
    arms, images = _arms(plan), _train_images(folder)
    families: dict[str, list[str]] = {}
    for arm, run in arms.items():
        if re.fullmatch(r"train_fraction=[\d.e-]+", run["what"] or ""):
            families.setdefault(run["changes"], [run["changes"]]).append(arm)
    rows = [
        {"family": family, "arm": arm}
        | {"train_fraction": arms[arm]["config"].get("train_fraction", 1.0)}
        | {"train_images": images.get(arm), **macro.loc[arm].to_dict()}
        | {"backbone": arms[arm]["config"]["backbone"]}
        for family, members in families.items()
        for arm in members
        if arm in macro.index
    ]
    table = pd.DataFrame(rows, columns=CURVES)
    table = table[table.groupby("family")["arm"].transform("size") > 1]
    order = {family: i for i, family in enumerate(families)}
    return table.sort_values(
        ["family", "train_fraction"],
        key=lambda column: column.map(order) if column.name == "family" else column,
        ignore_index=True,
    )


def curve_sentences(table: pd.DataFrame) -> list[str]:
    """One per family of `learning_curves`; one that says so where there is none."""
    if table.empty:
        return ["No arm of this study changes train_fraction alone: it has no learning curve."]
    return [
        f"Learning curve of {family}: macro AUROC "
        + ", ".join(
            f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f}) with "
            f"{100 * row.train_fraction:g} % of the training patients"
            + (" (one seed)" if row.seeds == 1 else "")
            for row in rows.itertuples()
        )
        + "."
        for family, rows in table.groupby("family", sort=False)
    ]


def _arms(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """arm -> the plan's entry of its first run, in the plan's order."""
    arms: dict[str, dict[str, Any]] = {}
    for run in plan["runs"].values():
        if not run["prerequisite"]:
            arms.setdefault(run["arm"], run)
    return arms


def _macro(scores: pd.DataFrame) -> pd.DataFrame:
    """value, low, high and seeds of macro AUROC by arm."""
    rows = scores[(scores["metric"] == "auroc") & (scores["finding"] == MACRO)]
    return rows.drop_duplicates("arm").set_index("arm")[SCORE]


def _train_images(folder: Path) -> dict[str, float]:
    """How many images the runs of each arm trained on, in the mean; NaN where no record says."""
    runs = read_runs(folder).query("~prerequisite")
    used = [getattr(read_record(folder / run).data, "used", {}).get("train") for run in runs["run"]]
    return pd.Series(used, dtype=float).groupby(runs["arm"].to_numpy()).mean().to_dict()
