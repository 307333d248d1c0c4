"""Runs -> arms, differences with intervals, verdicts in words."""

from lib.comparison.arms import (
    RunPredictions,
    arm_scores,
    differences,
    read_run_predictions,
)
from lib.comparison.subgroups import (
    subgroup_table,
)
from lib.comparison.verdicts import (
    NAMES,
    Comparison,
    compare_folders,
    compare_study,
    power_table,
    power_text,
    summary,
    verdict_text,
)

__all__ = [
    "NAMES",
    "Comparison",
    "RunPredictions",
    "arm_scores",
    "compare_folders",
    "compare_study",
    "differences",
    "power_table",
    "power_text",
    "read_run_predictions",
    "subgroup_table",
    "summary",
    "verdict_text",
]
