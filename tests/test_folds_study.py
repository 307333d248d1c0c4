"""A study with folds: compared, planned, grouped, drawn and reported; ensembles of its seeds."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_studies import NAMES, make_study
from typer.testing import CliRunner

from lib import plots
from lib.cli import app
from lib.comparison import (
    compare_folders,
    compare_study,
    ensemble,
    power_table,
    power_text,
    read_run_predictions,
    seed_scores,
    subgroup_table,
    summary,
)
from lib.exceptions import ComparisonError
from lib.files import read_json, write_json
from lib.metrics import Calibration, auroc
from lib.runs import read_runs
from lib.studies.report import make_report, table_text

pytestmark = pytest.mark.timeout(1200)  # a notebook is run, on a machine that may be busy
ARMS = {"good": 1.6, "like": 1.6, "poor": 0.4}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("runs") / "folded", ARMS)


@pytest.fixture(scope="module")
def verdicts(study):
    return compare_study(study)


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """The same without folds."""
    return make_study(tmp_path_factory.mktemp("runs") / "listed", ARMS, folds=0)


def macro(table, arm, metric="auroc"):
    rows = table[(table["finding"] == "macro") & (table["metric"] == metric)]
    return rows.set_index("arm").loc[arm]


def test_the_first_sentence_says_that_every_patient_is_tested_once(verdicts):
    assert verdicts.all_sentences()[0] == (
        "Scores are means over 3 folds: each of the 180 patients is tested once, by a model that did "
        "not train on them."
    )


def test_without_folds_the_first_sentence_names_the_test_list(listed):
    assert compare_study(listed).all_sentences()[0] == (
        "Scores are on one test list, the same for every arm: 120 images of 60 patients."
    )


def test_an_arm_is_the_mean_over_seeds_and_folds(study, verdicts):
    runs = read_runs(study)
    assert list(runs["fold"][:3]) == [0, 1, 2]
    expected = runs[runs["arm"] == "poor"]["auroc"].mean()  # every finding counts in every fold
    assert macro(verdicts.scores, "poor")["value"] == pytest.approx(expected)


def test_a_worse_arm_is_told_with_seeds_folds_and_patients(verdicts):
    told = next(line for line in verdicts.sentences() if line.startswith("poor is worse than good"))
    assert "2 seeds in 3 folds, 180 patients" in told


def test_what_cannot_be_told_apart_is_bounded(verdicts):
    row = macro(verdicts.changes, "like")
    margin = max(abs(row["low"]), abs(row["high"]))
    told = next(line for line in verdicts.sentences() if line.startswith("like and good cannot"))
    assert told.endswith(f"and one beyond {margin:.3f} either way is excluded at 95 %.")


def test_a_seed_without_all_folds_is_left_out_and_named(tmp_path):
    folder = make_study(tmp_path / "short", {"one": 1.5, "two": 1.0})
    (folder / "two-s1-f2" / "record.json").unlink()
    verdicts = compare_study(folder)
    assert macro(verdicts.scores, "two")["seeds"] == 1
    assert (
        "two: seed 1 is left out, since not all of its folds are complete."
        in verdicts.all_sentences()
    )


def test_an_arm_without_a_whole_seed_is_refused_alone(tmp_path):
    folder = make_study(tmp_path / "short", {"one": 1.5, "two": 1.0, "three": 1.0}, seeds=1)
    (folder / "two-s0-f2" / "record.json").unlink()
    verdicts = compare_study(folder)
    assert "no seed has all 3 folds" in verdicts.refused["two"] and len(verdicts.macro()) == 1


def test_two_runs_of_one_fold_compare_on_its_patients(study):
    verdicts = compare_folders([study / "good-s0-f1", study / "poor-s0-f1"])
    assert macro(verdicts.scores, "good-s0-f1")["patients"] == 60 and verdicts.folds == 0


def test_runs_of_different_folds_do_not_compare(study):
    with pytest.raises(ComparisonError, match="tested on different images"):
        compare_folders([study / "good-s0-f1", study / "poor-s0-f2"])


def test_power_counts_the_patients_of_all_folds(verdicts):
    power = power_table(verdicts)
    assert (np.diff(power.loc["macro AUROC"]) <= 0).all()
    assert "that 180 test patients in 3 folds and so many seeds" in power_text(power, 180, 3)


def test_the_command_line_compares_and_plans_with_folds(study):
    told = CliRunner().invoke(app, ["compare", str(study)]).output
    assert "Scores are means over 3 folds" in told and "good, ensemble of 2" in told
    assert "180 test patients in 3 folds" in CliRunner().invoke(app, ["power", str(study)]).output


def test_groups_are_scored_within_folds(study):
    folders = [study / f"good-s{seed}-f{fold}" for seed in (0, 1) for fold in range(3)]
    table = subgroup_table(folders).set_index("group")
    assert table.loc["all test images", "patients"] == 180 and table.loc["F", "findings"] == 3
    expected = []
    for folder in folders:
        frame = pd.read_parquet(folder / "predictions.parquet").query(
            "split == 'test' & sex == 'F'"
        )
        expected += [auroc(frame[f"target_{name}"], frame[f"prob_{name}"]) for name in NAMES]
    assert table.loc["F", "value"] == pytest.approx(np.mean(expected))


def test_a_figure_has_a_dot_per_seed_that_is_the_mean_over_its_folds(study, verdicts):
    runs = read_runs(study)
    dots = seed_scores(runs, verdicts)
    assert list(dots["seed"]) == [0, 1] * 3 and "auroc_low" not in dots
    means = runs.groupby(["arm", "seed"], sort=False)["auroc"].mean()
    np.testing.assert_allclose(dots["auroc"], means)
    assert (dots["n_auroc"] == 3).all()


def test_without_folds_a_run_is_a_dot(listed):
    runs = read_runs(listed)
    assert seed_scores(runs, compare_study(listed)) is runs


# --- ensembles


def test_an_ensemble_answers_with_the_mean_of_calibrated_probabilities(listed):
    runs = [read_run_predictions(listed / f"good-s{seed}") for seed in (0, 1)]
    cards = [json.loads((run.folder / "card.json").read_text()) for run in runs]
    maps = [Calibration.from_card(card["calibration"]) for card in cards]
    one = ensemble(runs)
    expected = (maps[0].apply(runs[0].probs) + maps[1].apply(runs[1].probs)) / 2
    np.testing.assert_allclose(one.probs, expected)
    cuts = (maps[0].apply(runs[0].thresholds) + maps[1].apply(runs[1].thresholds)) / 2
    np.testing.assert_allclose(one.thresholds, cuts)


def test_a_steep_member_does_not_rule_the_ensemble(tmp_path):
    """A member that says 0.99 and means 0.5 counts as 0.5."""
    folder = make_study(tmp_path / "two", {"one": 1.5}, folds=0)
    card = read_json(folder / "one-s0" / "card.json")
    none = card["calibration"] | {
        "method": ["none"] * 3,
        "slope": [1.0] * 3,
        "intercept": [0.0] * 3,
    }
    flat = none | {"method": ["platt"] * 3, "intercept": [-np.log(99)] * 3}
    for name, values in (("one-s0", flat), ("one-s1", none)):
        write_json(folder / name / "card.json", card | {"calibration": values})
    runs = [read_run_predictions(folder / f"one-s{seed}") for seed in (0, 1)]
    said = [np.full_like(run.probs, value) for run, value in zip(runs, (0.99, 0.3), strict=True)]
    runs = [replace(run, probs=probs) for run, probs in zip(runs, said, strict=True)]
    np.testing.assert_allclose(ensemble(runs).probs, (0.5 + 0.3) / 2)


def test_the_ensembles_score_is_the_mean_over_folds(study, verdicts):
    expected = []
    for fold in range(3):
        one = ensemble([read_run_predictions(study / f"poor-s{s}-f{fold}") for s in (0, 1)])
        expected += [auroc(one.targets[:, j], one.probs[:, j]) for j in range(3)]
    row = macro(verdicts.ensembles, "poor")
    assert row["value"] == pytest.approx(np.mean(expected)) and row["members"] == 2
    assert row["low"] < row["value"] < row["high"]


def test_independent_members_make_a_better_ensemble(verdicts):
    arms, ensembles = (
        macro(table, "poor")["value"] for table in (verdicts.scores, verdicts.ensembles)
    )
    assert ensembles > arms


def test_an_arm_of_one_seed_has_no_ensemble(tmp_path):
    folder = make_study(tmp_path / "one", {"one": 1.5, "two": 1.0}, seeds=1, folds=0)
    assert compare_study(folder).ensembles.empty


def test_without_a_card_the_sentences_say_why_there_is_no_ensemble(tmp_path):
    folder = make_study(tmp_path / "two", {"one": 1.5, "two": 1.0}, folds=0)
    (folder / "two-s1" / "card.json").unlink()
    verdicts = compare_study(folder)
    assert list(verdicts.ensembles["arm"].unique()) == ["one"]
    assert any(
        line.startswith("No ensemble of two: ") and "run it again" in line
        for line in verdicts.all_sentences()
    )


def test_the_summary_has_a_row_for_an_ensemble(study, verdicts):
    lines = summary(read_runs(study), verdicts).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines][:2] == ["| good", "| good, ensemble of 2"]
    assert len({line.count("|") for line in lines}) == 1
    assert f"{macro(verdicts.ensembles, 'good')['value']:.3f} (" in lines[1]


def test_the_figure_draws_an_ensemble_as_a_hollow_diamond(study, verdicts):
    dots = seed_scores(read_runs(study), verdicts)
    figure = plots.ablation(dots, verdicts.scores, verdicts.changes, verdicts.ensembles)
    drawn = [
        c for c in figure.axes[0].collections if len(c.get_offsets()) == 1 and c.get_zorder() == 5
    ]
    values = [macro(verdicts.ensembles, arm)["value"] for arm in ARMS]
    assert [c.get_offsets()[0][0] for c in drawn] == pytest.approx(values)
    assert any("ensemble" in text.get_text() for text in figure.legends[0].get_texts())


def test_the_report_of_a_study_with_folds_is_made(study):
    page = make_report(study)[-1].read_text()
    report = study / "report"
    assert "Scores are means over 3 folds" in page and "good, ensemble of 2" in page
    assert len(pd.read_csv(report / "ensembles.csv")) == 3 * 3 * 4
    assert (report / "ablation_cardiomegaly.png").stat().st_size > 10_000
    assert set(pd.read_csv(report / "fairness.csv")["arm"]) == set(ARMS)
    assert len(pd.read_csv(report / "table.csv")) == 18
    lines = table_text(study).splitlines()  # for the terminal: arms, not one row per fold
    assert lines[0].split() == ["AUROC", "average", "precision", "F1"]
    assert [line.split()[0] for line in lines[1:4]] == list(ARMS) and " * " in lines[1]
