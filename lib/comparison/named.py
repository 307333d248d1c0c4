"""In: runs, studies and tables of predictions named by hand. Out: their comparison."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from lib.comparison.arms import RunPredictions, read_run_predictions
from lib.comparison.external import External, on_labels, on_test_images
from lib.comparison.prediction_table import (
    PredictionTable,
    is_prediction_table,
    read_prediction_table,
)
from lib.comparison.verdicts import (
    Comparison,
    compare_arms,
    compare_study,
    runs_by_seed,
)
from lib.exceptions import ComparisonError
from lib.runs.study import read_runs


def compare_folders(
    paths: Sequence[Path],
    labels: pd.DataFrame | None = None,
    *,
    skip_unknown: bool = False,
    margin: float | None = None,
) -> Comparison:
    """Runs, studies and tables named by hand, the first the reference: a folder of a run is an arm, a
    study's its reference, with all seeds and folds; a CSV or Parquet file is an arm of one training.

    A run of one fold is compared on the patients of that fold. With one study alone, its arms. Files
    are scored on the test images of the first run or study; where there is none, with `labels`
    (`datasets.read_labels`) or their own. margin: of AUROC, of a study alone in
    its primary metric (`verdicts.compare_arms`). Raises ComparisonError where there are not two arms, or
    test images differ.
    """
    if margin is not None and not 0 < margin < 1:
        raise ComparisonError(f"the margin is {margin:g}, but must be between 0 and 1")
    if len(paths) == 1 and (paths[0] / "plan.json").exists():
        return _given(compare_study(paths[0], margin), margin)
    named: dict[str, Path] = {}
    for path in paths:
        named[path.name if path.name not in named else f"{path.parent.name}/{path.name}"] = path
    if len(named) < 2:
        raise ComparisonError(
            "name at least two different runs, studies or files of predictions, or one study, to compare"
        )
    tables = {
        name: replace(read_prediction_table(path), name=name)
        for name, path in named.items()
        if is_prediction_table(path)
    }
    arms = {name: _runs(path) for name, path in named.items() if name not in tables}
    external = _external(tables, arms, labels, skip_unknown)
    whole = {name: arms[name] if name in arms else list(external[name].runs) for name in named}
    verdicts = compare_arms(whole, next(iter(named)), margin=margin)
    if verdicts.refused:
        raise ComparisonError("; ".join(verdicts.refused.values()))
    ranked = [name for name, table in tables.items() if table.ranks_only]
    changes = verdicts.changes
    if set(ranked) & {verdicts.reference}:
        changes = changes[changes["metric"] != "f1"]
    changes = changes[~((changes["metric"] == "f1") & changes["arm"].isin(ranked))]
    notes = [note for one in external.values() for note in one.notes]
    return _given(replace(verdicts, changes=changes, remarks=(*verdicts.remarks, *notes)), margin)


def _given(verdicts: Comparison, margin: float | None) -> Comparison:
    """`verdicts` with a remark where the margin was given for this comparison."""
    if margin is None:
        return verdicts
    remark = (
        f"The margin of {margin:g} was given with the comparison: it shows equivalence only if it was "
        "chosen before the scores were seen."
    )
    return replace(verdicts, remarks=(*verdicts.remarks, remark))


def _runs(path: Path) -> list[RunPredictions]:
    """The run of a folder, or those of a study's reference arm."""
    if not (path / "plan.json").exists():
        return [replace(read_run_predictions(path), folds=0)]
    runs = read_runs(path)
    names = runs.loc[runs["is_reference"].astype(bool), "run"]
    if names.empty:
        raise ComparisonError(f"{path}: no run of its reference arm is complete")
    return [read_run_predictions(path / name) for name in names]


def _external(
    tables: dict[str, PredictionTable],
    arms: dict[str, list[RunPredictions]],
    labels: pd.DataFrame | None,
    skip_unknown: bool,
) -> dict[str, External]:
    """Each table as an arm, on the test images of the first of `arms`, or else of the first table."""
    if not tables:
        return {}
    if arms and labels is not None:
        raise ComparisonError(
            "labels are those of the runs' test images: leave --labels out, or name files alone"
        )
    made: dict[str, External] = {}
    if arms:
        first = next(iter(arms))
        seeds, refused, _ = runs_by_seed({first: arms[first]})
        if refused:
            raise ComparisonError(refused[first])
        test, count = seeds[first][0], len(seeds[first])
    else:
        first = next(iter(tables))
        made[first] = on_labels(tables[first], labels, skip_unknown=skip_unknown)
        test, count = made[first].runs[0], 1
    for name, table in tables.items():
        if name not in made:
            made[name] = on_test_images(table, test, seeds=count, skip_unknown=skip_unknown)
    return made
