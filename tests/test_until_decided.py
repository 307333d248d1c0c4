"""Seeds that are added until verdicts are decided: the boundaries, p-values of several looks, and how
often such studies are wrong."""

from collections import Counter
from functools import partial

import numpy as np
import pandas as pd
import pytest
import yaml
from made_studies import NAMES, made_world, make_run
from scipy import stats

from lib.comparison import compare_study
from lib.comparison.looks import (
    DECIDED,
    OPEN,
    PATIENTS,
    SEEDS,
    Looks,
    add_look,
    arm_state,
    looked_claims,
    read_looks,
)
from lib.comparison.sequential import boundaries, information, looked_p, spent
from lib.exceptions import StudyError
from lib.files import write_json
from lib.studies import plan_study
from lib.studies.summary import Summary
from lib.studies.until_decided import run_until_decided

EQUAL = [0.2, 0.4, 0.6, 0.8, 1.0]


def test_the_boundaries_are_the_published_ones():
    """Lan and DeMets' Pocock type, five equal steps, one-sided 2.5 %: as the programs ldbounds and
    gsDesign print them."""
    published = [2.438, 2.427, 2.410, 2.397, 2.386]
    assert boundaries(0.025, EQUAL) == pytest.approx(published, abs=6e-4)


def test_one_look_at_everything_is_the_usual_test():
    assert boundaries(0.025, [1.0]) == pytest.approx([stats.norm.isf(0.025)], abs=1e-6)
    assert looked_p([0.013], [1.0]) == pytest.approx(0.013, rel=1e-3)


def test_all_of_the_error_is_spent_at_the_end_and_none_before_the_beginning():
    assert spent(0.05, 1.0) == pytest.approx(0.05) and spent(0.05, 0.0) == 0


def test_the_boundaries_are_passed_as_often_as_the_level_says():
    rng, times = np.random.default_rng(3), np.array([0.5, 0.75, 0.9, 1.0])
    steps = rng.normal(size=(200_000, 4)) * np.sqrt(np.diff([0, *times]))
    z = steps.cumsum(axis=1) / np.sqrt(times)
    passed = (z >= boundaries(0.05, times)).any(axis=1).mean()
    assert passed == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 200_000))


@pytest.mark.parametrize("p", [[0.2, 0.03, 0.004], [0.001, 0.4, 0.5], [0.3, 0.3, 0.3]])
def test_the_p_value_of_looks_is_the_level_at_which_one_of_them_just_rejects(p):
    times = [0.5, 0.8, 1.0]
    level = looked_p(p, times)
    for factor, rejects in ((1.01, True), (0.99, False)):
        assert (stats.norm.isf(p) >= boundaries(level * factor, times)).any() == rejects
    assert level > min(p)


def test_fractions_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="must increase"):
        boundaries(0.05, [0.5, 0.5])


def test_where_patients_are_all_of_the_noise_the_first_look_has_all_of_the_information():
    assert information(1.0, 0.0, 2, [2, 3], 5) == pytest.approx([1.0, 1.0], abs=1e-8)


def test_where_trainings_are_all_of_the_noise_information_grows_with_seeds():
    assert information(0.0, 1.0, 3, [2, 3], 6) == pytest.approx([2 / 6, 3 / 6])


# --- arms


def row(difference, patients, seeds, **p) -> pd.Series:
    numbers = {"difference": difference, "se_patients": patients, "se_seeds": seeds}
    return pd.Series({"arm": "b", "p_holm": 0.5, **numbers, **p})


@pytest.mark.parametrize(
    ("one", "state"),
    [
        (row(0.03, 0.005, 0.005, p_holm=0.01), DECIDED),
        (row(0.001, 0.005, 0.005, margin=0.02, p_equivalent=0.01), DECIDED),
        (row(0.001, 0.010, 0.001), PATIENTS),
        (row(0.001, 0.010, 0.001, margin=0.05, p_equivalent=0.2), OPEN),
        (row(0.015, 0.008, 0.006), OPEN),
    ],
)
def test_when_an_arm_needs_no_more_seeds(one, state):
    assert arm_state(one, 3, 5) == state
    assert arm_state(one, 5, 5) == (SEEDS if state == OPEN else state)


def test_looks_are_kept_and_an_arm_that_was_left_out_stays_as_it_was(tmp_path):
    looks = Looks(5)
    for seeds, arms in ((2, "ab"), (3, "b"), (4, "b")):
        rows = [{"arm": arm, **dict(row(seeds / 100, 0.01, 0.01)), "df": 4.0} for arm in arms]
        rows = [one | {"arm": arm} for one, arm in zip(rows, arms, strict=True)]
        looks = add_look(tmp_path, looks, seeds, pd.DataFrame(rows))
    assert looks == read_looks(tmp_path)
    assert looks.seeds == (2, 3, 4)
    assert [len(looks.arms[arm]) for arm in "ab"] == [1, 3]
    assert looks.arms["b"][-1]["difference"] == 0.04


def measured(difference, patients, seeds, df=np.inf) -> dict[str, float]:
    return {"difference": difference, "se_patients": patients, "se_seeds": seeds, "df": df}


def test_an_arm_that_differs_by_nothing_has_a_p_value_of_1():
    looks = Looks(3, (2, 3), {"b": [measured(0, 0.01, 0.01)] * 2})
    assert looked_claims(looks.arms["b"], looks)["p"] == pytest.approx(1.0)


def test_looks_cost_less_where_patients_are_the_noise():
    numbers = [(0.02, 0.0095, 0.001), (0.02, 0.001, 0.0095)]
    found = []
    for one in numbers:
        looks = Looks(10, (2, 3), {"b": [measured(*one)] * 2})
        found.append(looked_claims(looks.arms["b"], looks)["p"])
    alone = 2 * stats.norm.sf(0.02 / np.hypot(0.0095, 0.001))
    assert alone < found[0] < found[1]


@pytest.mark.parametrize(("patients", "seeds"), [(0.008, 0.012), (0.003, 0.02)])
def test_of_1000_studies_that_stop_when_decided_at_most_5_percent_are_wrong(patients, seeds):
    """An arm that equals the reference; 2 to 8 seeds each, the errors known; patients are the same at all
    looks. The decision is `looked_claims`' at 5 %."""
    rng, most = np.random.default_rng(17), 8
    wrong = used = 0
    for _ in range(1000):
        apart = patients * rng.normal()
        trainings = seeds * rng.normal(size=(2, most))
        kept: list[dict[str, float]] = []
        for count in range(2, most + 1):
            ours, theirs = trainings[:, :count].mean(axis=1)
            kept.append(measured(apart + ours - theirs, patients, seeds * np.sqrt(2 / count)))
            counts = tuple(range(2, count + 1))
            shares = information(patients**2, 2 * seeds**2 / count, count, counts, most)
            z = [one["difference"] / np.hypot(patients, one["se_seeds"]) for one in kept]
            rejected = (np.abs(z) >= boundaries(0.025, shares)).any()
            if rejected:
                break
        wrong += bool(rejected)
        used += count
        if rejected:  # the p-value says the same as the boundary
            assert looked_claims(kept, Looks(most, counts), np.nan)["p"] <= 0.05 * (1 + 1e-3)
    assert wrong <= stats.binom.ppf(0.999, 1000, 0.05)
    assert used > 0.9 * 1000 * most  # arms that are equal are seldom decided without a margin


# --- the study

ARMS = {"alike": 1.2, "better": 3.0, "same": 1.2}


class Maker:
    """Stands for the runner: makes the runs of a plan from made-up answers, and notes their names."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.fails = ""

    def __call__(self, plan) -> Summary:
        write_json(plan.folder / "plan.json", plan.as_json())
        summary = Summary()
        for one in plan.runs.values():
            if one.name == self.fails:
                return Summary(done=summary.done, failed={one.name: "the disk is full"})
            if (one.folder / "record.json").exists():
                summary.skipped.append(one.name)
                continue
            config = plan.entry(one)["config"]
            make_run(one.folder, config, WORLD, ARMS[one.arm] + 0.01 * len(one.arm))
            summary.done.append(one.name)
            self.made.append(one.name)
        return summary


WORLD = made_world(120, 3)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A function that runs the study until decided: (runner, most, margin) -> summary, what was said."""
    monkeypatch.setattr("lib.config.REPO_ROOT", tmp_path)
    (tmp_path / "many.ipynb").touch()
    rows = {"alike": {"notebook": "many.ipynb", "reference": True}}
    rows |= {"better": {"changes": "alike", "set": {"epochs": 9}}}
    rows |= {"same": {"changes": "alike", "set": {"epochs": 8}}}
    base = {"findings": list(NAMES), "backbone": "resnet10t"}
    head = {"study": "grows", "seeds": [0], "base": base, "runs": rows}
    file = tmp_path / "grows.yaml"

    def run(maker, most, margin=None):
        margins = {"margin": {"auroc": margin}} if margin else {}
        file.write_text(yaml.safe_dump({**head, **margins}, sort_keys=False))
        said: list[str] = []
        return run_until_decided(file, (), most, maker, said.append), said

    monkeypatch.setattr(
        "lib.studies.until_decided.plan_study",
        partial(plan_study, runs_dir=tmp_path / "runs"),
    )
    run.folder = tmp_path / "runs" / "grows"
    return run


def test_a_decided_arm_gets_no_more_seeds(study):
    maker = Maker()
    summary, said = study(maker, 4)
    assert "better: decided" in said[0] and summary.exit_code == 0
    seeds = Counter(name.rsplit("-s", 1)[0] for name in maker.made)
    assert seeds["better"] == 2 and seeds["alike"] == seeds["same"] > 2
    assert len(summary.done) == len(maker.made)
    text = " ".join(compare_study(study.folder).all_sentences())
    assert "better is better than alike" in text and "Seeds were added until verdicts" in text


def test_the_same_call_finds_everything_complete_and_says_the_same(study):
    study(Maker(), 3)
    before = read_looks(study.folder)
    again = Maker()
    summary, _ = study(again, 3)
    assert again.made == [] and not summary.done and summary.skipped
    assert read_looks(study.folder) == before


def test_a_study_whose_run_fails_ends_and_goes_on_where_it_was(study):
    maker = Maker()
    maker.fails = "same-s2"
    summary, said = study(maker, 3)
    assert summary.exit_code == 1 and len(said) == 1 and len(read_looks(study.folder).seeds) == 1
    study(Maker(), 3)
    whole, looks = study.folder, read_looks(study.folder)
    assert looks.seeds == (2, 3) and (whole / "same-s2" / "record.json").exists()


def test_another_number_of_seeds_is_refused_once_begun(study):
    study(Maker(), 3)
    with pytest.raises(StudyError, match="begun with --max-seeds 3"):
        study(Maker(), 5)


def test_fewer_seeds_than_the_first_look_takes_are_refused(study):
    with pytest.raises(StudyError, match=r"--max-seeds is 1, but .* starts with 2 seeds"):
        study(Maker(), 1)


def test_with_a_margin_arms_that_are_alike_are_decided_too(study):
    _, said = study(Maker(), 6, margin=0.2)
    assert "same: decided" in said[-1]
    text = " ".join(compare_study(study.folder).sentences())
    assert "same and alike are equivalent within the margin of 0.2" in text
