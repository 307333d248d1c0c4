"""Runs -> arms, differences with intervals, verdicts in words."""

from lib.comparison.arms import (
    RunPredictions,
    arm_scores,
    differences,
    read_run_predictions,
)
from lib.comparison.ensembles import (
    ensemble,
)
from lib.comparison.folds import (
    FoldedRun,
    fold_seeds,
)
from lib.comparison.gains import (
    gain_sentences,
    stage_gains,
)
from lib.comparison.power import (
    power_table,
)
from lib.comparison.subgroups import (
    subgroup_table,
)
from lib.comparison.verdicts import (
    Comparison,
    compare_folders,
    compare_study,
    seed_scores,
)
from lib.comparison.words import (
    NAMES,
    power_text,
    summary,
    verdict_text,
)

__all__ = [
    "NAMES",
    "Comparison",
    "FoldedRun",
    "RunPredictions",
    "arm_scores",
    "compare_folders",
    "compare_study",
    "differences",
    "ensemble",
    "fold_seeds",
    "gain_sentences",
    "power_table",
    "power_text",
    "read_run_predictions",
    "seed_scores",
    "stage_gains",
    "subgroup_table",
    "summary",
    "verdict_text",
]
