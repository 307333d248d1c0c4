"""In: a frame of images (`datasets.tables`) and a Config. Out: the split of each row, by patient;
checks for leaks."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

import pandas as pd

from lib.config import FINDINGS, Config
from lib.exceptions import SplitError

SPLITS = ("train", "val", "test", "submit", "unused", "excluded")
"""What a row can be for. submit: official test images without labels; unused: training images
beyond `train_fraction`; excluded: other images of test patients."""
TEST_SEED = 0  # of the test patients that no official list names: all runs are tested on the same


def assign_splits(
    frame: pd.DataFrame,
    config: Config,
    later: pd.DataFrame | None = None,
    folds: Mapping[str, int] | None = None,
) -> pd.Series:
    """The split of each row: a Series named 'split' of SPLITS, with the frame's index.

    Official test images are 'test' ('submit' without a label); other images of their patients are
    'excluded' in every source, never trained on. Where no official test image is labelled, or those
    leave out a finding of the config that other images know, `test_fraction` of the patients whom
    no official list names are 'test' too, as of a population that has no official list, the same
    patients for every seed, so that seeds compare. Of the rest `val_fraction` are 'val'. Where a
    source has an official validation list, that list is 'val' (not with folds), and its official
    training list is 'train'. The choice depends on the seed and the patient's id alone, without the
    population, so that a patient who is validation in one stage is validation in every stage of
    that seed, whatever else the data hold. With config.split_by == 'image' validation is chosen by
    image, as the published method does: patients who train validate too, so that validation
    flatters. The test stays by patient: nobody in it is ever trained on. With config.split_by ==
    'official' patients whom both official lists name stay in both.

    folds: the test fold of each patient (`folds.divide_patients`). Where it is given, patients of
    config.fold are 'test' in place of official lists. later: image, patient and split of what
    `config.hold_out` names. What would leak into it is 'excluded' here. Of the training patients
    `train_fraction` are used, chosen by the seed; the others are 'unused'.

    Raises SplitError when train or val would be empty; warns (UserWarning) of excluded rows, and of
    findings that have no positive image in a split.
    """
    by = validation_unit(config.split_by)
    official = official_test(frame)
    labelled = frame[list(FINDINGS)].notna().any(axis=1)
    if folds is None:
        tested = _tested(frame, official & labelled, config)
    else:
        tested = {patient for patient, fold in folds.items() if fold == config.fold}
        official &= ~labelled
    train_listed, val_listed = _listed(frame, by) if folds is None else (set(), set())
    reserved = set(frame.loc[official, "patient"])
    kept = frame["official"].notna() if config.split_by == "official" else official
    named = {
        unit: patient_id(unit) if by == "patient" else str(unit) for unit in frame[by].unique()
    }
    val = {
        unit
        for unit, name in named.items()
        if unit_hash(config.seed, "val", name) < config.val_fraction
    }
    val = (val - train_listed) | val_listed
    split = frame[by].isin(val).map({True: "val", False: "train"}).astype("str").rename("split")
    split[frame["patient"].isin(tested)] = "test"
    split[frame["patient"].isin(reserved) & ~kept] = "excluded"
    split[official & labelled] = "test"
    split[official & ~labelled] = "submit"
    if later is not None:
        split[leaking(frame.assign(split=split), later, by)] = "excluded"
    if config.train_fraction < 1:
        split[(split == "train") & ~_drawn(frame["patient"], config)] = "unused"
    check_leaks(frame.assign(split=split), "image" if config.split_by == "official" else by)
    for part in ("train", "val"):
        if not (split == part).any():
            fractions = (
                f"val_fraction {config.val_fraction:.3g}, test_fraction {config.test_fraction:.3g}"
            )
            raise SplitError(
                f"no image is left for {part}: {len(frame):,} images, {frame[by].nunique():,} {by}s, "
                f"seed {config.seed}, {fractions}. Use more data, another seed, or other fractions."
            )
    notes = split_notes(frame, split, config.findings)
    for note in [*notes, *_crossing_notes(frame, config)]:
        warnings.warn(note, stacklevel=2)
    return split


def validation_unit(split_by: str) -> str:
    """The column whose values stand in one of train and val: patient or image."""
    return "image" if split_by == "image" else "patient"


def _listed(frame: pd.DataFrame, by: str) -> tuple[set[str], set[str]]:
    """The patients (or images) of the official training and validation lists of those sources that
    have both. Who is on both of them validates."""
    if not (frame["official"] == "val").any():
        return set(), set()
    both = frame["source"].isin(set(frame.loc[frame["official"] == "val", "source"]))
    train, val = (
        set(frame.loc[both & (frame["official"] == part), by]) for part in ("train", "val")
    )
    return train - val, val


def _tested(frame: pd.DataFrame, listed: pd.Series, config: Config) -> set[str]:
    """The patients whom no official list names and who are tested all the same: where the labelled
    images of official test lists, `listed`, do not cover the findings, and those of populations that
    have no official list."""
    named = frame["official"].notna() & listed.any()
    if _covers(frame, listed, config.findings):
        parts = frame["patient"].astype("str").str.partition(":")
        population = parts[0].where(parts[1] == ":", "")
        named |= population.isin(set(population[frame["official"].notna()]))
    return {
        patient
        for patient in set(frame["patient"]) - set(frame.loc[named, "patient"])
        if unit_hash(TEST_SEED, "test", patient_id(patient)) < config.test_fraction
    }


def _drawn(patients: pd.Series, config: Config) -> pd.Series:
    """Whether each row's patient is among the `train_fraction`; nested, since it cuts one order."""
    drawn = {
        patient: unit_hash(config.seed, "train", patient_id(patient)) < config.train_fraction
        for patient in patients.unique()
    }
    return patients.map(drawn).astype(bool)


def official_test(frame: pd.DataFrame) -> pd.Series:
    """Whether each row is on an official test list."""
    return frame["official"].eq("test").fillna(False).astype(bool)


def crossing_patients(frame: pd.DataFrame) -> pd.Series:
    """Whether each row's patient is on both sides of the official division."""
    test = official_test(frame)
    both = set(frame.loc[test, "patient"]) & set(
        frame.loc[~test & frame["official"].notna(), "patient"]
    )
    return frame["patient"].isin(both)


def _crossing_notes(frame: pd.DataFrame, config: Config) -> list[str]:
    """What is done about patients whom the official lists put on both sides; nothing with folds."""
    crossing = crossing_patients(frame)
    images = int((crossing & ~official_test(frame)).sum())
    if config.folds or not images:
        return []
    done = (
        "they stay in training, so that the test may show patients that were trained on"
        if config.split_by == "official"
        else "those images are left out of training"
    )
    return [
        f"{frame.loc[crossing, 'patient'].nunique():,} patients, by their names, are on both sides "
        f"of the official division, with {images:,} images outside the test: {done} "
        f"(split_by: {config.split_by})"
    ]


def _covers(frame: pd.DataFrame, official: pd.Series, findings: Sequence[str]) -> bool:
    """Whether the official test images annotate every one of `findings` that any image
    annotates."""
    annotated = frame[list(findings)].notna()
    return bool(annotated[official].any()[annotated.any()].all()) and bool(
        annotated[official].any().any()
    )


def patient_id(patient: str) -> str:
    """The id of a patient without the population; splits are chosen by it, whatever the population
    is called."""
    return str(patient).partition(":")[2] or str(patient)


def unit_hash(seed: int, purpose: str, unit: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments: the first 53 bits of their
    BLAKE2b digest."""
    digest = blake2b(f"{seed}\0{purpose}\0{unit}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def split_counts(
    frame: pd.DataFrame, split: pd.Series, findings: Sequence[str] = FINDINGS
) -> pd.DataFrame:
    """One row per split that occurs: images, patients, then the positives of each finding."""
    rows = {}
    for part in SPLITS:
        if (here := (split == part).to_numpy()).any():
            positives = (frame.loc[here, list(findings)] >= 0.5).sum()
            rows[part] = {
                "images": int(here.sum()),
                "patients": frame.loc[here, "patient"].nunique(),
                **positives,
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("split")


def split_notes(
    frame: pd.DataFrame, split: pd.Series, findings: Sequence[str] = FINDINGS
) -> list[str]:
    """Sentences about what is odd: excluded rows, and annotated findings without a positive in
    train, val or test."""
    notes = []
    if excluded := int((split == "excluded").sum()):
        patients = frame.loc[(split == "excluded").to_numpy(), "patient"].nunique()
        notes.append(
            f"{excluded:,} images of {patients:,} patients of an official test list or hold_out are left out"
        )
    if unused := int((split == "unused").sum()):
        notes.append(f"{unused:,} training images are not used: they are beyond train_fraction")
    counts = split_counts(frame, split, findings)
    positive = [name for name in findings if (frame[name] == 1).any()]
    for part in ("train", "val", "test"):
        if part in counts.index and (
            lacking := [name for name in positive if counts.loc[part, name] == 0]
        ):
            notes.append(
                f"no positive image in {part} for {', '.join(lacking)}: its metrics will be missing there"
            )
    return notes


def check_leaks(frame: pd.DataFrame, by: str = "patient") -> None:
    """Raise SplitError when a `by` (patient or image) of `frame`, with its column 'split', stands
    in two splits.

    Rows 'excluded' and 'unused' do not count; 'submit' counts as 'test'.
    """
    used = frame[~frame["split"].isin(["excluded", "unused"])]
    unknown = set(used["split"]) - set(SPLITS)
    if unknown:
        raise SplitError(f"unknown splits {sorted(unknown)}; they are {', '.join(SPLITS)}")
    pairs = used[[by, "split"]].replace({"split": {"submit": "test"}}).drop_duplicates()
    several = pairs[pairs[by].duplicated(keep=False)]
    leaks = several.groupby(by)["split"].agg(lambda parts: "+".join(sorted(parts)))
    if len(leaks):
        raise SplitError(
            f"{len(leaks):,} {by}s stand in two splits: {_names(f'{u} ({p})' for u, p in leaks.items())}"
        )


def leaking(earlier: pd.DataFrame, later: pd.DataFrame, by: str = "patient") -> pd.Series:
    """Which rows of an earlier stage leak into a later one: True or False per row of `earlier`.

    What the later stage tests on must not have trained the earlier one nor chosen its epoch; what
    validates the later stage must not have trained the earlier one. The test is by patient,
    validation by `by`, a value of split_by. Both frames have the columns image, patient and split.
    Patients of a file without populations compare by their ids.
    """
    by = validation_unit(by)
    tested = _keys(later[later["split"].isin(["test", "submit"])], "patient", earlier)
    validated = _keys(later[later["split"] == "val"], by, earlier)
    patients, units = _keys(earlier, "patient", later), _keys(earlier, by, later)
    train, val = earlier["split"].isin(["train", "unlabelled"]), earlier["split"] == "val"
    return (train & (units.isin(validated) | patients.isin(tested))) | (val & patients.isin(tested))


def _keys(frame: pd.DataFrame, by: str, other: pd.DataFrame) -> pd.Series:
    """A column as text, without the populations where either frame was written before there were
    any."""
    keys = frame[by].astype("str")
    named = all(
        one["patient"].astype("str").str.contains(":", regex=False).all() for one in (frame, other)
    )
    return keys if named or by == "image" else keys.map(patient_id).astype("str")


def check_inherited(earlier: pd.DataFrame, frame: pd.DataFrame, by: str = "patient") -> None:
    """Raise SplitError when an earlier stage trained on, or chose its epoch by, what this stage
    holds out.

    earlier: the earlier stage's image, patient and split; frame: this stage's. See `leaking`.
    """
    leaks = earlier[leaking(earlier, frame, by)]
    if len(leaks):
        raise SplitError(
            f"the earlier stage trained or chose its epoch on {patients_text(leaks)} that are held out here. Give both "
            "stages the same seed, val_fraction, test_fraction and split_by, and set hold_out of the earlier stage to "
            "the dataset folders of this one."
        )


def patients_text(leaks: pd.DataFrame) -> str:
    """How many patients leak, and the first eight with the split of the earlier stage."""
    first = leaks.groupby("patient")["split"].first()
    return f"{len(first):,} patients ({_names(f'{patient} in {split}' for patient, split in first.items())})"


def _names(names: Iterable[str]) -> str:
    """The first eight, and how many more."""
    listed = sorted(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8:,} more" if len(listed) > 8 else "")
