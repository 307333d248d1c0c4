"""Splits by patient: the same choice in every stage, official lists obeyed, leaks refused."""

import warnings

import numpy as np
import pandas as pd
import pytest

from lib.config import FINDINGS, Config
from lib.datasets.splits import assign_splits, check_inherited, check_leaks, split_counts, unit_hash
from lib.exceptions import SplitError


def frame_of(patients: list[str], official: list[str | None] | None = None) -> pd.DataFrame:
    """Two images a patient, all 14 findings positive."""
    frame = pd.DataFrame({"patient": np.repeat(patients, 2)})
    frame["image"] = [f"{patient}_{i % 2}.png" for i, patient in enumerate(frame["patient"])]
    frame["official"] = pd.Series(
        np.repeat(official, 2) if official else [None] * len(frame), dtype="str"
    )
    frame[list(FINDINGS)] = 1.0
    return frame


MANY = [str(i) for i in range(2000)]


def test_no_patient_stands_in_two_splits():
    frame = frame_of(MANY)
    split = assign_splits(frame, Config())
    assert (split.groupby(frame["patient"]).nunique() == 1).all()


def test_fractions_are_about_right():
    share = assign_splits(
        frame_of(MANY), Config(val_fraction=0.25, test_fraction=0.2)
    ).value_counts(normalize=True)
    assert share["test"] == pytest.approx(0.2, abs=0.03)
    assert share["val"] == pytest.approx(0.8 * 0.25, abs=0.03)


def test_a_patients_choice_does_not_depend_on_the_other_patients():
    whole = frame_of(MANY)
    part = whole[whole["patient"].isin(MANY[:300])]
    assert assign_splits(part, Config()).equals(assign_splits(whole, Config()).loc[part.index])


def test_validation_patients_stay_validation_when_another_stage_has_an_official_test():
    plain = assign_splits(frame_of(MANY), Config())
    official = assign_splits(frame_of(MANY, ["test"] * 100 + [None] * 1900), Config())
    both = plain.isin(["train", "val"]) & official.isin(["train", "val"])
    assert plain[both].equals(official[both])


def test_seeds_validate_on_other_patients_and_test_on_the_same():
    one, other = (assign_splits(frame_of(MANY), Config(seed=seed)) for seed in (0, 1))
    assert (one == "test").any() and one.eq("test").equals(other.eq("test"))
    assert not one.eq("val").equals(other.eq("val"))


def test_unit_hash_is_pinned():
    """Another value would move patients between the splits of finished runs."""
    assert unit_hash(0, "val", "506") == pytest.approx(0.020277843434093445, abs=1e-12)


def test_the_population_changes_no_split():
    frame = frame_of(MANY)
    named = frame.assign(patient="nih:" + frame["patient"])
    assert assign_splits(named, Config()).equals(assign_splits(frame, Config()))


def test_official_test_is_obeyed_and_no_more_is_taken():
    split = assign_splits(
        frame_of(MANY, ["test"] * 10 + ["trainval"] * 1990), Config(test_fraction=0.5)
    )
    assert (split[:20] == "test").all() and not (split[20:] == "test").any()


def test_training_images_of_test_patients_are_excluded_with_a_warning():
    frame = frame_of(MANY)
    frame.loc[0, "official"] = "test"
    frame.loc[1, "official"] = "train"
    with pytest.warns(UserWarning, match="1 images of 1 patients of an official test list"):
        split = assign_splits(frame, Config())
    assert split[:2].tolist() == ["test", "excluded"]


def test_unlabelled_test_images_are_for_submission_and_a_test_is_still_made():
    frame = frame_of(MANY, ["test"] * 10 + ["train"] * 1990)
    frame.loc[:19, list(FINDINGS)] = np.nan
    split = assign_splits(frame, Config())
    assert (split[:20] == "submit").all() and (split[20:] == "test").any()


def test_split_by_image_divides_patients_only_when_asked():
    frame = frame_of(MANY)
    split = assign_splits(frame, Config(split_by="image"))
    with pytest.raises(SplitError, match="patients stand in two splits"):
        check_leaks(frame.assign(split=split))


def test_split_by_image_keeps_test_patients_out_of_training():
    frame = frame_of(MANY)
    split = assign_splits(frame, Config(split_by="image"))
    assert not set(frame.loc[split == "test", "patient"]) & set(
        frame.loc[split != "test", "patient"]
    )


def test_split_by_image_keeps_all_images_of_official_test_patients_out_of_training():
    frame = frame_of(MANY)
    frame.loc[0, "official"] = "test"
    with pytest.warns(UserWarning, match="are left out"):
        split = assign_splits(frame, Config(split_by="image"))
    assert split[:2].tolist() == ["test", "excluded"]


def test_a_finding_without_positives_in_a_split_is_named():
    frame = frame_of(MANY)
    frame["Hernia"] = [1.0] + [0.0] * (len(frame) - 1)
    with pytest.warns(UserWarning, match="no positive image in (train|val|test) for Hernia"):
        assign_splits(frame, Config())


def test_nothing_is_warned_about_when_nothing_is_odd():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assign_splits(frame_of(MANY), Config())


def test_too_few_patients_is_an_error_that_says_so():
    with pytest.raises(SplitError, match="no image is left for"):
        assign_splits(frame_of(["1"]), Config())


def test_leaks_are_named():
    frame = pd.DataFrame({"patient": ["7", "7", "8"], "split": ["train", "val", "test"]})
    with pytest.raises(SplitError, match=r"1 patients stand in two splits: 7 \(train\+val\)"):
        check_leaks(frame)


def test_excluded_rows_and_submissions_are_no_leak():
    check_leaks(pd.DataFrame({"patient": ["7", "7", "7"], "split": ["test", "excluded", "submit"]}))


def stage_of(**splits: str) -> pd.DataFrame:
    """One image per patient."""
    rows = [(f"{patient}.png", f"nih:{patient}", split) for patient, split in splits.items()]
    return pd.DataFrame(rows, columns=["image", "patient", "split"])


@pytest.mark.parametrize(
    ("earlier", "later"), [("train", "val"), ("train", "test"), ("val", "test")]
)
def test_what_a_later_stage_holds_out_may_not_train_or_choose_an_epoch_before(earlier, later):
    with pytest.raises(
        SplitError, match=rf"on 1 patients \(nih:b in {earlier}\) that are held out here"
    ):
        check_inherited(stage_of(a="train", b=earlier), stage_of(a="train", b=later))


@pytest.mark.parametrize(
    ("earlier", "later"), [("val", "val"), ("test", "test"), ("excluded", "test"), ("test", "val")]
)
def test_what_neither_trained_nor_chose_an_epoch_is_no_leak(earlier, later):
    check_inherited(stage_of(a="train", b=earlier), stage_of(a="train", b=later))


def test_patients_of_splits_without_populations_compare_by_their_ids():
    old = stage_of(b="train").assign(patient="b")
    with pytest.raises(SplitError, match="1 patients"):
        check_inherited(old, stage_of(b="test"))


def test_held_out_patients_are_excluded_from_an_earlier_stage():
    later = stage_of(**{patient: "test" for patient in MANY[:100]})
    frame = frame_of(MANY).assign(patient=lambda frame: "nih:" + frame["patient"])
    split = assign_splits(frame, Config(), later)
    check_inherited(frame.assign(split=split), later)
    assert (split == "excluded").any()


def test_counts_per_split():
    frame = frame_of(["1", "2"])
    counts = split_counts(frame, pd.Series(["train", "train", "val", "val"]), ["Mass"])
    assert counts.to_dict("index") == {
        "train": {"images": 2, "patients": 1, "Mass": 2},
        "val": {"images": 2, "patients": 1, "Mass": 2},
    }


def test_the_frame_is_left_as_it_was():
    frame = frame_of(MANY)
    before = frame.copy()
    assign_splits(frame, Config())
    pd.testing.assert_frame_equal(frame, before)


def test_an_official_test_of_one_finding_leaves_room_for_a_test_of_the_others():
    frame = frame_of(MANY, ["test"] * 50 + ["train"] * 450 + [None] * 1500)
    others = [name for name in FINDINGS if name != "Cardiomegaly"]
    frame.loc[:999, others] = (
        np.nan
    )  # the Cardiomegaly set: 500 patients, the rest knows all findings
    split = assign_splits(frame, Config())
    tested = frame[(split == "test").to_numpy()]
    assert tested["Hernia"].notna().sum() / 3000 == pytest.approx(0.2, abs=0.04)
    assert set(split[100:1000]) == {
        "train",
        "val",
    }  # whom the earlier stage trains on is not tested on here


def test_an_official_test_stands_alone_where_it_knows_every_finding_asked_for():
    frame = frame_of(MANY, ["test"] * 50 + ["train"] * 450 + [None] * 1500)
    frame.loc[:999, [name for name in FINDINGS if name != "Cardiomegaly"]] = np.nan
    split = assign_splits(frame, Config(findings=("Cardiomegaly",)))
    assert (split == "test").sum() == 100


# ---- official validation lists, and several populations


def listed(parts: list[str | None], source: str = "one") -> pd.DataFrame:
    """A patient for each official part, with two images."""
    names = [f"{source}:{i}" for i in range(len(parts))]
    return frame_of(names, parts).assign(source=source)


def test_an_official_validation_list_is_the_validation():
    frame = listed(["train"] * 60 + ["val"] * 20 + ["test"] * 20)
    assert assign_splits(frame, Config()).equals(frame["official"].rename("split"))


def test_a_patient_of_an_official_validation_list_trains_in_no_other_source():
    mimic = listed(["train"] * 60 + ["val"] * 20 + ["test"] * 20)
    again = mimic[mimic["official"] == "val"].assign(official=None, source="two")
    again["image"] = "two/" + again["image"]
    split = assign_splits(pd.concat([mimic, again], ignore_index=True), Config())
    assert (split.iloc[-len(again) :] == "val").all()


def test_a_training_list_without_a_validation_list_gives_its_own():
    split = assign_splits(listed(["train"] * 180 + ["test"] * 20), Config())
    assert 0 < (split == "val").sum() < 100


def test_folds_take_the_place_of_official_validation_lists():
    frame = listed(["train"] * 60 + ["val"] * 20 + ["test"] * 20)
    folds = {name: i % 4 for i, name in enumerate(frame["patient"].unique())}
    split = assign_splits(frame, Config(folds=4), folds=folds)
    assert (split[frame["official"] == "val"] != "val").any()


def test_a_population_without_official_lists_is_tested_beside_one_that_has_them():
    both = pd.concat([listed(["train"] * 90 + ["test"] * 10), listed([None] * 200, "two")])
    split = assign_splits(both.reset_index(drop=True), Config())
    assert 20 < (split.iloc[200:] == "test").sum() < 160
