"""Fairness: rates by hand, gaps that are paired, groups that are small, figure and sentences."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_studies import NAMES, make_study

from lib import plots
from lib.comparison import fairness_sentences, fairness_table
from lib.comparison.fairness import RATES

pytestmark = pytest.mark.timeout(1200)  # on a machine that may be busy


def folders(study: Path, arm: str) -> list[Path]:
    return sorted(study.glob(f"{arm}-s*"))


def change(folder: Path, edit) -> None:
    """Changes the predictions of a run."""
    path = folder / "predictions.parquet"
    edit(pd.read_parquet(path)).to_parquet(path)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Two seeds on one test list, with films of women and men in two views."""
    folder = tmp_path_factory.mktemp("fair") / "fair"
    make_study(folder, {"ours": 1.5}, folds=0)
    for run in folders(folder, "ours"):
        change(run, lambda f: f.assign(view=np.where(np.arange(len(f)) % 2, "AP", "PA")))
    return folder


@pytest.fixture(scope="module")
def table(study) -> pd.DataFrame:
    return fairness_table({"ours": folders(study, "ours")})


def by_hand(folder: Path, group: str) -> dict[str, float]:
    """The rates of one run for one sex, finding by finding."""
    frame = pd.read_parquet(folder / "predictions.parquet").query("split == 'test'")
    cut = pd.read_csv(folder / "metrics.csv").set_index("finding")["threshold"]
    frame = frame[frame["sex"] == group]
    fnr, fpr = [], []
    called = {name: frame[f"prob_{name}"] >= cut[name] for name in NAMES}
    for name in NAMES:
        positive = frame[f"target_{name}"] == 1
        fnr.append((~called[name])[positive].mean())
        fpr.append(called[name][~positive].mean())
    ill = (frame[[f"target_{name}" for name in NAMES]] == 1).any(axis=1)
    silent = ~pd.DataFrame(called).any(axis=1)
    return {"fnr": np.mean(fnr), "fpr": np.mean(fpr), "underdiagnosis": silent[ill].mean()}


@pytest.mark.parametrize("rate", ["fnr", "fpr", "underdiagnosis"])
def test_rates_are_those_counted_by_hand(rate, study, table):
    rows = table[table["rate"] == rate].set_index("group")["value"]
    for sex in ("F", "M"):
        expected = np.mean([by_hand(run, sex)[rate] for run in folders(study, "ours")])
        assert rows[sex] == pytest.approx(expected)


def test_a_gap_is_the_rate_less_that_of_the_largest_group(table):
    for _, rows in table.groupby(["attribute", "rate"]):
        value = rows.set_index("group")["value"]
        gaps = rows.set_index("group")["gap"].dropna()
        largest = rows["against"].iloc[0]
        assert (
            rows.set_index("group")["patients"].max()
            == rows.set_index("group").loc[largest, "patients"]
        )
        assert gaps.to_dict() == pytest.approx((value - value[largest]).drop(largest).to_dict())


def test_every_attribute_of_more_than_one_kind_is_there(table):
    assert set(table["attribute"]) == {"sex", "age", "view"} and set(table["rate"]) == set(RATES)


def test_images_of_the_same_patients_are_resampled_together(tmp_path):
    """Both views of a patient get the same answer: the gap is 0 without any error."""
    make_study(tmp_path / "twin", {"ours": 1.5}, seeds=1, folds=0)
    (run,) = folders(tmp_path / "twin", "ours")

    def twins(frame: pd.DataFrame) -> pd.DataFrame:
        columns = [name for name in frame if name.startswith(("prob_", "target_"))]
        frame[columns] = frame.groupby(["split", "patient"])[columns].transform("first")
        return frame.assign(view=np.where(frame.groupby("patient").cumcount() % 2, "AP", "PA"))

    change(run, twins)
    rows = fairness_table({"ours": [run]}).query("attribute == 'view' and group != against")
    assert (rows["gap"] == 0).all() and (rows["gap_high"] == 0).all()


def test_worse_answers_for_one_group_are_found_and_said(study, tmp_path):
    make_study(tmp_path / "worse", {"ours": 3.0}, folds=0)
    rng = np.random.default_rng(0)

    def blur(frame: pd.DataFrame) -> pd.DataFrame:
        women = frame["sex"] == "F"
        for name in NAMES:
            frame.loc[women, f"prob_{name}"] = rng.random(women.sum())
        return frame

    for run in folders(tmp_path / "worse", "ours"):
        change(run, blur)
    table = fairness_table({"ours": folders(tmp_path / "worse", "ours")})
    row = table.query("rate == 'auroc' and attribute == 'sex' and group != against").iloc[0]
    assert row["p_holm"] < 0.05 and row["p_holm"] >= row["p"]
    assert any(text.startswith("ours: AUROC is 0.") for text in fairness_sentences(table))


def test_a_small_group_is_named_and_hides_no_other(study, tmp_path):
    make_study(tmp_path / "few", {"ours": 1.5}, seeds=1, folds=0)
    (run,) = folders(tmp_path / "few", "ours")

    def few(frame: pd.DataFrame) -> pd.DataFrame:
        test = frame.index[frame["split"] == "test"]
        frame.loc[test[:6], "sex"] = "X"
        return frame

    change(run, few)
    rows = fairness_table({"ours": [run]}).query("attribute == 'sex' and rate == 'auroc'")
    rows = rows.set_index("group")
    assert rows.loc["X", "small"] and rows.loc["X", "patients"] == 3
    assert rows.loc[["F", "M"], "value"].notna().all() and (rows["findings"] == 3).all()
    assert any("X (3)" in text for text in fairness_sentences(rows.reset_index()))


def test_with_folds_rates_are_means_over_folds(tmp_path):
    study = make_study(tmp_path / "folded", {"ours": 1.5, "other": 1.0}, seeds=1)
    table = fairness_table({arm: folders(study, arm) for arm in ("ours", "other")})
    expected = np.mean([by_hand(run, "F")["fpr"] for run in folders(study, "ours")])
    row = table.query("arm == 'ours' and group == 'F' and rate == 'fpr'").iloc[0]
    assert row["value"] == pytest.approx(expected)
    assert set(table["arm"]) == {"ours", "other"}


def test_the_figure_has_a_row_a_group_and_says_what_is_synthetic(table):
    figure = plots.group_rates(table, "ours", phantom=True)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == len(table[["attribute", "group"]].drop_duplicates())
    assert any("F (30 patients)" in label for label in labels) and figure.texts


def test_an_arm_without_groups_is_not_drawn(table):
    with pytest.raises(ValueError, match="has no groups to draw"):
        plots.group_rates(table, "none")
