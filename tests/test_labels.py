"""Labels in doubt: uncertain ones, and those on which readers disagree, in training alone."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from lib.config import FINDINGS, Config
from lib.datasets.labels import training_labels


@pytest.fixture
def frame() -> pd.DataFrame:
    """Two training images and a test image, not annotated but for Mass, of which it is absent."""
    frame = pd.DataFrame({"image": ["a", "b", "t"], "split": ["train", "train", "test"]})
    frame[list(FINDINGS)] = np.nan
    return frame.assign(Mass=0.0)


def doubts(*rows: tuple[str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["image", "finding", "value"])


UNSURE = doubts(("a", "Edema", -1), ("b", "Edema", -1), ("t", "Edema", -1))


@pytest.mark.parametrize("rule, value", [("ignore", np.nan), ("zeros", 0.0), ("ones", 1.0)])
def test_an_uncertain_label_is_what_the_rule_says_in_training_alone(frame, rule, value):
    edema = training_labels(frame, UNSURE, Config(uncertain=rule))["Edema"]
    np.testing.assert_array_equal(edema, [value, value, np.nan])


def test_a_smoothed_label_lies_between_055_and_085_and_is_the_same_again(frame):
    config = Config(uncertain="smooth")
    one, other = (training_labels(frame, UNSURE, config)["Edema"].to_numpy() for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert (one[:2] > 0.55).all() and (one[:2] < 0.85).all() and one[0] != one[1]
    assert np.isnan(one[2])


def test_smoothed_labels_are_spread_evenly():
    images = [f"{i}.png" for i in range(2000)]
    frame = pd.DataFrame({"image": images, "split": "train"})
    frame[list(FINDINGS)] = np.nan
    unsure = doubts(*((image, "Edema", -1.0) for image in images))
    edema = training_labels(frame, unsure, Config(uncertain="smooth"))["Edema"]
    assert edema.mean() == pytest.approx(0.70, abs=0.01)
    assert edema.std() == pytest.approx(0.3 / np.sqrt(12), abs=0.005)


def test_a_rule_may_be_given_by_finding(frame):
    both = pd.concat([UNSURE, doubts(("a", "Pneumonia", -1), ("a", "Hernia", -1))])
    rules = Config(uncertain={"Edema": "ones", "Pneumonia": "zeros"})
    row = training_labels(frame, both, rules).iloc[0]
    assert (row["Edema"], row["Pneumonia"]) == (1, 0) and np.isnan(row["Hernia"])


def test_a_share_of_readers_is_a_target_where_it_is_asked_for(frame):
    shares = doubts(("a", "Mass", 1 / 3), ("t", "Mass", 1 / 3))
    assert training_labels(frame, shares, Config())["Mass"].tolist() == [0, 0, 0]
    shared = training_labels(frame, shares, Config(readers="share"))["Mass"]
    assert shared.tolist() == [1 / 3, 0, 0]


def test_a_label_that_another_source_is_certain_of_is_kept(frame):
    unsure = doubts(("a", "Mass", -1), ("b", "Mass", 2 / 3))
    config = Config(uncertain="ones", readers="share")
    assert training_labels(frame, unsure, config)["Mass"].tolist() == [0, 0, 0]


def test_doubts_of_images_that_are_not_there_are_passed_over(frame):
    assert training_labels(frame, doubts(("z", "Mass", -1)), Config(uncertain="ones")).equals(frame)


# ---- fields of Config


@pytest.mark.parametrize(
    "values, problem",
    [
        ({"uncertain": "maybe"}, "uncertain"),
        ({"uncertain": {"Oedema": "ones"}}, "must be by finding; Oedema is none"),
        ({"uncertain": {"Edema": "perhaps"}}, "uncertain"),
        ({"views": "lateral"}, "views"),
        ({"views": []}, "one or more names"),
        ({"views": [1]}, "one or more names"),
        ({"readers": "first"}, "readers"),
        ({"balance_sources": "yes"}, "balance_sources"),
    ],
)
def test_a_wrong_value_is_refused(values, problem):
    with pytest.raises(ValidationError, match=problem):
        Config(**values)


def test_views_are_names_in_capitals_each_once():
    assert Config(views=["pa", "Lateral", "PA"]).views == ("PA", "LATERAL")


def test_the_new_fields_change_a_hash_only_where_they_are_set():
    assert Config(views="frontal", uncertain="ignore", readers="majority").hash() == Config().hash()
    assert Config(uncertain={"Edema": "ones"}).hash() != Config().hash()
