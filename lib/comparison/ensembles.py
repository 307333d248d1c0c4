"""In: the runs of an arm's seeds. Out: their ensemble (`metrics.ensemble`), scored as one run is.

With folds there is an ensemble in each, of the models that did not train on its patients.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

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
from lib.metrics.ensemble import ensemble_probs, ensemble_thresholds
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
    """One run that answers as the ensemble of `runs`, on the same test images."""
    maps = [_calibration(run) for run in runs]
    values = {
        "probs": ensemble_probs([run.probs for run in runs], maps),
        "thresholds": ensemble_thresholds([run.thresholds for run in runs], maps),
    }
    name = f"ensemble of {', '.join(run.run for run in runs)}"
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
    return Calibration.from_card(card["calibration"]).on(run.findings)
