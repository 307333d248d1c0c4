"""Runs in 8 bits against those that they were made from: which are paired, and how wide intervals are."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from made_studies import make_study

from lib.comparison import arms
from lib.comparison.arms import differences, read_run_predictions
from lib.comparison.pairs import RunDifference, paired
from lib.comparison.quantized import quantized_changes, quantized_sentences
from lib.files import read_json, write_json


@pytest.fixture
def seeds(tmp_path):
    """Two seeds of one arm, and the same in 8 bits: answers that hardly differ."""
    folder = make_study(tmp_path, {"whole": 1.0}, folds=0)
    runs = [read_run_predictions(folder / f"whole-s{seed}") for seed in (0, 1)]
    rng = np.random.default_rng(0)
    bits = [
        replace(
            run,
            run=f"{run.run}-8",
            probs=np.clip(run.probs + rng.normal(0, 1e-3, run.probs.shape), 0, 1),
            scored=None,
            folder=None,
            made_from=run.run,
        )
        for run in runs
    ]
    return runs, bits


def test_a_run_is_paired_with_the_one_that_it_was_made_from(seeds):
    runs, bits = seeds
    pairs = paired(bits[::-1], runs)
    assert [(pair.run.run, pair.other.run) for pair in pairs] == [
        (f"whole-s{seed}-8", f"whole-s{seed}") for seed in (1, 0)
    ]
    ours, theirs = bits[1].points["auroc"], runs[1].points["auroc"]
    np.testing.assert_array_equal(pairs[0].points["auroc"], ours - theirs)
    assert pairs[0].images is bits[1].images


def test_runs_that_were_trained_are_not_paired(seeds):
    runs, bits = seeds
    assert paired(runs, runs) == paired([bits[0], runs[1]], runs) == paired(bits, runs[:1]) == []


def test_the_interval_is_that_of_the_differences_and_not_of_the_trainings(seeds):
    runs, bits = seeds
    apart = [replace(run, made_from="") for run in bits]
    near, far = (
        differences(made, runs).query("finding == 'macro' and metric == 'auroc'").iloc[0]
        for made in (bits, apart)
    )
    assert near["difference"] == pytest.approx(far["difference"])
    assert near["se_seeds"] < far["se_seeds"] / 5 and near["df"] == 1


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_the_interval_of_few_differences_holds_what_is_true(count, spread):
    """Simulated: a spread between trainings, patients whom all runs meet alike, and others not."""
    rng, held, tries = np.random.default_rng(1), 0, 400
    resampled = rng.normal(size=(1000, 1 + count))
    for _ in range(tries):
        shared, own = rng.normal(), rng.normal(size=count)
        trained = rng.normal(0, spread, count)
        pairs = []
        for k in range(count):
            drawn = (resampled[:, 0] + resampled[:, 1 + k])[:, None]
            of = {"auroc": np.full(1, trained[k] + shared + own[k])}
            zero = {"auroc": np.zeros(1)}
            run = SimpleNamespace(points=of, resampled={"auroc": drawn}, parts=(None,))
            other = SimpleNamespace(points=zero, resampled={"auroc": np.zeros((1000, 1))})
            pairs.append(RunDifference(run, other))
        mean = np.mean([pair.resampled["auroc"] for pair in pairs], axis=0)
        found = arms._variance_components([(1, pairs)], mean, None, "auroc")
        value = np.mean([pair.points["auroc"] for pair in pairs], axis=0)
        low, high = arms._student_interval(value, np.sqrt(found[0] + found[1]), found[2])
        held += low[0] <= 0 <= high[0]
    assert held / tries > 0.93


def test_a_study_without_8_bits_has_no_such_changes(tmp_path):
    folder = make_study(tmp_path, {"whole": 1.0}, folds=0)
    changes = quantized_changes(folder)
    assert changes.empty and quantized_sentences(changes) == []


def test_an_arm_whose_seeds_the_other_has_not_whole_has_no_row(tmp_path):
    folder = make_study(tmp_path, {"whole": 1.0, "bits": 1.0}, folds=3)
    plan = read_json(folder / "plan.json")
    for name, planned in plan["runs"].items():
        if planned["arm"] == "bits":
            planned["config"]["init_from"] = f"x/{name.replace('bits', 'whole')}"
            write_json(folder / name / "config.json", planned["config"])
            (folder / name / "int8.onnx").touch()
    write_json(folder / "plan.json", plan)
    assert list(quantized_changes(folder)["reference"]) == ["whole"]
    shutil.rmtree(
        folder / "bits-s1-f2"
    )  # the seed 1 of this arm is left out, that of the other not
    assert list(quantized_changes(folder)["seeds"]) == [1]
    shutil.rmtree(folder / "bits-s0-f1")
    assert quantized_changes(folder).empty
