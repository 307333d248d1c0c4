"""Errors, boxes and subgroups: hand-computed cases."""

import json

import numpy as np
import pandas as pd
import pytest
from made_records import full_record

from lib.comparison.subgroups import subgroup_table
from lib.metrics.error_analysis import (
    box_scores,
    confident_errors,
    error_overlap,
    label_noise_candidates,
    pointing_table,
)

FINDINGS = ("Mass", "Nodule")


@pytest.fixture
def predictions() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(6)],
            "patient": list("aabbcc"),
            "target_Mass": [1, 1, 0, 0, np.nan, 0],
            "prob_Mass": [0.9, 0.1, 0.8, 0.2, 0.99, 0.05],
            "target_Nodule": [0, 0, 1, 0, 1, 0],
            "prob_Nodule": [0.1, 0.7, 0.2, 0.3, 0.9, 0.1],
        }
    )


def test_the_surest_errors_come_first(predictions):
    table = confident_errors(predictions, FINDINGS, each=1).set_index(["finding", "kind"])["image"]
    assert (
        table["Mass", "miss"] == "1.png" and table["Mass", "false alarm"] == "2.png"
    )  # 4.png is not annotated
    assert table["Nodule", "miss"] == "2.png" and table["Nodule", "false alarm"] == "1.png"


def test_the_rank_is_among_annotated_films(predictions):
    row = confident_errors(predictions, ["Mass"], each=1).set_index("kind").loc["miss"]
    assert row["above"] == pytest.approx(100 * 2 / 5)


def test_a_missed_mass_that_is_called_a_nodule_is_counted(predictions):
    targets, probs = (
        predictions[[f"{kind}_{name}" for name in FINDINGS]].to_numpy(float)
        for kind in ("target", "prob")
    )
    table = error_overlap(targets, probs, np.array([0.5, 0.5]), FINDINGS)
    assert list(table["missed"]) == [1, 1]
    assert table.loc["Mass", "Nodule"] == 100 and table.loc["Nodule", "Mass"] == 100
    assert np.isnan(table.loc["Mass", "Mass"])


def test_films_where_the_other_finding_is_not_annotated_do_not_count():
    targets, probs = np.array([[1.0, np.nan], [1.0, 0.0]]), np.array([[0.1, 0.9], [0.1, 0.9]])
    assert (
        error_overlap(targets, probs, np.array([0.5, 0.5]), FINDINGS).loc["Mass", "Nodule"] == 100
    )


def test_label_noise_candidates_contradict_the_mean_of_the_other_label(predictions):
    table = label_noise_candidates(predictions, ["Mass"]).set_index("image")
    assert set(table.index) == {
        "1.png",
        "2.png",
    }  # 0.1 <= mean(.8, .2, .05) and 0.8 >= mean(.9, .1)
    assert table.loc["2.png", "expected"] == pytest.approx(0.5) and table.loc[
        "1.png", "expected"
    ] == pytest.approx(0.35)
    assert (table["margin"] > 0).all()


def test_a_finding_with_one_label_has_no_candidates(predictions):
    assert label_noise_candidates(predictions.assign(target_Mass=1.0), ["Mass"]).empty


# --- boxes


def test_a_map_inside_the_box_scores_everything():
    maps = np.zeros((1, 4, 4))
    maps[0, 1, 2] = 3.0
    row = box_scores(maps, np.array([[0.5, 0.25, 0.25, 0.25]])).iloc[0]
    assert row["pointing"] == 1 and row["energy"] == 1


def test_heat_is_weighed_by_the_part_of_the_cell_that_the_box_covers():
    maps = np.array([[[1.0, 3.0], [0.0, 0.0]]])
    row = box_scores(maps, np.array([[0.25, 0.0, 0.5, 0.5]])).iloc[0]  # half of either upper cell
    assert row["energy"] == pytest.approx(0.5) and row["pointing"] == pytest.approx(0.5)


def test_the_maximum_outside_the_box_is_a_miss():
    maps = np.array([[[1.0, 3.0], [0.0, 0.0]]])
    row = box_scores(maps, np.array([[0.0, 0.0, 0.5, 0.5]])).iloc[0]
    assert row["pointing"] == 0 and row["energy"] == pytest.approx(0.25)


def test_an_empty_map_counts_as_a_miss_in_the_means():
    scores = box_scores(np.zeros((2, 4, 4)), np.array([[0.0, 0.0, 1.0, 1.0]] * 2))
    assert scores["pointing"].isna().all()
    table = pointing_table(scores.assign(finding="Mass", patient=["a", "b"]), FINDINGS)
    assert list(table["finding"]) == ["Mass", "all"] and table["pointing"].tolist() == [0, 0]


def test_the_guess_is_right_about_a_box_around_the_centre():
    row = box_scores(np.ones((1, 8, 8)), np.array([[0.25, 0.25, 0.5, 0.5]])).iloc[0]
    assert row["centre_pointing"] == 1 and row["centre_energy"] > row["energy"] == pytest.approx(
        0.25
    )


def test_a_hit_everywhere_has_a_certain_interval():
    maps = np.zeros((6, 4, 4))
    maps[:, 0, 0] = 1
    scores = box_scores(maps, np.array([[0.0, 0.0, 0.5, 0.5]] * 6)).assign(
        finding="Mass", patient=list("aabbcc")
    )
    row = pointing_table(scores, FINDINGS).iloc[0]
    assert (row["pointing"], row["pointing_low"], row["pointing_high"], row["patients"]) == (
        1,
        1,
        1,
        3,
    )


def test_without_boxes_there_is_no_row():
    scores = box_scores(np.zeros((0, 4, 4)), np.zeros((0, 4))).assign(finding=[], patient=[])
    assert scores.columns[0] == "pointing" and pointing_table(scores, FINDINGS).empty


# --- subgroups


@pytest.fixture
def run(tmp_path):
    """A complete run's folder of 80 films: women are answered perfectly, men at random."""
    rng, n = np.random.default_rng(0), 80
    sex = np.array(["F", "M"] * (n // 2))
    target = rng.permutation(n) % 3 == 0
    prob = np.where(sex == "F", 0.2 + 0.6 * target, rng.random(n))
    frame = pd.DataFrame(
        {"image": np.arange(n).astype(str), "patient": np.arange(n).astype(str), "split": "test"}
    )
    frame = frame.assign(age=np.where(np.arange(n) < 10, np.nan, 30), sex=sex, view="PA")
    frame.assign(target_Mass=target.astype(float), prob_Mass=prob).to_parquet(
        tmp_path / "predictions.parquet"
    )
    (tmp_path / "config.json").write_text('{"findings": ["Mass"], "seed": 0}')
    (tmp_path / "record.json").write_text(json.dumps(full_record()))
    pd.DataFrame(
        {"finding": ["Mass"], "threshold": [0.5], "threshold_from": ["validation"]}
    ).to_csv(tmp_path / "metrics.csv", index=False)
    return tmp_path


def test_groups_are_scored_apart_and_on_the_same_findings(run):
    table = subgroup_table([run]).set_index("group")
    assert table.loc["F", "value"] == 1 and 0.2 < table.loc["M", "value"] < 0.8
    assert (
        table.loc["F", "images"] == 40
        and table.loc["F", "findings"] == table.loc["M", "findings"] == 1
    )


def test_an_attribute_with_one_group_is_left_out_and_unknown_ages_are_reported(run):
    table = subgroup_table([run])
    assert list(table["attribute"].unique()) == ["all", "sex", "age"]
    ages = table[table["attribute"] == "age"].set_index("group")
    assert ages.loc["not known", "images"] == 10 and ages.loc["not known", "small"]


def test_sources_are_groups_where_the_predictions_name_them(run):
    path = run / "predictions.parquet"
    table = pd.read_parquet(path)
    table.assign(source=np.where(np.arange(80) < 40, "here", "there")).to_parquet(path)
    groups = subgroup_table([run]).query("attribute == 'source'").set_index("group")
    assert groups["images"].to_dict() == {"here": 40, "there": 40}
