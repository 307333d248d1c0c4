"""The predictor: answers without torch, by the exported file's contract."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image
from tiny_model import BIAS, FINDINGS, SIZE, SLOPE, tiny_card, write_tiny_model

from lib.config import REPO_ROOT
from lib.exceptions import CxrError, ExportError
from lib.export.onnx_file import write_card, write_onnx
from lib.images.pixels import decode_grey
from lib.images.read import read_radiograph
from lib.inference.card import card_text
from lib.inference.ood import fit_familiarity, unlikeness
from lib.inference.predictor import Predictor
from lib.models.classifier import Classifier, build_backbone, build_head
from lib.models.heatmaps import ServingModule

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "pandas",
    "matplotlib",
    "scipy",
    "sklearn",
    "pydantic",
    "pyarrow",
    "pydicom",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Predictor:
    return Predictor(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx"), threads=1)


def plain(*greys: int) -> np.ndarray:
    return np.stack([np.full((SIZE, SIZE), grey, np.uint8) for grey in greys])


def sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


# ---- answers


def test_logits_and_probs_are_those_worked_out_by_hand(tiny):
    answer = tiny.predict(plain(0, 255, 51))
    logits = np.array([[0.0], [1.0], [0.2]]) * np.array(SLOPE) + np.array(BIAS)
    np.testing.assert_allclose(answer.logits, logits, atol=1e-5)
    np.testing.assert_allclose(answer.probs, sigmoid(logits), atol=1e-6)


def test_shapes_follow_the_contract(tiny):
    answer = tiny.predict(plain(1, 2))
    shapes = (
        answer.logits.shape,
        answer.probs.shape,
        answer.heatmaps.shape,
        answer.embedding.shape,
    )
    assert shapes == ((2, 3), (2, 3), (2, 3, 4, 4), (2, 2)) and answer.unlikeness.shape == (2,)


def test_a_heat_map_shows_where(tiny):
    images = plain(0)
    images[0, :8, 24:] = 255  # the top right place of 4 x 4
    assert np.argwhere(tiny.predict(images).heatmaps[0, 0]).tolist() == [[0, 3]]


def test_a_batch_answers_as_its_films_do_alone(tiny):
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE), dtype=np.uint8)
    together = tiny.predict(images).probs
    alone = np.concatenate([tiny.predict(images[i : i + 1]).probs for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-7)


def test_the_card_holds_name_findings_size_and_thresholds(tiny):
    assert (tiny.name, tiny.findings, tiny.image_size) == ("tiny", FINDINGS, SIZE)
    assert tiny.card == tiny_card()


def test_a_finding_is_flagged_at_its_threshold_and_over(tiny):
    probs = np.array([[0.5, 0.6, 0.7], [0.499, 0.599, 0.699]], np.float32)
    assert tiny.flagged(probs).tolist() == [[True] * 3, [False] * 3]


def test_without_statistics_unlikeness_is_nan_and_nothing_is_unfamiliar(tiny):
    score = tiny.predict(plain(7, 9)).unlikeness
    assert np.isnan(score).all() and not tiny.unfamiliar(score).any()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 8, 8), np.uint8),
        np.zeros((SIZE, SIZE), np.uint8),
        np.zeros((1, SIZE, SIZE)),
        plain(1)[:0],
    ],
    ids=["size", "dimensions", "type", "empty"],
)
def test_other_arrays_are_refused_with_what_is_taken(tiny, images):
    with pytest.raises(ValueError, match=r"tiny takes uint8 \(B, 32, 32\) with B >= 1"):
        tiny.predict(images)


def test_a_film_far_from_the_training_films_is_unfamiliar(tmp_path):
    """Training films are mid-grey; a black one is far away, one of their own grey is not."""
    grey = np.random.default_rng(0).uniform(0.4, 0.6, (200, 1)) + np.zeros((1, 2))
    grey += np.random.default_rng(1).normal(0, 1e-3, grey.shape)
    statistics = fit_familiarity(grey[:100], grey[100:])
    tiny = Predictor(write_tiny_model(tmp_path / "told.onnx", familiarity=statistics))
    answer = tiny.predict(plain(128, 0))
    np.testing.assert_array_equal(answer.unlikeness, unlikeness(answer.embedding, statistics))
    assert tiny.unfamiliar(answer.unlikeness).tolist() == [False, True]


def test_only_a_score_over_the_threshold_is_unfamiliar(tmp_path):
    rng = np.random.default_rng(0)
    statistics = fit_familiarity(rng.normal(size=(40, 2)), rng.normal(size=(30, 2)))
    path = write_tiny_model(tmp_path / "told.onnx", familiarity=statistics | {"threshold": 3.0})
    assert Predictor(path).unfamiliar(np.array([2.9, 3.0, 3.1, np.inf, np.nan])).tolist() == [
        0,
        0,
        1,
        1,
        0,
    ]


def test_an_exported_network_answers_as_torch_does(tmp_path):
    """From films of 100 x 80 px on disk to probabilities, against the network itself on the pixels
    of training."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet10t", SIZE)
    network = Classifier(
        backbone, build_head("mlp", backbone.head_hidden_size, 3, 0.3), [0.5] * 3, [0.25] * 3
    ).eval()
    write_onnx(ServingModule(network, [1.0] * 3, [0.0] * 3, SIZE), tmp_path / "resnet.onnx")
    write_card(tmp_path / "resnet.onnx", tiny_card())
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        noise = np.random.default_rng(i).integers(0, 256, (100, 80), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    answer = Predictor(tmp_path / "resnet.onnx").predict(
        np.stack([read_radiograph(path, SIZE).pixels for path in paths])
    )
    images = (
        torch.from_numpy(np.stack([decode_grey(str(path), SIZE) for path in paths]))[:, None] / 255
    )
    with torch.inference_mode():
        np.testing.assert_allclose(answer.probs, network(images).sigmoid(), atol=1e-4)


def test_warming_up_changes_no_answer(tiny):
    before = tiny.predict(plain(90)).probs
    tiny.warm_up()
    np.testing.assert_array_equal(tiny.predict(plain(90)).probs, before)


# ---- files that are no such model


def test_a_missing_model_is_reported(tmp_path):
    with pytest.raises(CxrError, match=r"none\.onnx is not a file; export a trained run"):
        Predictor(tmp_path / "none.onnx")


def test_a_file_that_is_no_onnx_is_reported(tmp_path):
    (tmp_path / "odd.onnx").write_bytes(b"not a model")
    with pytest.raises(CxrError, match=r"odd\.onnx cannot be loaded as an ONNX model"):
        Predictor(tmp_path / "odd.onnx")


def test_a_model_without_a_card_is_reported(tmp_path):
    model = onnx.load(write_tiny_model(tmp_path / "bare.onnx"))
    helper.set_model_props(model, {})
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(CxrError, match=r"bare\.onnx was not written by `cxr export`"):
        Predictor(tmp_path / "bare.onnx")


def test_a_model_with_other_outputs_is_reported(tmp_path):
    model = onnx.load(write_tiny_model(tmp_path / "few.onnx"))
    del model.graph.output[2]
    onnx.save(model, tmp_path / "few.onnx")
    with pytest.raises(CxrError, match="or lacks some of the outputs"):
        Predictor(tmp_path / "few.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, but this version reads format 1"),
        ({"findings": ["Mass"]}, "broken card"),
        ({}, None),
    ],
)
def test_a_card_of_another_format_or_that_does_not_fit_is_reported(tmp_path, changes, message):
    path = write_tiny_model(tmp_path / "other.onnx", **changes)
    if message is None:
        assert Predictor(path).name == "tiny"
    else:
        with pytest.raises(CxrError, match=message):
            Predictor(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "it is a JSON list, not an object"),
        ('{"format": 1,', "it is not valid JSON"),
        (json.dumps({"format": 1, "findings": []}), "name, image_size, thresholds is missing"),
        (
            json.dumps(tiny_card(thresholds=["a", "b", "c"])),
            "thresholds are .* numbers from 0 to 1",
        ),
        (json.dumps(tiny_card(thresholds=0.5)), "thresholds must be a list of 3 numbers"),
        (json.dumps(tiny_card(thresholds=[0.1, 0.2, float("nan")])), "numbers from 0 to 1"),
        (
            json.dumps(tiny_card(image_size=10**9)),
            "image_size is 1000000000, but must be a whole number from 1 to",
        ),
        (json.dumps(tiny_card(image_size="32")), "image_size is '32'"),
        (json.dumps(tiny_card(image_size=48)), "do not match the graph"),
        (json.dumps(tiny_card(findings="abc")), "findings a list of strings"),
        (json.dumps(tiny_card(familiarity=[])), "familiarity must be null, or an object with mean"),
    ],
)
def test_a_broken_card_is_one_sentence_with_the_name_of_the_file(tmp_path, text, message):
    model = onnx.load(write_tiny_model(tmp_path / "odd.onnx"))
    helper.set_model_props(model, {"card": text})
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match=rf"^\S*odd\.onnx has a (broken )?card.*{message}"):
        Predictor(tmp_path / "odd.onnx")


# ---- lightness


@pytest.mark.parametrize("module", ["images", "inference"])
def test_what_the_app_and_the_command_import_is_light(module):
    code = f"import sys, lib.{module}; sys.exit(' '.join(m for m in {HEAVY} if m in sys.modules) or None)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr


# ---- models that nobody meant to write


def write_with_card(path, text: str):
    model = onnx.load(write_tiny_model(path))
    helper.set_model_props(model, {"card": text})
    onnx.save(model, path)
    return path


def test_a_card_of_deeply_nested_lists_is_one_sentence(tmp_path):
    path = write_with_card(tmp_path / "deep.onnx", "[" * 100_000)
    with pytest.raises(ExportError, match=r"deep\.onnx has a broken card: it is not valid JSON"):
        Predictor(path)


def test_a_card_that_is_no_text_is_one_sentence(tmp_path):
    path = write_with_card(tmp_path / "odd.onnx", '{"name": "XXXX"}')
    path.write_bytes(path.read_bytes().replace(b"XXXX", b"\xff\xfe\xff\xfe"))
    with pytest.raises(ExportError, match=r"odd\.onnx (has a broken card|cannot be loaded)"):
        Predictor(path)


@pytest.mark.parametrize("broken", [{"mean": 3}, {"rest": "x"}, {"threshold": None}, {"scale": {}}])
def test_statistics_that_cannot_be_used_are_reported_when_the_model_is_loaded(tmp_path, broken):
    rng = np.random.default_rng(0)
    statistics = fit_familiarity(rng.normal(size=(40, 2)), rng.normal(size=(30, 2)))
    good = write_tiny_model(tmp_path / "good.onnx", familiarity=statistics)
    Predictor(good).predict(plain(3))
    path = write_tiny_model(tmp_path / "odd.onnx", familiarity=statistics | broken)
    with pytest.raises(ExportError, match=r"odd\.onnx has a broken card: familiarity"):
        Predictor(path)


def test_a_graph_that_cannot_be_computed_is_one_sentence(tmp_path):
    model = onnx.load(write_tiny_model(tmp_path / "odd.onnx"))
    model.graph.initializer[2].dims[:] = [3, 1]  # the slope no longer fits
    model.graph.node[8].op_type = "MatMul"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match=r"odd\.onnx (cannot be|was not)"):
        Predictor(tmp_path / "odd.onnx").predict(plain(1, 2))


def test_a_card_that_cannot_be_shown_is_one_sentence(tiny):
    with pytest.raises(ExportError, match="the card of 'tiny' cannot be shown"):
        card_text(tiny.card)
