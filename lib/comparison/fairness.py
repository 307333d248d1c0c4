"""In: the test answers of arms. Out: their error rates by sex, age band, view and source, and the gaps
between groups, with intervals.

Per group: AUROC, false negative rate (FNR) and false positive rate (FPR) at the frozen thresholds, as
means over the same findings in all groups of an attribute; and underdiagnosis, the false positive rate
of No Finding: of the images with a finding, the share for which no finding is called (Seyyed-Kalantari
et al. 2021, "Underdiagnosis bias of artificial intelligence algorithms applied to chest radiographs").

The gap of a group is its rate minus that of the attribute's largest group. Both are computed in the same
resamples of patients, since a patient can have images in several groups. Its p-value is corrected by
Holm over the groups of all attributes, per arm and rate.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from lib.comparison.arms import RunPredictions, Scored
from lib.comparison.folds import overlap_factor
from lib.comparison.significance import holm, satterthwaite
from lib.comparison.subgroups import MIN_PATIENTS, NOT_KNOWN, enough_images, people_of, seeds_of
from lib.comparison.words import count_text, p_text
from lib.metrics.bootstrap import (
    ALPHA,
    bootstrap_scores,
    images_where,
    patient_codes,
    resample_counts,
    spread,
)
from lib.metrics.scores import auroc, cuts, mean_defined, ratio
from lib.system import available_cores

RATES = {
    "auroc": "AUROC",
    "fnr": "false negative rate",
    "fpr": "false positive rate",
    "underdiagnosis": "underdiagnosis",
}
RESAMPLES = 400


def fairness_table(arms: Mapping[str, Sequence[Path]]) -> pd.DataFrame:
    """The rates of each arm (name -> its runs' folders, one per seed, or per seed and fold) in groups
    of its test images.

    Columns: arm, attribute, group, rate (of RATES), value, low, high (95 %), against (the largest
    group of the attribute), gap, gap_low, gap_high, p, p_holm, findings, images, patients, small.
    Images that lack the attribute are the group "not known". A group of fewer than MIN_PATIENTS
    patients is `small`: it does not decide which findings are scored (unless all are small), and
    where it lacks a class of one of them its rate is NaN. Intervals cover patients and, with several
    seeds, trainings, whose spread is pooled over arms with the same findings. Arms of which no seed
    has all folds are left out.
    """
    measured = []
    for arm, folders in arms.items():
        runs = seeds_of(folders, needed=False)
        people = people_of(runs[0]) if runs else pd.DataFrame()
        for attribute, groups in people.items():
            measured += _measured(arm, runs, str(attribute), groups)
    rows = [row for one in measured for row in _rows(one, _noise(one, measured))]
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    table["p_holm"] = table.groupby(["arm", "rate"])["p"].transform(holm)
    return table


def fairness_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence per gap that is no chance, and which groups are too small to say anything."""
    if table.empty:
        return ["The test images name neither sex, age, view nor source of more than one kind."]
    text = []
    for row in table[table["p_holm"] < ALPHA].itertuples():
        direction = "higher" if row.gap > 0 else "lower"
        ends = sorted([abs(row.gap_low), abs(row.gap_high)])
        text.append(
            f"{row.arm}: {RATES[row.rate]} is {abs(row.gap):.3f} {direction} for {row.group} than for "
            f"{row.against} ({ends[0]:.3f} to {ends[1]:.3f}, {p_text(row.p_holm)} corrected, "
            f"{count_text(row.patients, 'patient')})."
        )
    if not text:
        text = ["No gap between groups can be told from chance, corrected over groups."]
    small = table[table["small"]].drop_duplicates(["attribute", "group"])
    if len(small):
        names = ", ".join(
            f"{f'{row.attribute} ' * (row.group == NOT_KNOWN)}{row.group} ({row.patients})"
            for row in small.itertuples()
        )
        text.append(f"Groups of fewer than {MIN_PATIENTS} patients say little: {names}.")
    return text


def _measured(
    arm: str, runs: Sequence[Scored], attribute: str, groups: pd.Series
) -> list[dict[str, Any]]:
    """The rates of an arm in the groups of one attribute, if there is more than one: values
    (S, G, R) of its seeds, resampled (RESAMPLES, G, R) of their mean."""
    sizes = groups.value_counts()
    names = [name for name in groups.cat.categories if sizes.get(name, 0)]
    if len([name for name in names if name != NOT_KNOWN]) < 2:
        return []
    masks = [(groups == name).to_numpy() for name in names]
    patients = [len(np.unique(runs[0].patients[mask])) for mask in masks]
    by_size = sorted(
        (i for i, name in enumerate(names) if name != NOT_KNOWN), key=lambda i: -patients[i]
    )
    judged = [i for i in by_size if patients[i] >= MIN_PATIENTS] or by_size[:2]
    findings = enough_images(runs[0], [masks[i] for i in judged])
    with ThreadPoolExecutor(available_cores()) as threads:
        made = list(threads.map(lambda run: _run_rates(run, masks, findings), runs))
    return [
        {
            "arm": arm,
            "attribute": attribute,
            "groups": names,
            "findings": tuple(findings),
            "images": [int(mask.sum()) for mask in masks],
            "patients": patients,
            "largest": by_size[0],
            "folds": len(runs[0].parts),
            "values": np.array([values for values, _ in made]),
            "resampled": mean_defined(np.array([resampled for _, resampled in made]), axis=0),
        }
    ]


def _run_rates(
    run: Scored, masks: Sequence[np.ndarray], findings: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Rates (G, R) and resampled (RESAMPLES, G, R) of one run, with folds their means over folds."""
    ends = np.cumsum([len(part.images) for part in run.parts])[:-1]
    parts = list(zip(*(np.split(mask, ends) for mask in masks), strict=True))
    made = [_part_rates(part, m, findings) for part, m in zip(run.parts, parts, strict=True)]
    values, resampled = (np.array(each) for each in zip(*made, strict=True))
    return values.mean(axis=0), mean_defined(resampled, axis=0)


def _part_rates(
    part: RunPredictions, masks: Sequence[np.ndarray], findings: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    columns = [part.findings.index(name) for name in findings]
    codes, count = patient_codes(part.patients, len(part.images))
    drawn = resample_counts(count, RESAMPLES, part.fold)
    counts = np.concatenate([np.ones((1, count), np.float32), drawn])  # the first: as they are
    called = part.probs >= cuts(part.thresholds, len(part.findings))[0]
    silent = ~(called & ~np.isnan(part.targets)).any(axis=1)
    ill = (part.targets == 1).any(axis=1)
    values, resampled = [], []
    for mask in masks:
        targets = np.where(mask[:, None], part.targets, np.nan)
        area = _areas(part, targets[:, columns], columns)
        made = [area]
        for label, wrong in ((1, ~called), (0, called)):
            of = (targets == label)[:, columns]
            whole = images_where(of, codes, counts)
            made.append(
                ratio(images_where(of & wrong[:, columns], codes, counts), whole, whole > 0)
            )
        rates = [_macro(each) for each in made]
        of, missed = (mask & ill)[:, None], (mask & ill & silent)[:, None]
        whole = images_where(of, codes, counts)[:, 0]
        rates.append(ratio(images_where(missed, codes, counts)[:, 0], whole, whole > 0))
        values.append([each[0] for each in rates])
        resampled.append(np.stack([each[1:] for each in rates], axis=1))
    return np.array(values), np.stack(resampled, axis=1)


def _areas(part: RunPredictions, targets: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """AUROC (1 + RESAMPLES, F): as it is, then in each resample of all patients of the part."""
    probs = part.probs[:, columns]
    if not columns:
        return np.full((1 + RESAMPLES, 0), np.nan)
    resampled = bootstrap_scores(targets, probs, part.patients, n=RESAMPLES, seed=part.fold)
    points = [auroc(y, p) for y, p in zip(targets.T, probs.T, strict=True)]
    return np.concatenate([[points], resampled["auroc"]])


def _macro(values: np.ndarray) -> np.ndarray:
    """The mean over findings (1 + RESAMPLES,); where a finding has no value as it is, NaN."""
    means = mean_defined(values)
    return np.where(np.isnan(values[0]).any(), np.nan, means)


def _noise(one: dict[str, Any], measured: Sequence[dict[str, Any]]) -> tuple[np.ndarray, int]:
    """Variance over seeds (2, G, R) of a single training's rates and gaps, pooled over arms, and its
    degrees of freedom."""
    same = [
        other
        for other in measured
        if all(other[key] == one[key] for key in ("attribute", "groups", "findings", "largest"))
    ]
    df = sum(len(other["values"]) - 1 for other in same)
    squares = np.zeros((2, *one["values"].shape[1:]))
    for other in same:
        for i, values in enumerate((other["values"], _gaps(other["values"], one["largest"]))):
            squares[i] += ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    return squares / max(df, 1), df


def _gaps(values: np.ndarray, largest: int) -> np.ndarray:
    """values (..., G, R) less those of the largest group."""
    return values - values[..., [largest], :]


def _rows(one: dict[str, Any], noise: tuple[np.ndarray, int]) -> list[dict[str, Any]]:
    """One row per group and rate."""
    seeds, (variance, df) = len(one["values"]), noise
    rows = []
    for g, r in np.ndindex(one["values"].shape[1:]):
        row = {key: one[key] for key in ("arm", "attribute")}
        row |= {"group": one["groups"][g], "rate": list(RATES)[r]}
        row |= {"against": one["groups"][one["largest"]], "findings": len(one["findings"])}
        row |= {"images": one["images"][g], "patients": one["patients"][g]}
        row["small"] = one["patients"][g] < MIN_PATIENTS
        for i, (name, change) in enumerate((("value", lambda v: v), ("gap", _gaps_of(one)))):
            value = change(one["values"]).mean(axis=0)[g, r]
            patients = spread(change(one["resampled"])[:, g, r][:, None])[0] ** 2
            patients *= overlap_factor(one["folds"])
            trained = variance[i, g, r] / seeds
            error = np.sqrt(patients + trained)
            freedom = satterthwaite(patients, trained, df)
            reach = stdtrit(freedom, 0.975) * error
            ends = ("low", "high") if name == "value" else ("gap_low", "gap_high")
            row |= {name: value, ends[0]: value - reach, ends[1]: value + reach}
            row["p"] = 2 * stdtr(freedom, -abs(value) / error) if error > 0 else np.nan
        row["low"], row["high"] = np.clip([row["low"], row["high"]], 0, 1)
        rows.append(row)
    return [_without_gap(row) if row["group"] == row["against"] else row for row in rows]


def _gaps_of(one: dict[str, Any]) -> Any:
    return lambda values: _gaps(values, one["largest"])


def _without_gap(row: dict[str, Any]) -> dict[str, Any]:
    """The row of the largest group, which has no gap to itself."""
    return row | dict.fromkeys(("gap", "gap_low", "gap_high", "p"), np.nan)
