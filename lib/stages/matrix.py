"""In: the stages of an arm. Out: the stage matrix: the model of every stage, scored on every
stage's test patients, and what later stages changed on the same patients.

A model is scored for the findings that it predicts and the test set annotates. Nobody whom a stage
up to the last one that answers there trained on, or chose its epoch by, is among the patients: they
are left out for all models alike, and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from lib.comparison.arms import RunPredictions, Scored, arm_scores, differences
from lib.comparison.folds import fold_seeds
from lib.comparison.words import count_text
from lib.exceptions import CxrError
from lib.metrics.scores import MACRO, MIN_PATIENTS
from lib.stages.answers import Answerer, Films, patients_seen, patients_tested
from lib.stages.chains import Stages, read_stages
from lib.stages.repeats import RepeatedRun, repeated

METRIC = "auroc"
SCORES = ["test_set", "folders", "stage", "finding", "value", "low", "high", "runs", "patients"]
SCORES += ["images", "positives", "positive_patients", "left_out"]
CHANGES = ["test_set", "folders", "finding", "earlier", "later", "earlier_value", "later_value"]
CHANGES += ["difference", "low", "high", "one_training", "runs", "earlier_runs", "patients"]
CHANGES += ["images", "positives", "positive_patients", "left_out"]


@dataclass(frozen=True)
class StageMatrix:
    """AUROC of every stage's model on every stage's test patients, with 95 % intervals.

    scores: a row per test set, stage and finding (and macro, where several are scored), columns
    SCORES. changes: a row per test set, finding and pair of stages that both answer, later minus
    earlier on the same patients, columns CHANGES; intervals are not corrected for their number.
    left_out counts patients whom a stage has seen. notes: what could not be scored, and why.
    computed: how many test sets were answered anew, not read from `evaluations/`.
    """

    stages: Stages
    scores: pd.DataFrame
    changes: pd.DataFrame
    notes: tuple[str, ...]
    computed: int

    def sentences(self) -> list[str]:
        """One per finding, test set and pair of stages; of several findings only their mean. Then what
        the intervals are not corrected for, who is left out, and the notes."""
        keys = ["test_set", "earlier", "later"]
        several = self.changes.groupby(keys)["finding"].transform(lambda f: MACRO in set(f))
        shown = self.changes[(self.changes["finding"] == MACRO) | ~several.astype(bool)]
        left = self.scores.drop_duplicates("test_set").query("left_out > 0")
        seen = [
            f"{count_text(row.left_out, 'test patient')} of the {row.test_set} trained another stage "
            "and are left out there."
            for row in left.itertuples()
        ]
        changes = [change_sentence(row) for _, row in shown.iterrows()]
        number = (
            f"The intervals of these {len(changes)} changes are not corrected for their number."
        )
        return [*changes, *([number] if len(changes) > 1 else []), *seen, *self.notes]


def stage_matrix(folder: Path, arm: str | None = None) -> StageMatrix:
    """The stage matrix of an arm of the study in `folder`, by default of its reference.

    Answers that no run gave yet are computed once and kept in the runs' folders (`evaluations/`).
    A test set whose images cannot be read is left out, with a note. Without complete chains of at
    least two stages both tables are empty. Raises RunError as `read_stages`.
    """
    stages = read_stages(folder, arm)
    scores, changes, notes = [], [], stages.notes()
    films, answerers = Films(), dict[str, Answerer]()
    several = len(stages.names) > 1 and stages.chains
    for tested in range(len(stages.names)) if several else ():
        try:
            answers = _answers(stages, tested, films, answerers)
            answers, left_out, note = _unseen(stages, tested, answers)
            arms = {stage: _whole_seeds(runs) for stage, runs in answers.items()}
        except CxrError as error:
            notes.append(f"The test set of the {stages.names[tested]} is left out: {error}")
            continue
        notes += note
        where = {"test_set": stages.names[tested], "folders": stages.sets[tested]}
        about = {**where, "left_out": left_out}
        scores += [
            _scores(runs).assign(stage=stages.names[stage], **about) for stage, runs in arms.items()
        ]
        changes += [table.assign(**about) for table in _changes(arms, stages.names)]
    computed = sum(one.computed for one in answerers.values())
    return StageMatrix(
        stages, _table(scores, SCORES), _table(changes, CHANGES), tuple(notes), computed
    )


def _table(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return whole[columns]


Answers = dict[int, list[RunPredictions]]
"""stage -> what its runs answered for one test set."""


def _answers(stages: Stages, tested: int, films: Films, answerers: dict[str, Answerer]) -> Answers:
    """What every stage's runs answer for the test set of one; stages without a common finding are
    missing."""
    pairs = {
        (chain.runs[stage], chain.runs[tested]): (stage, stages.test_fold(chain, tested))
        for chain in stages.chains
        for stage in range(len(stages.names))
    }
    answers: Answers = {}
    for (run, test), (stage, fold) in sorted(pairs.items()):
        answerer = answerers.setdefault(run, Answerer(stages.folder / run, films))
        found = answerer.answers(stages.folder / test)
        if found is not None:
            answers.setdefault(stage, []).append(replace(found, folds=fold[0], fold=fold[1]))
    return dict(sorted(answers.items()))


def _unseen(stages: Stages, tested: int, answers: Answers) -> tuple[Answers, int, list[str]]:
    """The answers for patients whom no stage has seen, how many patients are left out, and a note
    where nobody is left.

    All stages up to the last that answers count, in all chains that are tested on the same fold,
    so that every model is scored on the same patients.
    """
    last = max(answers, default=tested)
    seen: dict[int, set[str]] = {}
    people: dict[int, set[str]] = {}
    for fold in {stages.test_fold(chain, tested)[1] for chain in stages.chains}:
        chains = [chain for chain in stages.chains if stages.test_fold(chain, tested)[1] == fold]
        runs = dict.fromkeys(run for chain in chains for run in chain.runs[: last + 1])
        seen[fold] = patients_seen(stages.folder / run for run in runs)
        tests = {chain.runs[tested] for chain in chains}
        people[fold] = set().union(*(patients_tested(stages.folder / run) for run in tests))
    left_out = sum(len(people[fold] & seen[fold]) for fold in people)
    if not left_out:
        return answers, 0, []
    if any(people[fold] <= seen[fold] for fold in people):
        name = stages.names[tested]
        return {}, left_out, [f"Every test patient of the {name} trained another stage."]
    kept = {
        stage: [run.rows(~np.isin(run.patients, list(seen[run.fold]))) for run in runs]
        for stage, runs in answers.items()
    }
    return kept, left_out, []


def _whole_seeds(runs: list[RunPredictions]) -> list[Scored]:
    """One run per seed: with folds a `FoldedRun`; where all folds share a test set, the mean of what
    their models answer there."""
    if runs[0].folds:
        return list(fold_seeds(runs)[0])
    seeds: dict[int, list[RunPredictions]] = {}
    for run in runs:
        seeds.setdefault(run.seed, []).append(run)
    return [repeated(group) for group in seeds.values()]


def _scores(runs: Sequence[Scored]) -> pd.DataFrame:
    """AUROC of one stage's runs on one test set, a row per finding that is annotated there."""
    annotated = _annotated(runs)
    if not annotated:
        return pd.DataFrame(columns=SCORES)
    table = arm_scores([run.on(annotated) for run in runs])
    table = table[(table["metric"] == METRIC) & _shown(table, annotated)]
    return table.assign(runs=_trainings(runs))


def _changes(answers: dict[int, list[Scored]], names: Sequence[str]) -> list[pd.DataFrame]:
    """Later minus earlier stage, one table per pair that shares a finding."""
    tables = []
    for earlier, later in combinations(answers, 2):
        shared = [f for f in _annotated(answers[earlier]) if f in _annotated(answers[later])]
        if not shared:
            continue
        old, new = ([run.on(shared) for run in answers[stage]] for stage in (earlier, later))
        table = differences(new, old)
        table = table[(table["metric"] == METRIC) & _shown(table, shared)]
        values = [
            arm_scores(runs).query("metric == @METRIC").set_index("finding")["value"]
            for runs in (old, new)
        ]
        tables.append(
            table.assign(
                earlier=names[earlier],
                later=names[later],
                earlier_value=table["finding"].map(values[0]),
                later_value=table["finding"].map(values[1]),
                runs=_trainings(new),
                earlier_runs=_trainings(old),
            )
        )
    return tables


def _annotated(runs: Sequence[Scored]) -> list[str]:
    """The findings of these runs that all of their test sets annotate."""
    known = [~np.isnan(run.targets).all(axis=0) for run in runs]
    return [
        name for name, here in zip(runs[0].findings, np.all(known, axis=0), strict=True) if here
    ]


def _trainings(runs: Sequence[Scored]) -> int:
    return sum(len(run.trainings if isinstance(run, RepeatedRun) else run.parts) for run in runs)


def _shown(table: pd.DataFrame, findings: Sequence[str]) -> pd.Series:
    """Every row, but the mean over one finding."""
    return (table["finding"] != MACRO) | (len(findings) > 1)


def change_sentence(row: pd.Series) -> str:
    """What one row of `StageMatrix.changes` says, with the numbers for it."""
    what = "The mean over findings" if row["finding"] == MACRO else row["finding"]
    where = f"on the test set of the {row['test_set']} ({row['folders']})"
    values = (
        f"after the {row['later']} AUROC is {row['later_value']:.3f} against "
        f"{row['earlier_value']:.3f} after the {row['earlier']}, on the same "
        f"{count_text(row['patients'], 'patient')}: {row['difference']:+.3f}"
    )
    if np.isnan(row["difference"]):
        return f"{what}, {where}: a class is missing, so that there is no AUROC."
    if np.isnan(row["low"]):
        few = f"fewer than {MIN_PATIENTS} patients with or without it, so no interval"
        return f"{what}, {where}: {values}; {few}."
    interval = f"({row['low']:+.3f} to {row['high']:+.3f})"
    if row["one_training"]:
        return f"{what}, {where}: {values} {interval}, from one seed each: it may be chance."
    verdict = "a loss" if row["high"] < 0 else "a gain" if row["low"] > 0 else "may be chance"
    return f"{what}, {where}: {values} {interval}: {verdict}."
