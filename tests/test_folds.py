"""Folds: every patient is tested once, in the same fold in every stage; shares of the training
patients are nested."""

import numpy as np
import pandas as pd
import pytest

from lib.config import FINDINGS, Config
from lib.datasets.folds import divide_patients
from lib.datasets.prepare import split_rows
from lib.datasets.splits import assign_splits, crossing_patients, leaking
from lib.datasets.tables import Dataset
from lib.exceptions import SplitError

RARE = FINDINGS[-1]


def frame_of(patients: int = 400, official: str | None = None) -> pd.DataFrame:
    """Two images per patient; findings from 1 in 3 to 1 in 40 patients."""
    rng = np.random.default_rng(0)
    names = [f"nih:{number}" for number in range(patients)]
    frame = pd.DataFrame({"patient": np.repeat(names, 2)})
    frame["image"] = [f"{name}_{i % 2}.png" for i, name in enumerate(frame["patient"])]
    frame["official"] = pd.Series([official] * len(frame), dtype="str")
    for share, finding in zip(np.linspace(0.33, 0.025, len(FINDINGS)), FINDINGS, strict=True):
        frame[finding] = np.repeat(rng.random(patients) < share, 2).astype(float)
    return frame


def splits(frame: pd.DataFrame, **parameters) -> pd.Series:
    def read(folders, on_bad="raise", views="frontal"):
        assert folders
        return Dataset(frame, *[None] * 5)

    return split_rows(frame, Config(**parameters), read)


def test_every_patient_is_tested_in_exactly_one_fold():
    frame = frame_of()
    tested = [splits(frame, folds=5, fold=fold).eq("test") for fold in range(5)]
    assert (sum(part.astype(int) for part in tested) == 1).all()


@pytest.mark.parametrize("fold", range(3))
def test_no_patient_is_in_two_splits_of_a_fold(fold):
    frame = frame_of()
    split = splits(frame, folds=3, fold=fold)
    assert (split.groupby(frame["patient"]).nunique() == 1).all()


def test_folds_take_the_place_of_official_lists():
    split = splits(frame_of(official="test"), folds=5, fold=0)
    assert set(split) == {"train", "val", "test"}
    assert split.eq("test").mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("finding", FINDINGS)
def test_positive_patients_of_each_finding_are_spread_evenly(finding):
    frame = frame_of()
    people = frame.groupby("patient")[finding].max()
    counts = people.groupby(divide_patients(frame, 5)).sum()
    # the rarest is dealt out first, so exactly; a common one gives way to those dealt before it
    assert counts.max() - counts.min() <= (1 if finding == RARE else 4)


def test_folds_have_equal_sizes():
    assert set(divide_patients(frame_of(), 5).value_counts()) == {80}


def test_the_division_depends_on_no_order_and_no_seed():
    frame = frame_of()
    mixed = divide_patients(frame.sample(frac=1, random_state=1), 5)
    assert mixed.sort_index().equals(divide_patients(frame, 5).sort_index())
    tested = [splits(frame, folds=5, fold=1, seed=seed).eq("test") for seed in (0, 1)]
    assert tested[0].equals(tested[1])


def test_fewer_patients_than_folds_are_refused():
    with pytest.raises(SplitError, match="4 patients cannot be divided into 5 folds"):
        divide_patients(frame_of(4), 5)


@pytest.mark.parametrize("fold", range(3))
def test_an_earlier_stage_trains_on_nobody_who_is_tested_in_the_fold(fold):
    """The earlier stage holds a quarter of the images of the later one, as in the method."""
    later = frame_of()
    earlier = later[::8]
    folds = divide_patients(later, 3)
    config = Config(folds=3, fold=fold)
    split = assign_splits(later, config, folds=folds)
    first = assign_splits(earlier, config, later.assign(split=split), folds)
    assert not leaking(earlier.assign(split=first), later.assign(split=split)).any()
    assert set(first) == {"train", "val", "test"}


def test_smaller_shares_of_the_training_patients_lie_within_larger_ones():
    frame = frame_of(2000)
    used = [
        set(frame.loc[splits(frame, train_fraction=share) == "train", "patient"])
        for share in (0.1, 0.3, 1.0)
    ]
    assert used[0] < used[1] < used[2]
    assert len(used[0]) / len(used[2]) == pytest.approx(0.1, abs=0.02)
    assert len(used[1]) / len(used[2]) == pytest.approx(0.3, abs=0.03)


def test_a_share_of_the_training_patients_leaves_validation_and_test_as_they_are():
    frame = frame_of()
    whole, part = splits(frame), splits(frame, train_fraction=0.3)
    assert part[part != "unused"].equals(whole[part != "unused"])
    assert set(whole[part == "unused"]) == {"train"}


def test_unused_images_are_counted_in_a_warning():
    with pytest.warns(UserWarning, match="training images are not used"):
        assign_splits(frame_of(), Config(train_fraction=0.5))


@pytest.fixture
def crossing() -> pd.DataFrame:
    """An official division with 10 patients who have one image on either side."""
    frame = frame_of(official="train")
    frame.loc[frame["patient"].isin([f"nih:{n}" for n in range(50)]), "official"] = "test"
    frame.loc[frame["image"].isin([f"nih:{n}_1.png" for n in range(10)]), "official"] = "train"
    return frame


def test_patients_on_both_official_lists_are_found(crossing):
    assert crossing.loc[crossing_patients(crossing), "patient"].nunique() == 10


def test_by_patient_they_are_left_out_of_training_with_their_number(crossing):
    with pytest.warns(UserWarning, match=r"10 patients, .* with 10 images .*left out of training"):
        split = assign_splits(crossing, Config())
    assert (
        split[crossing["image"].isin([f"nih:{n}_1.png" for n in range(10)])] == "excluded"
    ).all()


def test_by_official_lists_they_stay_in_both_with_a_warning(crossing):
    with pytest.warns(UserWarning, match=r"10 patients, .*stay in training"):
        split = assign_splits(crossing, Config(split_by="official"))
    both = crossing["image"].isin([f"nih:{n}_1.png" for n in range(10)])
    assert split[both].isin(["train", "val"]).all()
    assert not (split == "excluded").any()


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (5, 5), (0, 1), (5, -1)])
def test_impossible_folds_are_refused(folds, fold):
    with pytest.raises(ValueError, match="fold"):
        Config(folds=folds, fold=fold)
