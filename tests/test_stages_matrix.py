"""The stage matrix: who answers whom, on which patients, and what is kept."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_stages import make_folded, make_two_stages
from sklearn.metrics import roc_auc_score

import lib.stages.answers
from lib.comparison.arms import RunPredictions, arm_scores
from lib.config import Config
from lib.datasets import load_images, read_dataset
from lib.exceptions import RunError
from lib.files import read_json, write_json
from lib.models import load_model
from lib.stages import stage_matrix
from lib.stages.matrix import _whole_seeds, change_sentence

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_phantoms) -> Path:
    return make_two_stages(tmp_path_factory.mktemp("stages"), tiny_phantoms)


@pytest.fixture
def study(made, tmp_path) -> Path:
    """A copy of the study that a test may change, nothing answered yet."""
    shutil.copytree(made, tmp_path / "made", ignore=shutil.ignore_patterns("evaluations"))
    return tmp_path / "made"


@pytest.fixture(scope="module")
def matrix(made):
    return stage_matrix(made)


def answered(matrix) -> set[tuple[str, str, str]]:
    rows = matrix.scores[["test_set", "stage", "finding"]]
    return set(rows.itertuples(index=False, name=None))


def test_every_stage_answers_every_test_set_that_has_its_findings(matrix):
    heart, many = matrix.stages.names
    assert (heart, many) == ("Cardiomegaly stage", "3-finding stage")
    everything = {(many, many, name) for name in ("Cardiomegaly", "Effusion", "Mass", "macro")}
    assert answered(matrix) == everything | {
        (heart, heart, "Cardiomegaly"),
        (heart, many, "Cardiomegaly"),
        (many, heart, "Cardiomegaly"),
    }


def aurocs(folder: Path, finding: str, test: Path, patients: set[str] = frozenset()) -> float:
    """AUROC of a run's model on another run's test images, without some patients: decoded, resized
    and answered anew, one image at a time."""
    model, card = load_model(folder)
    data = read_dataset(Config(**read_json(test / "config.json")).data_folders)
    splits = pd.read_csv(test / "splits.csv", dtype=str).query("split == 'test'")
    frame = data.frame.set_index("image").loc[splits["image"]].dropna(subset=finding)
    frame = frame[~frame["patient"].isin(patients)]
    pixels = load_images(data, frame.index, card["image_size"])
    with torch.inference_mode():
        logits = [model(torch.from_numpy(one)[None, None].float() / 255) for one in pixels]
    column = card["findings"].index(finding)
    return roc_auc_score(frame[finding], [float(one[0, column]) for one in logits])


@pytest.mark.parametrize(("stage", "tested"), [(0, 1), (1, 0), (1, 1)])
def test_a_score_is_the_mean_auroc_of_the_models_on_these_images(made, matrix, stage, tested):
    arms, names = ("heart", "many"), matrix.stages.names
    expected = np.mean(
        [
            aurocs(made / f"{arms[stage]}-s{s}", "Cardiomegaly", made / f"{arms[tested]}-s{s}")
            for s in (0, 1)
        ]
    )
    rows = matrix.scores.query("finding == 'Cardiomegaly'").set_index(["test_set", "stage"])
    assert rows.loc[(names[tested], names[stage]), "value"] == pytest.approx(expected, abs=1e-6)


def test_a_change_is_the_later_stage_minus_the_earlier_on_the_same_patients(matrix):
    heart, many = matrix.stages.names
    assert list(matrix.changes["test_set"]) == [heart, many]
    scores = matrix.scores.query("finding == 'Cardiomegaly'").set_index(["test_set", "stage"])
    for row in matrix.changes.itertuples():
        later, earlier = (scores.loc[(row.test_set, stage)] for stage in (many, heart))
        assert row.difference == pytest.approx(later["value"] - earlier["value"])
        assert row.patients == later["patients"] == earlier["patients"]
        assert np.isnan(row.low) or row.low <= row.difference <= row.high


def test_a_second_call_loads_no_model(made, matrix, monkeypatch):
    monkeypatch.setattr(lib.stages.answers, "load_network", None)
    monkeypatch.setattr(lib.stages.answers, "read_rows", None)
    again = stage_matrix(made)
    assert again.computed == 0
    pd.testing.assert_frame_equal(again.scores, matrix.scores)


def test_a_model_that_was_made_again_is_asked_again(study):
    assert stage_matrix(study).computed == 4  # two stages, two seeds, each on the other's test set
    shutil.copy(study / "heart-s1" / "model.safetensors", study / "heart-s0" / "model.safetensors")
    assert stage_matrix(study).computed == 1


def test_patients_whom_a_stage_trained_on_are_left_out_and_counted(study, matrix):
    later = pd.read_csv(study / "many-s0" / "splits.csv", dtype=str).query("split == 'test'")
    earlier = pd.read_csv(study / "heart-s0" / "splits.csv", dtype=str)
    leaked = sorted(set(later["patient"]) & set(earlier["patient"]))[:2]
    earlier.loc[earlier["patient"].isin(leaked), "split"] = "train"
    earlier.to_csv(study / "heart-s0" / "splits.csv", index=False)
    found = stage_matrix(study)
    many = found.stages.names[1]
    rows = found.scores[found.scores["test_set"] == many]
    before = matrix.scores[matrix.scores["test_set"] == many]
    assert set(rows["left_out"]) == {2}
    assert rows["patients"].max() == before["patients"].max() - 2
    expected = np.mean(
        [
            aurocs(study / f"heart-s{s}", "Cardiomegaly", study / f"many-s{s}", set(leaked))
            for s in (0, 1)
        ]
    )
    assert rows.set_index(["stage", "finding"]).loc[
        (found.stages.names[0], "Cardiomegaly"), "value"
    ] == pytest.approx(expected, abs=1e-6)
    assert f"2 test patients of the {many} trained another stage" in "\n".join(found.sentences())


def test_a_test_set_whose_patients_were_all_trained_on_is_refused(study):
    later = pd.read_csv(study / "many-s0" / "splits.csv", dtype=str)
    everybody = later[["image", "patient"]].assign(split="train")
    everybody.to_csv(study / "heart-s0" / "splits.csv", index=False)
    found = stage_matrix(study)
    assert found.stages.names[1] not in set(found.scores["test_set"])
    assert any("Every test patient of the 3-finding stage" in note for note in found.notes)


def test_images_that_are_gone_leave_their_test_set_out_with_the_reason(study):
    for run in ("heart-s0", "heart-s1", "many-s0", "many-s1"):
        for name in ("config.json", "record.json"):
            content = read_json(study / run / name)
            config = content.get("config", content)
            config["data_root"] = str(study / "nowhere")
            write_json(study / run / name, content)
    found = stage_matrix(study)
    assert found.scores.empty and found.computed == 0
    assert len(found.notes) == 2 and all("nowhere" in note for note in found.notes)


def test_other_labels_than_the_run_had_are_refused(study):
    record = read_json(study / "many-s0" / "record.json")
    record["data"]["test_fingerprint"] = "other"
    write_json(study / "many-s0" / "record.json", record)
    found = stage_matrix(study)
    assert "many-s0 had other images or labels" in "\n".join(found.notes)
    assert set(found.scores["test_set"]) == {"Cardiomegaly stage"}


def test_a_chain_that_misses_a_run_is_left_out_with_a_note(study):
    (study / "heart-s1" / "record.json").unlink()
    found = stage_matrix(study)
    assert set(found.scores["runs"]) == {1}
    assert "1 of 2 chains of many miss a run and are left out." in found.notes


def test_an_arm_without_stages_has_no_matrix(made):
    found = stage_matrix(made, "direct")
    assert found.scores.empty and found.changes.empty and found.sentences() == []


def test_a_folder_without_a_study_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match="contains no study"):
        stage_matrix(tmp_path)


# --- folds


@pytest.fixture(scope="module")
def folded(tmp_path_factory, tiny_phantoms) -> Path:
    return make_folded(tmp_path_factory.mktemp("folded"), tiny_phantoms)


def test_with_folds_a_score_is_the_mean_over_folds_and_every_patient_counts_once(folded):
    matrix = stage_matrix(folded)
    rows = matrix.scores.set_index(["test_set", "stage", "finding"])
    tests = [folded / f"many-s0-f{fold}" for fold in (0, 1)]
    frame = read_dataset(Config(**read_json(tests[0] / "config.json")).data_folders).frame
    everybody = frame.loc[frame["Pneumonia"].notna(), "patient"].nunique()
    for stage, models in (
        ("Pneumonia stage", [folded / "children-s0"] * 2),
        ("2-finding stage", tests),
    ):
        row = rows.loc[("2-finding stage", stage, "Pneumonia")]
        scores = [aurocs(m, "Pneumonia", t) for m, t in zip(models, tests, strict=True)]
        assert row["value"] == pytest.approx(np.mean(scores), abs=1e-6)
        assert row["patients"] == everybody and row["runs"] == 2 and row["left_out"] == 0


def test_a_test_set_that_all_folds_share_counts_its_patients_once(folded):
    matrix = stage_matrix(folded)
    rows = matrix.scores.set_index(["test_set", "stage"]).loc["Pneumonia stage"]
    own, later = rows.loc["Pneumonia stage"], rows.loc["2-finding stage"]
    assert own["patients"] == later["patients"] and (own["runs"], later["runs"]) == (1, 2)
    scores = [
        aurocs(folded / f"many-s0-f{fold}", "Pneumonia", folded / "children-s0") for fold in (0, 1)
    ]
    assert later["value"] == pytest.approx(np.mean(scores), abs=1e-6)
    change = matrix.changes.set_index("test_set").loc["Pneumonia stage"]
    assert change["difference"] == pytest.approx(later["value"] - own["value"])
    assert (folded / "children-s0/evaluations/many-s0-f1/predictions.parquet").exists()
    assert change["one_training"]  # two trainings, but one seed: that is no spread over seeds


def shared_run(seed: int, fold: int, spread: float) -> RunPredictions:
    """What the model of a seed and fold answers for a test set that all folds share; seeds differ by
    `spread`, folds hardly."""
    world, own = np.random.default_rng(0), np.random.default_rng([seed, fold])
    y = (world.random((80, 1)) < 0.4).astype(float)
    z = y * (1 + spread * (-1) ** seed) + world.normal(size=y.shape)
    z = z + 0.01 * own.normal(size=y.shape)
    names, probs = np.array([f"{i:03d}" for i in range(80)]), 1 / (1 + np.exp(-z))
    return RunPredictions(("Pneumonia",), names, names, y, probs, "run", seed, np.full(1, 0.5))


def test_folds_that_share_a_test_set_are_no_further_seeds():
    runs = [shared_run(seed, fold, 0.5) for seed in (0, 1, 2) for fold in range(5)]
    seeds = _whole_seeds(runs)
    one = arm_scores([shared_run(seed, 0, 0.5) for seed in (0, 1, 2)]).iloc[0]
    all_folds = arm_scores(seeds).iloc[0]
    assert len(seeds) == 3 and all_folds["seeds"] == 3
    assert all_folds["value"] == pytest.approx(np.mean([r.points["auroc"][0] for r in runs]))
    assert all_folds["se_seeds"] == pytest.approx(one["se_seeds"], rel=0.1)
    assert all_folds["se_patients"] == pytest.approx(one["se_patients"], rel=0.1)


ROW = {
    "test_set": "Cardiomegaly stage",
    "folders": "dataset_cardiomegaly",
    "finding": "Cardiomegaly",
    "earlier": "Cardiomegaly stage",
    "later": "14-finding stage",
    "earlier_value": 0.86,
    "later_value": 0.82,
    "difference": -0.04,
    "low": -0.07,
    "high": -0.01,
    "patients": 120,
    "positive_patients": 40,
    "one_training": False,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "on the same 120 patients: -0.040 (-0.070 to -0.010): a loss."),
        ({"difference": 0.04, "low": 0.01, "high": 0.07}, "(+0.010 to +0.070): a gain."),
        ({"high": 0.01}, "(-0.070 to +0.010): may be chance."),
        ({"one_training": True}, "from one seed each: it may be chance."),
        ({"low": np.nan, "high": np.nan}, "so no interval."),
        ({"difference": np.nan}, "a class is missing"),
    ],
)
def test_a_sentence_says_what_the_interval_allows(changes, words):
    text = change_sentence(pd.Series({**ROW, **changes}))
    assert words in text and text.startswith("Cardiomegaly, on the test set of the Cardiomegaly")
