"""What the reference gains over another arm at each share of the training patients."""

import numpy as np
import pytest
from made_studies import make_study

from lib.comparison import gain_sentences, read_run_predictions, stage_gains
from lib.files import read_json, write_json

ARMS = {"staged": 1.2, "direct": 1.1, "staged_10": 0.9, "direct_10": 0.3}


def with_shares(folder):
    """The study's plan, with `staged_10` and `direct_10` as a tenth of `staged` and `direct`."""
    plan = read_json(folder / "plan.json")
    for run in plan["runs"].values():
        whole = run["arm"].removesuffix("_10")
        part = run["arm"] != whole
        run |= {"changes": whole if part else None, "what": "train_fraction=0.1" if part else None}
    write_json(folder / "plan.json", plan | {"reference": "staged"})
    return folder


@pytest.fixture(scope="module", params=[0, 3], ids=["no folds", "3 folds"])
def study(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "made"
    return with_shares(make_study(folder, ARMS, folds=request.param))


def mean(folder, arm):
    """The mean macro AUROC of an arm's runs; each finding counts in every fold here."""
    runs = sorted(path for path in folder.glob(f"{arm}-s*") if (path / "record.json").exists())
    scores = [read_run_predictions(run).points["auroc"][-1] for run in runs]
    assert len(scores) in (2, 6)
    return np.mean(scores)


def test_the_gain_at_a_share_is_the_difference_of_the_arms_there(study):
    table = stage_gains(study).set_index("train_fraction")
    assert list(table.index) == [0.1, 1.0] and set(table["other"]) == {"direct"}
    wanted = mean(study, "staged_10") - mean(study, "direct_10")
    assert table.loc[0.1, "gain"] == pytest.approx(wanted, abs=1e-12)
    assert table.loc[1.0, "gain"] == pytest.approx(mean(study, "staged") - mean(study, "direct"))


def test_the_change_is_the_difference_of_the_gains(study):
    table = stage_gains(study).set_index("train_fraction")
    assert table.loc[0.1, "change"] == pytest.approx(
        table.loc[0.1, "gain"] - table.loc[1.0, "gain"]
    )
    assert np.isnan(table.loc[1.0, "change"])


def test_the_interval_of_a_change_is_wider_than_that_of_a_gain(study):
    """It holds the chance of four arms in place of two."""
    row = stage_gains(study).set_index("train_fraction").loc[0.1]
    assert row["change_high"] - row["change_low"] > row["high"] - row["low"]


def test_a_sentence_says_gain_and_change(study):
    lines = gain_sentences(stage_gains(study), "staged")
    assert len(lines) == 2
    assert lines[0].startswith("With 10 % of the training patients staged has +")
    assert "a larger gain with less data" in lines[0] and "gain is" not in lines[1]


def test_without_shares_there_is_no_gain(tmp_path):
    folder = make_study(tmp_path / "made", {"staged": 1.0, "direct": 0.5}, folds=0)
    plan = read_json(folder / "plan.json")
    write_json(folder / "plan.json", plan | {"reference": "staged"})
    assert stage_gains(folder).empty
