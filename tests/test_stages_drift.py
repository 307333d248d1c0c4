"""How far depths moved: activations of every family, transitions of a chain; freeze sweeps and
learning curves from made scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_records import full_record
from made_stages import make_two_stages
from small_models import FAMILIES, films, small_classifier

from lib.files import write_json
from lib.models import backbone_stages
from lib.stages import curve_sentences, freeze_sweep, learning_curves, stage_drift
from lib.stages.depths import depth_activations, depth_names

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_depth_that_can_be_frozen_has_centred_activations(family):
    model = small_classifier(family)
    found = depth_activations(model, films(6).numpy())
    assert len(found) == len(backbone_stages(model.backbone)) == len(depth_names(model))
    for one in found:
        fields = len(one) // 6
        assert len(one) == 6 * fields and 1 <= fields <= 16 and np.isfinite(one).all()
        assert np.abs(one.reshape(6, fields, -1).mean(axis=0)).max() < 1e-3 * np.abs(one).max()


def test_the_first_depth_is_the_output_of_the_stem_averaged_over_fields():
    model = small_classifier("thin")
    pixels = films(5)
    found = depth_activations(model, pixels.numpy())[0].reshape(5, 4, 4, -1)
    with torch.inference_mode():
        normal = (pixels.unsqueeze(1).float() / 255 - model.mean) / model.std
        stem = model.backbone.bn1(model.backbone.conv1(normal))  # (5, C, 32, 32)
    blocks = stem.reshape(5, -1, 4, 8, 4, 8).mean(dim=(3, 5)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, blocks - blocks.mean(axis=0), atol=1e-4)


def test_batches_and_left_over_hooks_change_nothing():
    model, pixels = small_classifier("thin"), films(40).numpy()
    first, again = depth_activations(model, pixels), depth_activations(model, pixels)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.fixture(scope="module")
def drift(tmp_path_factory, tiny_phantoms):
    return stage_drift(make_two_stages(tmp_path_factory.mktemp("drift"), tiny_phantoms))


def test_every_transition_of_the_chain_has_every_depth(drift):
    parts = ["conv1, bn1", "layer1", "layer2", "layer3", "layer4"]
    assert list(dict.fromkeys(drift.table["transition"])) == [
        "Cardiomegaly stage",
        "3-finding stage",
        "all 2 stages together",
        "direct (no stage before)",
    ]
    for _, rows in drift.table.groupby("transition"):
        assert list(rows["depth"]) == [1, 2, 3, 4, 5] and set(rows["trainings"]) == {2}
        assert [part.split(".")[0] for part in rows["part"]] == parts


def test_a_stage_that_moves_no_weight_of_the_backbone_leaves_all_as_it_was(drift):
    still = drift.table.query("transition == '3-finding stage'")
    np.testing.assert_allclose(still["cka"], 1, atol=1e-4)
    moved = drift.table.query("transition == 'Cardiomegaly stage'")
    together = drift.table.query("transition == 'all 2 stages together'")
    assert (moved["cka"] < 0.999).all()
    np.testing.assert_allclose(together["cka"], moved["cka"], atol=1e-4)
    assert ((moved["least"] <= moved["cka"]) & (moved["cka"] <= moved["most"])).all()


def test_a_sentence_names_the_depth_that_moved_most(drift):
    moved = drift.table.query("transition == 'Cardiomegaly stage'")
    most = moved.loc[moved["cka"].idxmin()]
    first = drift.sentences()[0]
    assert f"most at depth {most['depth']} of 5" in first and f"{most['cka']:.2f}" in first


# --- arms that differ in one number


def made_study(folder: Path, arms: dict[str, dict]) -> pd.DataFrame:
    """A folder with complete runs of these arms {name: changes, what, config}; their made scores."""
    runs, scores = {}, []
    for i, (arm, about) in enumerate(arms.items()):
        config = {"freeze": "none", "backbone": "resnet50", "findings": ["Mass"]} | about["config"]
        runs[f"{arm}-s0"] = {
            "arm": arm,
            "seed": 0,
            "prerequisite": False,
            "reference": i == 0,
            "needs": [],
            "lineage": "",
            "config": config,
            "changes": about.get("changes"),
            "what": about.get("what"),
        }
        record = full_record(config=config)
        record["data"] = {**record["data"], "used": {"train": about.get("images", 100)}}
        write_json(folder / f"{arm}-s0" / "record.json", record)
        score = {"value": 0.5 + i / 100, "low": 0.4, "high": 0.7, "seeds": 1 + (i == 0)}
        scores.append({"arm": arm, "metric": "auroc", "finding": "macro", **score})
        scores.append({"arm": arm, "metric": "f1", "finding": "macro", **score, "value": 0.1})
    head = {"study": "s", "reference": next(iter(arms)), "primary": "auroc", "seeds": [0]}
    write_json(folder / "plan.json", {**head, "runs": runs})
    return pd.DataFrame(scores)


def changed(arm: str, field: str, value) -> dict:
    return {"changes": arm, "what": f"{field}={value}", "config": {field: value}}


def test_a_freeze_sweep_has_the_reference_and_what_changes_nothing_but_freeze(tmp_path):
    arms = {
        "main": {"config": {}},
        "all": changed("main", "freeze", "backbone"),
        "two": changed("main", "freeze", 2),
        "other": changed("two", "freeze", 3),
        "quick": changed("main", "lr", 0.1),
    }
    sweep = freeze_sweep(tmp_path, made_study(tmp_path, arms), depths=6)
    assert list(sweep["arm"]) == ["main", "two", "all"]
    assert list(sweep["frozen"]) == [0, 2, 6] and list(sweep["value"]) == [0.5, 0.52, 0.51]
    assert list(sweep["is_reference"]) == [True, False, False]


def test_a_study_without_frozen_arms_has_no_sweep(tmp_path):
    assert freeze_sweep(tmp_path, made_study(tmp_path, {"main": {"config": {}}}), 6).empty


def test_learning_curves_are_families_with_their_parent_at_the_end(tmp_path):
    arms = {
        "main": {"config": {"train_fraction": 1.0}},
        "direct": {"changes": "main", "what": "init_from=None", "config": {}},
        "main_30": changed("main", "train_fraction", 0.3) | {"images": 30},
        "main_10": changed("main", "train_fraction", 0.1) | {"images": 10},
        "direct_10": changed("direct", "train_fraction", 0.1),
        "quick": changed("main", "lr", 0.1),
    }
    curves = learning_curves(tmp_path, made_study(tmp_path, arms))
    assert list(curves["family"]) == ["main"] * 3 + ["direct"] * 2
    assert list(curves["arm"]) == ["main_10", "main_30", "main", "direct_10", "direct"]
    assert list(curves["train_fraction"]) == [0.1, 0.3, 1, 0.1, 1]
    assert list(curves["train_images"]) == [10, 30, 100, 100, 100]
    told = curve_sentences(curves)[0]
    assert "0.530 (0.400 to 0.700) with 10 % of the training patients (one seed)," in told
    assert told.endswith("with 100 % of the training patients.")


def test_a_study_without_shares_says_that_it_has_no_learning_curve(tmp_path):
    curves = learning_curves(tmp_path, made_study(tmp_path, {"main": {"config": {}}}))
    assert curves.empty and "no learning curve" in curve_sentences(curves)[0]
