"""In: the runs of a plan that are about to start. Out: nothing, or one StudyError with every
patient who would leak.

An earlier stage must not train on what a later one holds out, nor a teacher on whom its student is
tested on; teachers of other seeds have trained on some of those by whom the student validates.
Splits depend on the tables and the configs alone, so this is known before anything trains.
"""

import pandas as pd

from lib.datasets.splits import leaking, patients_text
from lib.exceptions import DatasetError, SplitError, StudyError
from lib.files import write_table
from lib.studies.plan import Plan, PlannedRun
from lib.studies.study_data import SPLIT_FIELDS, StudyData, is_drawn_later


def check_stages(plan: Plan, runs: list[PlannedRun], data: StudyData) -> None:
    """Raise StudyError for runs whose earlier stages train, or choose epochs, on what the run holds
    out.

    The patients of each are listed in `leaks-<run>.csv` of the study's folder.
    """
    problems = []
    for run in runs:
        for stage, taught in _earlier(plan, run).items():
            one = plan.runs[stage]
            if not (is_drawn_later(run.config) or is_drawn_later(one.config)):
                problems += _leaks(plan, run, one, data, taught)
    if problems:
        raise StudyError("\n".join([f"{plan.file}: nothing was started", *dict.fromkeys(problems)]))


def _earlier(plan: Plan, run: PlannedRun, taught: bool = False) -> dict[str, bool]:
    """The runs that a run comes from, the nearest first: whether it only learns from their
    answers."""
    found: dict[str, bool] = {}
    for name in run.needs:
        answers = taught or name != run.start
        for one, only in {name: answers, **_earlier(plan, plan.runs[name], answers)}.items():
            found[one] = found.get(one, True) and only
    return found


def _leaks(
    plan: Plan, run: PlannedRun, stage: PlannedRun, data: StudyData, taught: bool
) -> list[str]:
    try:
        earlier, later = data.splits(stage.config), data.splits(run.config)
    except (DatasetError, SplitError) as error:
        return [f"run {run.name!r} or its earlier stage {stage.name!r}: {error}"]
    later = later[later["split"] != "val"] if taught else later
    leaks = earlier[leaking(earlier, later, run.config.split_by)]
    if leaks.empty:
        return []
    table = plan.folder / f"leaks-{run.name}.csv"
    write_table(table, leaks.assign(stage=stage.name, later=_later_split(leaks, later)))
    held = ", ".join(dict.fromkeys([*stage.config.hold_out, *run.config.data_dir]))
    odd = [
        name for name in SPLIT_FIELDS if getattr(stage.config, name) != getattr(run.config, name)
    ]
    also = f"; give both the same {', '.join(odd)}" if odd else ""
    what = "teacher (or a stage before it)" if taught else "earlier stage"
    return [
        f"run {run.name!r}: its {what} {stage.name!r} trains or chooses its epoch on {patients_text(leaks)} "
        f"that are held out here; all are in {table}. Leave them out of the earlier stage: add to the `set:` of "
        f"{stage.arm!r}: `hold_out: [{held}]`{also}"
    ]


def _later_split(leaks: pd.DataFrame, later: pd.DataFrame) -> pd.Series:
    """What the later stage uses each leaking patient for."""
    held = later[later["split"].isin(["val", "test", "submit"])].groupby("patient")["split"]
    return leaks["patient"].map(held.agg(lambda parts: "+".join(sorted(set(parts)))))
