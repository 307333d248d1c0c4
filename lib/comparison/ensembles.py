"""In: the runs of an arm's seeds. Out: their ensemble, scored as one run is.

An ensemble answers with the mean of its members' calibrated probabilities (a linear opinion pool;
Lakshminarayanan et al. 2017 for networks that differ by their seed). Calibration comes first, so
that a member whose probabilities are far too high or low does not rule the mean. With folds there
is an ensemble in each, of the models that did not train on its patients.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd

from lib.comparison.arms import (
    RunPredictions,
    Scored,
    arm_scores,
    common_findings,
    resample_all,
    training_noise,
)
from lib.comparison.folds import FoldedRun
from lib.exceptions import ComparisonError, CxrError
from lib.files import read_json
from lib.metrics.calibration import Calibration
from lib.metrics.scores import HALF
from lib.system import available_cores


def ensemble_scores(
    arms: Mapping[str, Sequence[Scored]],
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The scores of each arm's ensemble, with the columns of `arms.arm_scores`, arm and members;
    and why an arm has none, where it should have one.

    arms: the runs of each, one per seed. Arms of one seed have no ensemble, nor have runs without a
    folder. An interval covers what one ensemble's score varies by over test patients; with folds
    also the overlap of training sets, and what the ensembles of the arms differ by from fold to fold
    beyond that (`folds.fold_noise`). Another ensemble of as many other seeds is not covered without
    folds: the study trained one.
    """
    made, missing = {}, {}
    for arm, runs in arms.items():
        if len(runs) < 2 or any(part.folder is None for run in runs for part in run.parts):
            continue
        try:
            made[arm] = ensemble(runs)
        except CxrError as error:
            missing[arm] = str(error)
    resample_all(list(made.values()))
    tables = []
    for arm, one in made.items():
        same = [other for other in made.values() if other.findings == one.findings]
        noise = training_noise([[other] for other in same]) if isinstance(one, FoldedRun) else None
        tables.append(arm_scores([one], noise).assign(arm=arm, members=len(arms[arm])))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(), missing


def ensemble(runs: Sequence[Scored]) -> Scored:
    """The ensemble of runs of different seeds on the same test images, fold by fold where they have
    folds.

    A run's calibration is that of its card. Raises ComparisonError where runs do not compare or a
    card is missing, ExportError where one is damaged.
    """
    findings = common_findings(runs)
    members = [run.on(findings) for run in runs]
    groups = list(zip(*(run.parts for run in members), strict=True))  # fold by fold
    with ThreadPoolExecutor(available_cores()) as threads:
        parts = tuple(threads.map(_ensemble, groups))
    return FoldedRun(parts) if isinstance(members[0], FoldedRun) else parts[0]


def _ensemble(runs: Sequence[RunPredictions]) -> RunPredictions:
    """The mean of the runs' calibrated probabilities, at the mean of their calibrated thresholds.

    A calibration map keeps the order, so that a member's calibrated threshold calls positive what
    its threshold does.
    """
    maps = [_calibration(run) for run in runs]
    probs = [one.apply(run.probs) for one, run in zip(maps, runs, strict=True)]
    cuts = [
        one.apply(np.where(np.isnan(run.thresholds), HALF, run.thresholds))
        for one, run in zip(maps, runs, strict=True)
    ]
    name = f"ensemble of {', '.join(run.run for run in runs)}"
    values = {"probs": np.mean(probs, axis=0), "thresholds": np.mean(cuts, axis=0)}
    return replace(runs[0], run=name, scored=None, **values)


def _calibration(run: RunPredictions) -> Calibration:
    """The calibration of the run's findings, from its card."""
    path = None if run.folder is None else run.folder / "card.json"
    card = read_json(path) if path is not None and path.exists() else {}
    if "calibration" not in card:
        raise ComparisonError(
            f"{run.folder or run.run} has no card.json with a calibration, which an ensemble needs: "
            "run it again"
        )
    whole = Calibration.from_card(card["calibration"])
    if missing := [name for name in run.findings if name not in whole.findings]:
        raise ComparisonError(f"{path}: the calibration lacks {', '.join(missing)}")
    index = [whole.findings.index(name) for name in run.findings]
    return Calibration(
        run.findings,
        tuple(whole.method[j] for j in index),
        *(
            values[index]
            for values in (whole.slope, whole.intercept, whole.log_loss, whole.positives)
        ),
    )
