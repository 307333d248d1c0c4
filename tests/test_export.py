"""Export: the same answers as torch in every family, a card that tells the truth, nothing left
behind by a refusal."""

import copy
import io
import json
import re
import sys

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from made_records import full_record
from PIL import Image
from small_models import FINDINGS, SIZE, films, settle, small_classifier
from typer.testing import CliRunner

from lib.cli import app
from lib.compression.images import read_run_films
from lib.compression.quantize import Trial, halves
from lib.compression.remeasure import set_calibration
from lib.config import REPO_ROOT, Config
from lib.datasets.prepare import describe_data, prepare_data
from lib.exceptions import DatasetError, ExportError
from lib.export import run as export
from lib.export.onnx_file import check_parity, read_card, write_card, write_onnx
from lib.export.run import Source, export_run
from lib.files import write_json
from lib.inference.card import calibrated, card_text, make_card
from lib.inference.predictor import Predictor
from lib.inference.session import run_file
from lib.metrics.scores import auroc
from lib.models.batches import make_loaders
from lib.models.classifier import build_model, load_model, save_model
from lib.models.heatmaps import ServingModule


def silent(line: str) -> None:
    """Where nothing is to be told."""


@pytest.fixture(
    scope="module", params=["thin", "tf_efficientnet_b0", "cs3darknet_s", "darknet17", "vgg", "vit"]
)
def family(request, tmp_path_factory):
    """A served classifier and its file, of each kind of backbone; the head is the method's."""
    net = ServingModule(
        small_classifier(request.param, "mlp"), [1.5] * FINDINGS, [0.1, 0.0, -0.2], SIZE
    ).eval()
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    write_onnx(net, path)
    card = {
        "format": 1,
        "name": "small",
        "findings": ["a", "b", "c"],
        "image_size": SIZE,
        "thresholds": [0.5] * 3,
    }
    write_card(path, card)
    return net, path


def test_the_file_and_the_predictor_answer_as_torch_does(family):
    net, path = family
    images = films(5).numpy()  # another batch size than the one it was traced with
    assert check_parity(net, path, images) <= 1e-4
    with torch.no_grad():
        logits, probs, heatmaps, _ = net(torch.from_numpy(images))
    answer = Predictor(path, threads=1).predict(images)
    assert np.abs(answer.probs - probs.numpy()).max() <= 1e-4 and probs.std() > 0.01
    assert np.abs(answer.logits - logits.numpy()).max() <= 1e-4 * max(1.0, logits.abs().max())
    assert (
        np.abs(answer.heatmaps - heatmaps.numpy()).max() <= 1e-4 * heatmaps.max()
        and heatmaps.max() > 0
    )


def test_the_app_answers_a_file_as_torch_does(family, monkeypatch):
    monkeypatch.syspath_prepend(REPO_ROOT / "app")  # as `streamlit run app/app.py` does
    from predict import answer_file

    net, path = family
    film = films(1)
    file = io.BytesIO()
    Image.fromarray(film[0].numpy()).save(file, "PNG")
    answer = answer_file(Predictor(path, threads=1), file.getvalue(), "film.png")
    with torch.no_grad():
        probs = net(film)[1][0].numpy()
    assert np.abs(np.asarray(answer.probs) - probs).max() <= 1e-4


def test_one_film_is_answered_as_in_a_batch(family):
    _, path = family
    images = films(3).numpy()
    alone, together = run_file(path, images[:1]), run_file(path, images)
    assert all(np.allclose(alone[name][0], together[name][0], atol=1e-5) for name in together)


def test_batch_norms_are_folded_and_no_source_file_is_told(family):
    _, path = family
    model = onnx.load(path)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert str(REPO_ROOT).encode() not in path.read_bytes()
    assert [prop.key for prop in model.metadata_props] == ["card"]


def test_the_branches_of_repvgg_become_one_convolution_each(tmp_path):
    model = small_classifier("repvgg_a0")
    card = {
        "backbone": "repvgg_a0",
        "head": "linear",
        "findings": ["a", "b", "c"],
        "image_size": SIZE,
    }
    assert (
        export._write_plain(Source("small", model, card, {}, None), tmp_path / "model.onnx") <= 1e-4
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert kinds.count("Conv") == 22 and "Add" not in kinds[:-5]


def test_a_file_that_answers_otherwise_is_refused(family):
    net, path = family
    other = copy.deepcopy(net)
    other.intercept += 0.01
    with pytest.raises(ExportError, match=r"the ONNX file's probs differ from torch's by 0\.00\d+"):
        check_parity(other, path, films(5).numpy())


@pytest.fixture(scope="module")
def run(tiny_phantoms, tmp_path_factory):
    """The folder of a complete run on phantoms whose training was skipped."""
    folder = tmp_path_factory.mktemp("study") / "arm-s0"
    values = {
        "run_dir": str(folder),
        "data_root": str(tiny_phantoms),
        "backbone": "test_resnet",
        "pretrained": False,
    }
    config = Config(**values, image_size=32, val_fraction=0.4)
    films = prepare_data(config, folder)
    loaders = make_loaders(films.frame, films.store, config)
    model = settle(build_model(config), 32)
    count = len(config.findings)
    card = config.model_dump(include={"backbone", "head", "dropout", "findings", "image_size"})
    card["data"] = describe_data(films, loaders)
    card["thresholds"] = [0.2] * (count - 1) + [None]
    card["calibration"] = {
        "method": ["platt"] * count,
        "slope": [2.0] * count,
        "intercept": [0.5] * count,
    }
    card["operating_points"] = [
        {"finding": "Mass", "rule": "youden", "threshold": 0.3, "source": "fallback"}
    ]
    save_model(folder, model, card)
    write_json(folder / "config.json", config.model_dump(mode="json"))
    metrics = [
        {"finding": name, "auroc": 0.7, "threshold": 0.2, "threshold_from": "fallback"}
        for name in card["findings"]
    ]
    metrics.append({"finding": "macro", "auroc": 0.7, "auroc_low": 0.6, "auroc_high": 0.8})
    record = full_record(run=folder.name, config_hash=config.hash(), metrics=metrics)
    write_json(folder / "record.json", record)
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export_run(run, out=tmp_path_factory.mktemp("savefolder"), log=silent)


def test_a_run_is_exported_under_the_names_of_its_study_and_itself(run, exported):
    assert exported.name == f"{run.parent.name}-arm-s0.onnx"
    assert sorted(path.suffix for path in exported.parent.iterdir()) == [".md", ".onnx"]


def test_the_exported_run_answers_as_its_model_calibrated(run, exported):
    model, card = load_model(run)
    images = read_run_films(run, card).val[:8]
    with torch.no_grad():
        logits = model(torch.from_numpy(images).unsqueeze(1).float() / 255)
    answer = Predictor(exported).predict(images)
    assert np.allclose(answer.logits, logits, atol=1e-4)
    assert np.allclose(answer.probs, (2 * logits + 0.5).sigmoid(), atol=1e-4)


def test_thresholds_and_operating_points_call_the_same_films_after_the_calibration(exported):
    card = read_card(exported)
    wanted = 1 / (1 + np.exp(-(2 * np.log(0.2 / 0.8) + 0.5)))
    assert card["thresholds"] == pytest.approx([wanted] * 13 + [0.5])
    assert card["thresholds_from"] == ["fallback"] * 13 + ["default"]
    (point,) = card["operating_points"]
    assert (
        point["threshold"] == pytest.approx(1 / (1 + np.exp(-(2 * np.log(0.3 / 0.7) + 0.5))))
        and point["rule"] == "youden"
    )


def test_the_card_tells_of_data_scores_and_limits_but_of_no_folder(run, exported, tiny_phantoms):
    card = read_card(exported)
    record = json.loads((run / "record.json").read_text())
    assert card["data"]["phantom"] is True and set(card["data"]["layouts"]) == {"dataset_full"}
    assert card["metrics"][-1] == {
        "finding": "macro",
        "auroc": 0.7,
        "auroc_low": 0.6,
        "auroc_high": 0.8,
    }
    assert card["run"]["config_hash"] == record["config_hash"] and card["precision"] == "fp32"
    assert card["notice"].startswith("Not a medical device. Not for diagnosis.")
    text = exported.with_suffix(".md").read_text()
    assert card["notice"] in text and "phantoms" in text and "0.700 (0.600 to 0.800)" in text
    assert str(tiny_phantoms) not in text + json.dumps(card)


def test_noise_is_less_familiar_than_the_films_of_the_run(run, exported):
    predictor = Predictor(exported)
    val = read_run_films(run, load_model(run)[1]).val
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 32), dtype=np.uint8)
    strange = predictor.predict(noise).unlikeness
    assert (
        strange.min() > np.median(predictor.predict(val).unlikeness)
        and predictor.unfamiliar(strange).all()
    )


def test_the_command_exports_a_run_and_tells_the_path(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export.export_run, "__defaults__", (None, False, False, tmp_path, silent))
    result = CliRunner().invoke(app, ["export", str(run), "--name", "small"])
    assert result.exit_code == 0 and result.output.splitlines()[-1] == str(tmp_path / "small.onnx")
    assert read_card(tmp_path / "small.onnx")["name"] == "small"


def test_the_command_exports_into_the_folder_that_is_named(run, tmp_path):
    result = CliRunner().invoke(
        app, ["export", str(run), "--name", "small", "--out", str(tmp_path / "new")]
    )
    assert result.exit_code == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"small.onnx", "small.md"}


def test_without_the_extra_the_command_names_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == "onnxscript is not installed: pip install -e '.[compress]'\n"


def test_the_command_exports_nothing_but_complete_runs(tmp_path):
    result = CliRunner().invoke(app, ["export", str(tmp_path)])
    assert result.exit_code == 1 and f"{tmp_path} is no complete run" in result.output


def test_int8_comes_with_its_drift_and_statistics_of_its_own_embeddings(run, exported, tmp_path):
    said = []
    path = export_run(run, name="small", int8=True, allow_drop=True, out=tmp_path, log=said.append)
    card, plain = read_card(path), read_card(exported)
    drift = card["drift"]
    assert path.name == "small.onnx" and card["precision"] == "int8" and "drift" not in plain
    assert drift["auroc_drop"] == pytest.approx(drift["auroc_fp32"] - drift["auroc_int8"])
    films = read_run_films(run, load_model(run)[1])
    images = films.val[~halves(films.val_patients)]
    assert drift["images"] == len(images)
    raw = [run_file(file, images)["logits"].astype(float) for file in (path, exported)]
    gap = np.abs(np.subtract(*(1 / (1 + np.exp(-(2 * logits + 0.5))) for logits in raw)))
    assert gap.max() == pytest.approx(drift["prob_max"], abs=1e-5) and drift["prob_mean"] > 0
    assert card["familiarity"]["mean"] != plain["familiarity"]["mean"]
    assert any("nothing (fp32)" in line and "ms per image" in line for line in said)


@pytest.fixture(scope="module")
def int8(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    return export_run(run, name="small", int8=True, allow_drop=True, out=folder, log=silent)


def test_the_scores_of_int8_are_measured_in_int8(run, int8):
    films = read_run_films(run, load_model(run)[1])
    metrics = {row["finding"]: row for row in read_card(int8)["metrics"]}
    logits = run_file(int8, films.test)["logits"].astype(float)
    for j, finding in enumerate(read_card(int8)["findings"]):
        wanted = auroc(films.test_targets[:, j], 1 / (1 + np.exp(-logits[:, j])))
        assert metrics[finding]["auroc"] == (None if np.isnan(wanted) else pytest.approx(wanted))
    assert "those of int8, measured with this file" in int8.with_suffix(".md").read_text()


def test_int8_answers_with_its_own_calibration_and_thresholds(run, int8):
    card = read_card(int8)
    slope, intercept = (np.array(card["calibration"][key]) for key in ("slope", "intercept"))
    assert set(slope) != {2.0}  # of fp32
    answers = run_file(int8, read_run_films(run, load_model(run)[1]).val)
    assert np.allclose(
        answers["probs"], 1 / (1 + np.exp(-slope * answers["logits"] - intercept)), atol=1e-6
    )
    assert set(card["thresholds"]) != {0.2, 0.5} and "fallback" in card["thresholds_from"]


def test_a_new_calibration_changes_only_the_probabilities(exported, tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(exported.read_bytes())
    set_calibration(path, [3.0] * 14, [-1.0] * 14)
    images = films(3).numpy()[:, :32, :32]
    before, after = run_file(exported, images), run_file(path, images)
    assert np.allclose(after["probs"], 1 / (1 + np.exp(1 - 3 * after["logits"])), atol=1e-6)
    assert all(
        np.array_equal(before[name], after[name]) for name in ("logits", "heatmaps", "embedding")
    )


def test_int8_that_cannot_be_judged_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MIN_POSITIVES", 10**6)
    with pytest.raises(
        ExportError, match=r"has \d+ positive labels, and 1000000 are needed; nothing was exported"
    ):
        export_run(run, int8=True, out=tmp_path / "out", log=silent)


def test_int8_that_was_not_judged_says_so_on_its_card(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MIN_POSITIVES", 10**6)
    path = export_run(run, int8=True, allow_drop=True, out=tmp_path, log=silent)
    assert read_card(path)["drift"]["judged"] is False
    assert "**This change was not judged: " in path.with_suffix(".md").read_text()


def test_int8_that_changes_too_much_is_refused_and_nothing_is_left(run, tmp_path, monkeypatch):
    """The recipe was fine on the half that chose it, and is judged on the other."""
    monkeypatch.setattr(export, "MIN_POSITIVES", 0)
    monkeypatch.setattr(
        export,
        "quantize",
        lambda bench, tell: [Trial("minmax", "layers", bench.plain, 0.6, 0.0, 0.0, 0.0)],
    )
    monkeypatch.setattr(
        export, "judged", lambda judge, *args: Trial(*args, 0.6, -0.0051, 0.1, 0.01)
    )
    with pytest.raises(
        ExportError, match=r"differs too much .* AUROC \+0\.0051, .* Nothing was exported"
    ):
        export_run(run, int8=True, out=tmp_path / "out", log=silent)
    assert not (tmp_path / "out").exists()


def copied(run, tmp_path):
    folder = tmp_path / "copy-s0"
    folder.mkdir()
    for file in run.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_films_that_are_no_longer_those_of_the_run_are_not_used(run, tmp_path):
    folder = copied(run, tmp_path)
    splits = pd.read_csv(folder / "splits.csv", dtype=str)
    splits.loc[0, "split"] = {"train": "val"}.get(splits.loc[0, "split"], "train")
    splits.to_csv(folder / "splits.csv", index=False)
    with pytest.raises(DatasetError, match=r"differ from those that .*copy-s0 was trained on"):
        read_run_films(folder, load_model(folder)[1])


def test_without_its_films_a_run_is_exported_but_for_familiarity_and_int8(run, tmp_path):
    folder = copied(run, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"data_root": str(tmp_path / "gone")})
    said = []
    card = read_card(export_run(folder, out=tmp_path / "out", log=said.append))
    assert card["familiarity"] is None and any("they cannot be read" in line for line in said)
    with pytest.raises(
        ExportError,
        match="int8 needs the run's images, but they cannot be read",
    ):
        export_run(folder, int8=True, out=tmp_path / "int8", log=silent)


def test_an_export_changes_nothing_in_the_run(run, exported):
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    read_run_films(run, load_model(run)[1])
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_what_is_no_complete_run_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"nowhere is not a complete run: it has no record\.json"):
        export_run(tmp_path / "nowhere", out=tmp_path)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "a b", "a\n"])
def test_a_name_that_is_no_file_name_is_refused(run, name, tmp_path):
    with pytest.raises(ExportError, match="is not a valid model name"):
        export_run(run, name=name, out=tmp_path / "out", log=silent)
    assert not (tmp_path / "out").exists()


def test_an_older_run_without_calibration_keeps_its_thresholds():
    card = {
        "backbone": "b",
        "head": "linear",
        "findings": ["Mass", "Hernia"],
        "image_size": 32,
        "data": {},
    }
    made = make_card("old", card | {"thresholds": [0.123456789, None]}, [])
    assert made["thresholds"] == [0.123456789, 0.5] and made["thresholds_from"] == [
        "validation",
        "default",
    ]
    assert made["calibration"] == {
        "method": ["none"] * 2,
        "slope": [1.0] * 2,
        "intercept": [0.0] * 2,
    }
    made |= {"precision": "fp32", "exported": "today", "versions": {}, "familiarity": None}
    assert "There are no test results for this model." in card_text(made)


def test_a_hostile_card_is_shown_as_text(exported):
    card = Predictor(exported).card
    evil = "![x](https://evil.example/a.png) <img src=//evil.example> [b](//evil.example) https://evil.example :red[c]"
    hostile = card | {
        "intended_use": evil,
        "backbone": evil,
        "name": evil,
        "data": {"layouts": {evil: evil}},
    }
    text = card_text(
        hostile | {"versions": {evil: evil}, "thresholds_from": [evil] * len(card["findings"])}
    )
    assert text.count("evil") > 20
    assert not re.search(r"(?<!\\)[\[<!]|https://|(?<!\\):red", text.replace("**", ""))


@pytest.mark.parametrize(
    ("prob", "slope", "intercept", "wanted"),
    [
        (0.5, 3.0, 0.0, 0.5),
        (0.0, 2.0, 1.0, 0.0),
        (1.0, 2.0, 1.0, 1.0),
        (0.8, 0.5, 0.0, 2 / 3),
        (1e-300, 5.0, 0.0, 0.0),
    ],
)
def test_a_probability_through_the_calibration(prob, slope, intercept, wanted):
    assert calibrated(prob, slope, intercept) == pytest.approx(wanted, abs=1e-12)
