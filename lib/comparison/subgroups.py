"""In: the test answers of an arm's runs. Out: its macro AUROC by sex, age band, view and source, with
intervals."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.comparison.arms import Scored, arm_scores, read_run_predictions, training_noise
from lib.comparison.folds import fold_seeds
from lib.exceptions import ComparisonError
from lib.metrics.scores import HALF, MACRO

NOT_KNOWN = "not known"
AGE_BANDS = ((0, 40), (40, 60), (60, 200))
MIN_POSITIVES = 5
"""A finding counts for an attribute when every group has as many positive images, and as many
negative ones; with folds in every fold."""
MIN_PATIENTS = 30
"""A group with fewer patients is marked small."""


def subgroup_table(
    folders: Sequence[Path], metric: str = "auroc", others: Sequence[Sequence[Path]] = ()
) -> pd.DataFrame:
    """Macro scores of an arm (its runs' folders, one per seed, or per seed and fold) in groups of
    its test images.

    `others` are the folders of the study's other arms of the same findings: the spread over seeds
    is pooled over them. Columns: attribute, group, value, low, high (95 %, over patients and
    seeds), findings, images, patients, small. Within an attribute all groups are scored on the same
    findings, those with MIN_POSITIVES in each, so that they compare; images that lack the attribute
    are a group "not known". NaN where no finding is left. With folds, groups are scored within
    folds; others of which no seed has all folds are left out.
    """
    runs = seeds_of(folders)
    arms = [runs, *(arm for paths in others if (arm := seeds_of(paths, needed=False)))]
    people = people_of(runs[0])
    rows = [
        _row(
            "all",
            "all test images",
            arms,
            np.ones(len(people), bool),
            enough_images(runs[0], [np.ones(len(people), bool)]),
            metric,
        )
    ]
    for attribute, groups in people.items():
        names = list(
            groups.cat.categories[groups.value_counts().reindex(groups.cat.categories) > 0]
        )
        masks = [(groups == name).to_numpy() for name in names]
        if len(names) < 2:
            continue
        findings = enough_images(
            runs[0], [mask for mask, name in zip(masks, names, strict=True) if name != NOT_KNOWN]
        )
        for name, mask in zip(names, masks, strict=True):
            rows.append(_row(attribute, name, arms, mask, findings, metric))
    return pd.DataFrame(rows)


def seeds_of(folders: Sequence[Path], needed: bool = True) -> list[Scored]:
    """The runs of an arm by seed, with folds one for all of them; empty where there is none and none
    is needed."""
    runs = [read_run_predictions(folder) for folder in folders]
    if not any(run.folds for run in runs):
        return list(runs)
    try:
        return list(fold_seeds(runs)[0])
    except ComparisonError:
        if needed:
            raise
        return []


def people_of(run: Scored) -> pd.DataFrame:
    """sex, age band, view and source of the run's test images, as ordered categories, in their order;
    runs that did not keep the source have none."""
    frames = []
    for part in run.parts:
        assert part.folder is not None  # it was read from there
        table = pd.read_parquet(part.folder / "predictions.parquet").query("split == 'test'")
        frames.append(table.set_index("image").loc[part.images])
    frame = pd.concat(frames)
    bands = pd.Series(NOT_KNOWN, index=frame.index)
    age = pd.to_numeric(frame["age"], errors="coerce")
    for low, high in AGE_BANDS:
        bands[(age >= low) & (age < high)] = _band(low, high)
    orders = {"sex": ["F", "M"], "age": [_band(*band) for band in AGE_BANDS], "view": ["PA", "AP"]}
    values = {"sex": frame["sex"], "age": bands, "view": frame["view"]}
    if "source" in frame:
        orders["source"], values["source"] = [], frame["source"]
    columns = {
        name: column.astype(object).where(column.notna(), NOT_KNOWN).astype(str)
        for name, column in values.items()
    }
    return pd.DataFrame(
        {
            name: pd.Categorical(
                column,
                [*dict.fromkeys([*orders[name], *sorted(set(column) - {NOT_KNOWN})]), NOT_KNOWN],
            )
            for name, column in columns.items()
        }
    )


def _band(low: int, high: int) -> str:
    if high >= 200:
        return f"{low} years and over"
    return f"under {high} years" if low == 0 else f"{low} to {high - 1} years"


def enough_images(run: Scored, groups: Sequence[np.ndarray]) -> list[str]:
    """The findings with MIN_POSITIVES positive and negative images in every group, and fold."""
    kept = np.ones(len(run.findings), bool)
    for targets in (part.targets for group in groups for part in run.rows(group).parts):
        kept &= ((targets >= HALF).sum(axis=0) >= MIN_POSITIVES) & (
            (targets < HALF).sum(axis=0) >= MIN_POSITIVES
        )
    return [name for name, keep in zip(run.findings, kept, strict=True) if keep]


def _row(
    attribute: str,
    group: str,
    arms: list[list[Scored]],
    mask: np.ndarray,
    findings: list[str],
    metric: str,
) -> dict:
    runs = arms[0]
    patients = len(np.unique(runs[0].patients[mask]))
    row = {"attribute": attribute, "group": group, "images": int(mask.sum()), "patients": patients}
    row |= {
        "findings": len(findings),
        "small": patients < MIN_PATIENTS,
        "value": np.nan,
        "low": np.nan,
        "high": np.nan,
    }
    if findings and patients > 1:
        groups = [[run.rows(mask).on(findings) for run in arm] for arm in arms]
        scores = arm_scores(groups[0], training_noise(groups))
        scored = scores[(scores["metric"] == metric) & (scores["finding"] == MACRO)].iloc[0]
        row |= {name: float(scored[name]) for name in ("value", "low", "high")}
    return row
