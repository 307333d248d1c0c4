"""Ensembles: one file answers with the mean of an arm's runs, and its card tells of that mean."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from made_records import full_record
from small_models import films, settle, small_classifier
from typer.testing import CliRunner

from lib.cli import app
from lib.config import Config
from lib.datasets.prepare import describe_data, prepare_data
from lib.exceptions import CxrError, ExportError
from lib.export.onnx_file import read_card
from lib.export.run import export_run
from lib.files import read_json, write_json
from lib.inference.predictor import Predictor
from lib.inference.session import run_file
from lib.metrics.evaluation import evaluate_run
from lib.metrics.predictions import read_predictions, write_predictions
from lib.metrics.scores import auroc
from lib.models.batches import make_loaders
from lib.models.classifier import build_model, load_model, save_model
from lib.models.heatmaps import EnsembleModule, ServingModule, heat_maps
from lib.models.predicting import predict_splits

COUNT = 14
SLOPES = (2.0, 0.5, 1.0)


def silent(line: str) -> None:
    """Where nothing is to be told."""


def write_run(folder, data_root, seed):
    """A complete run on phantoms whose training was skipped; each seed has its own calibration."""
    values = {"run_dir": str(folder), "data_root": str(data_root), "backbone": "test_resnet"}
    config = Config(**values, pretrained=False, image_size=32, val_fraction=0.4, seed=seed)
    data = prepare_data(config, folder)
    loaders = make_loaders(data.frame, data.store, config)
    model = settle(build_model(config), 32)
    predictions = predict_splits(model, loaders, config)
    evaluation = evaluate_run(predictions, loaders["train"].targets)
    card = {**config.network(), **evaluation.card(), "data": describe_data(data, loaders)}
    slope, intercept = [SLOPES[seed]] * COUNT, [0.1 * seed] * COUNT
    card["calibration"] = {"method": ["platt"] * COUNT, "slope": slope, "intercept": intercept}
    save_model(folder, model, card)
    write_predictions(folder / "predictions.parquet", predictions, data.frame)
    made = config.model_dump(mode="json")
    write_json(folder / "config.json", made)
    metrics = evaluation.metrics.to_dict("records")
    hashed = {"config": made, "config_hash": config.hash(), "metrics": metrics}
    write_json(folder / "record.json", full_record(run=folder.name, **hashed))


@pytest.fixture(scope="module")
def study(tiny_phantoms, tmp_path_factory):
    """The folder of a study with three seeds of an arm."""
    folder = tmp_path_factory.mktemp("studies") / "demo"
    for seed in range(3):
        write_run(folder / f"adaptive-s{seed}", tiny_phantoms, seed)
    write_plan(folder, {f"adaptive-s{seed}": {"arm": "adaptive"} for seed in range(3)})
    return folder


def write_plan(folder, runs):
    entries = {name: {"prerequisite": False, "fold": None} | entry for name, entry in runs.items()}
    write_json(folder / "plan.json", {"study": "demo", "runs": entries})


def members(study):
    return [study / f"adaptive-s{seed}" for seed in range(3)]


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("savefolder")
    return export_run(members(study), out=out, log=silent)


def test_probabilities_are_the_mean_of_the_members_calibrated_ones(study, exported):
    images = films(6, 32).numpy()
    grey = torch.from_numpy(images).unsqueeze(1).float() / 255
    with torch.no_grad():
        each = [
            (slope * load_model(folder)[0](grey) + 0.1 * seed).sigmoid().double().numpy()
            for seed, (folder, slope) in enumerate(zip(members(study), SLOPES, strict=True))
        ]
    answer = Predictor(exported).predict(images)
    wanted = np.mean(each, axis=0)
    assert np.abs(answer.probs - wanted).max() <= 1e-4 and np.std(each, axis=0).max() > 0.01
    assert np.allclose(answer.logits, np.log(wanted / (1 - wanted)), atol=1e-3)


def test_heat_maps_are_the_mean_and_the_embedding_the_first_members(study, exported, tmp_path):
    images = films(4, 32).numpy()
    found = run_file(exported, images)
    wanted = np.mean([heat_maps(folder, images) for folder in members(study)], axis=0)
    assert np.abs(found["heatmaps"] - wanted).max() <= 1e-4 * wanted.max()
    alone = export_run(members(study)[0], out=tmp_path, log=silent)
    assert np.allclose(found["embedding"], run_file(alone, images)["embedding"], atol=1e-4)
    assert read_card(alone)["familiarity"] == read_card(exported)["familiarity"] is not None


def test_thresholds_and_operating_points_are_means_of_the_calibrated_ones(study, exported):
    cards = [read_json(folder / "card.json") for folder in members(study)]
    raw = [np.array(card["thresholds"]) for card in cards]
    odds = [
        slope * np.log(p / (1 - p)) + 0.1 * i
        for i, (p, slope) in enumerate(zip(raw, SLOPES, strict=True))
    ]
    card = read_card(exported)
    assert card["thresholds"] == pytest.approx(
        np.mean([1 / (1 + np.exp(-z)) for z in odds], axis=0)
    )
    f1 = [row["threshold"] for row in card["operating_points"] if row["rule"] == "f1"]
    assert f1 == pytest.approx(card["thresholds"])
    assert len(card["operating_points"]) == 3 * COUNT


def test_the_scores_are_those_of_the_mean_on_the_test_images(study, exported):
    stored = [read_predictions(folder / "predictions.parquet") for folder in members(study)]
    rows = {row["finding"]: row for row in read_card(exported)["metrics"]}
    mean = np.mean(
        [
            1 / (1 + ((1 - one.probs) / one.probs) ** slope * np.exp(-0.1 * seed))
            for seed, (one, slope) in enumerate(zip(stored, SLOPES, strict=True))
        ],
        axis=0,
    )
    for j, finding in enumerate(stored[0].findings):
        wanted = auroc(stored[0].targets[:, j], mean[:, j])
        assert rows[finding]["auroc"] == (None if np.isnan(wanted) else pytest.approx(wanted))
    assert rows["macro"]["auroc_low"] < rows["macro"]["auroc"] < rows["macro"]["auroc_high"]


def test_the_card_lists_members_size_and_whose_embedding_it_is(study, exported):
    card, text = read_card(exported), exported.with_suffix(".md").read_text()
    assert exported.name == "demo-adaptive.onnx" and card["run"]["run"] == "adaptive"
    assert [row["run"] for row in card["members"]] == [f"adaptive-s{seed}" for seed in range(3)]
    assert [row["seed"] for row in card["members"]] == [0, 1, 2]
    assert card["megabytes"] == pytest.approx(exported.stat().st_size / 2**20, abs=0.15)
    assert "An ensemble of 3 runs" in text and "score, are those of adaptive-s0." in text
    assert "Its training started from random weights." in text and f"{card['megabytes']} MB" in text


def test_the_card_of_an_arm_names_teachers_and_removed_channels_of_its_runs(study, tmp_path):
    for folder in members(study)[:2]:
        shutil.copytree(folder, tmp_path / "demo" / folder.name)
        card = read_json(folder / "card.json")
        card["weights"] |= {"taught_by": ["demo/big-s0", "demo/big-s1"]}
        card["widths"] = {"share": 0.5, "attributes": {}, "shapes": {}}
        write_json(tmp_path / "demo" / folder.name / "card.json", card)
    runs = sorted((tmp_path / "demo").iterdir())
    path = export_run(runs, out=tmp_path / "out", log=silent)
    card = read_card(path)
    assert card["weights"]["taught_by"] == ["demo/big-s0", "demo/big-s1"]
    assert card["channels_removed"] == 0.5
    assert "It is a student of the arm demo/big" in path.with_suffix(".md").read_text()


def test_the_command_exports_an_arm(study, tmp_path):
    result = CliRunner().invoke(app, ["export", str(study / "adaptive"), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == str(tmp_path / "demo-adaptive.onnx")


def refusal(*words):
    result = CliRunner().invoke(app, ["export", *map(str, words)])
    assert result.exit_code == 1
    return result.output


def test_folds_are_not_mixed_and_one_can_be_named(study, tmp_path):
    runs = {f"direct-s{s}-f{f}": {"arm": "direct", "fold": f} for s in (0, 1) for f in (0, 1)}
    write_plan(tmp_path, runs)
    assert "were tested in 2 folds" in refusal(tmp_path / "direct")
    for seed in (0, 1):
        shutil.copytree(study / f"adaptive-s{seed}", tmp_path / f"direct-s{seed}-f1")
    path = tmp_path / "out"
    result = CliRunner().invoke(app, ["export", str(tmp_path / "direct-f1"), "--out", str(path)])
    assert result.exit_code == 0, result.output
    assert (path / f"{tmp_path.name}-direct-f1.onnx").exists()


def test_an_arm_whose_runs_are_not_all_complete_is_refused(tmp_path):
    write_plan(tmp_path, {"a-s0": {"arm": "a"}, "a-s1": {"arm": "a"}})
    assert "has runs that are not complete (a-s0, a-s1)" in refusal(tmp_path / "a")
    assert f"{tmp_path / 'b'} is no complete run" in refusal(tmp_path / "b")


def test_an_arm_of_one_run_is_no_ensemble(study, tmp_path):
    with pytest.raises(ExportError, match="an ensemble needs two runs or more"):
        export_run(members(study)[:1], out=tmp_path / "out", log=silent)


def test_int8_is_refused(study, tmp_path):
    with pytest.raises(ExportError, match="demo-adaptive is an ensemble of 3: export the ensemble"):
        export_run(members(study), int8=True, out=tmp_path / "out", log=silent)
    assert not (tmp_path / "out").exists()


def copies(study, tmp_path):
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in members(study)]


def test_members_of_other_findings_are_refused(study, tmp_path):
    folders = copies(study, tmp_path)
    card = json.loads((folders[1] / "card.json").read_text())
    write_json(folders[1] / "card.json", card | {"findings": card["findings"][::-1]})
    with pytest.raises(ExportError, match="adaptive-s0 and adaptive-s1 differ in findings"):
        export_run(folders, out=tmp_path / "out", log=silent)


def test_members_that_were_tested_on_other_images_are_refused(study, tmp_path):
    folders = copies(study, tmp_path)
    table = pd.read_parquet(folders[2] / "predictions.parquet")
    last = table.index[table["split"] == "test"][-1]
    table.drop(index=last).to_parquet(folders[2] / "predictions.parquet")
    with pytest.raises(CxrError, match="adaptive-s0 and adaptive-s2 were not tested on the same"):
        export_run(folders, out=tmp_path / "out", log=silent)


def test_logits_stay_finite_where_probabilities_round_to_one():
    nets = [ServingModule(small_classifier("thin"), [1.0] * 3, [high] * 3, 64) for high in (60, 90)]
    with torch.no_grad():
        logits, probs, _, _ = EnsembleModule(nets)(films(2))
        low = nets[0](films(2))[0] + 60
    assert (probs == 1).all()
    assert torch.allclose(logits, low + np.log(2), rtol=1e-5)  # 1 - p is half of the larger one
