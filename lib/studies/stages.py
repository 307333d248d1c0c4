"""In: the runs of a plan that are about to start. Out: nothing, or one StudyError with every
patient who would leak.

An earlier stage must not train on what a later one holds out. Splits depend on the tables and the
configs alone, so this is known before anything trains.
"""

import warnings
from pathlib import Path

import pandas as pd

from lib.config import PHANTOMS, Config, resolve
from lib.datasets.prepare import split_rows
from lib.datasets.splits import leaking, patients_text
from lib.datasets.tables import read_dataset
from lib.exceptions import DatasetError, SplitError, StudyError
from lib.files import write_table
from lib.studies.plan import Plan, PlannedRun

COMPARABLE = ("seed", "split_by", "val_fraction", "test_fraction")


def check_stages(plan: Plan, runs: list[PlannedRun]) -> None:
    """Raise StudyError for runs whose earlier stages train, or choose epochs, on what the run holds
    out.

    The patients of each are listed in `leaks-<run>.csv` of the study's folder.
    """
    splits, problems = _Splits(), []
    for run in runs:
        for stage in _earlier(plan, run):
            if not (_drawn_later(run.config) or _drawn_later(stage.config)):
                problems += _leaks(plan, run, stage, splits)
    if problems:
        raise StudyError("\n".join([f"{plan.file}: nothing was started", *dict.fromkeys(problems)]))


def _earlier(plan: Plan, run: PlannedRun) -> list[PlannedRun]:
    """The stages that a run starts from, the nearest first."""
    direct = [plan.runs[name] for name in run.needs]
    return [*direct, *(stage for need in direct for stage in _earlier(plan, need))]


def _drawn_later(config: Config) -> bool:
    """Phantoms that are not drawn yet are all of one set, whose stages agree."""
    return config.data_root == PHANTOMS and not resolve(config.data_root).exists()


def _leaks(plan: Plan, run: PlannedRun, stage: PlannedRun, splits: "_Splits") -> list[str]:
    try:
        earlier, later = splits.of(stage.config), splits.of(run.config)
    except (DatasetError, SplitError) as error:
        return [f"run {run.name!r} or its earlier stage {stage.name!r}: {error}"]
    leaks = earlier[leaking(earlier, later, run.config.split_by)]
    if leaks.empty:
        return []
    table = plan.folder / f"leaks-{run.name}.csv"
    write_table(table, leaks.assign(stage=stage.name, later=_later_split(leaks, later)))
    held = ", ".join(dict.fromkeys([*stage.config.hold_out, *run.config.data_dir]))
    odd = [name for name in COMPARABLE if getattr(stage.config, name) != getattr(run.config, name)]
    also = f"; give both the same {', '.join(odd)}" if odd else ""
    return [
        f"run {run.name!r}: its earlier stage {stage.name!r} trains or chooses its epoch on {patients_text(leaks)} "
        f"that are held out here; all are in {table}. Leave them out of the earlier stage: add to the `set:` of "
        f"{stage.arm!r}: `hold_out: [{held}]`{also}"
    ]


def _later_split(leaks: pd.DataFrame, later: pd.DataFrame) -> pd.Series:
    """What the later stage uses each leaking patient for."""
    held = later[later["split"].isin(["val", "test", "submit"])].groupby("patient")["split"]
    return leaks["patient"].map(held.agg(lambda parts: "+".join(sorted(set(parts)))))


class _Splits:
    """Splits by config; each dataset is read once, each choice made once."""

    def __init__(self) -> None:
        self.frames: dict[tuple[Path, ...], pd.DataFrame] = {}
        self.chosen: dict[str, pd.DataFrame] = {}

    def of(self, config: Config) -> pd.DataFrame:
        """image, patient, split."""
        fields = {"data_root", "data_dir", "hold_out", "findings", *COMPARABLE}
        key = config.model_dump_json(include=fields)
        if key not in self.chosen:
            frame = self._frame(config)
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # the run itself warns of what is odd about its splits
                frame = frame.assign(split=split_rows(frame, config))
            self.chosen[key] = frame[["image", "patient", "split"]]
        return self.chosen[key]

    def _frame(self, config: Config) -> pd.DataFrame:
        """With on_bad='raise' the run itself refuses bad rows; here the others are enough."""
        folders = tuple(config.data_folders)
        if folders not in self.frames:
            self.frames[folders] = read_dataset(folders, on_bad="skip").frame
        return self.frames[folders]
