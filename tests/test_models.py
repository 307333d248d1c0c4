"""Models: the method's backbones and heads, freezing, transfer between stages, weights from
files."""

import pytest
import safetensors.torch
import torch

from lib.config import FINDINGS, Config
from lib.exceptions import CxrError
from lib.files import read_json, write_json
from lib.models.classifier import (
    backbone_stages,
    build_backbone,
    build_head,
    build_model,
    count_parameters,
    load_model,
    save_model,
    transfer_backbone,
)

SMALL = Config(backbone="resnet10t", pretrained=False, image_size=32, findings=("Mass", "Nodule"))

# features in front of the head, millions of backbone parameters (timm's published sizes less the
# classifier)
METHOD = {
    "tf_efficientnet_b4.ns_jft_in1k": (1792, 17.5),
    "vgg16_bn": (4096, 134.3),
    "resnet50": (2048, 23.5),
    "darknet53": (1024, 40.6),
    "vit_base_patch16_224": (768, 85.8),
    "vit_large_patch16_224": (1024, 303.3),
}


def card(config: Config) -> dict:
    return {
        key: getattr(config, key)
        for key in ("backbone", "head", "dropout", "findings", "image_size")
    }


def small(**changes) -> Config:
    return SMALL.model_copy(update=changes)


@pytest.mark.parametrize("name", METHOD)
def test_the_backbones_of_the_method_answer_for_fourteen_findings(name):
    features, millions = METHOD[name]
    with torch.device("meta"):
        model = build_model(Config(backbone=name, pretrained=False))
        logits = model(torch.zeros(2, 1, 224, 224))
    assert logits.shape == (2, len(FINDINGS)) and model.head[0].in_features == features
    assert count_parameters(model.backbone)["all"] / 1e6 == pytest.approx(millions, abs=0.6)


def test_the_heads_keys_are_those_of_the_published_checkpoints():
    keys = set(build_head("mlp", 1792, 14, 0.3).state_dict())
    assert keys == {f"{layer}.{part}" for layer in (0, 3, 5) for part in ("weight", "bias")}


def test_a_vision_transformer_takes_the_image_size():
    model = build_model(small(backbone="vit_tiny_patch16_224", image_size=64))
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 2)


def test_initial_weights_are_a_function_of_the_seed():
    first, same, other = (build_model(small(seed=seed)).head[0].weight for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_grey_films_are_normalised_as_the_backbone_expects():
    model = build_model(SMALL).eval()
    film = torch.rand(2, 1, 32, 32)
    mean, std = (
        torch.tensor(model.backbone.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std")
    )
    by_hand = model.head(model.backbone((film.expand(-1, 3, -1, -1) - mean) / std))
    assert torch.allclose(model(film), by_hand)


def test_probabilities_are_not_rounded_by_bf16():
    model = build_model(small(head="linear")).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        logits = model(torch.rand(64, 1, 32, 32))
    assert logits.dtype == torch.float32 and logits[:, 0].unique().numel() > 60


@pytest.mark.parametrize("what", ["none", 2, "backbone"])
def test_frozen_weights_and_batch_norm_stay_as_they_are(what):
    model = build_model(small(freeze=what))
    names = [name for name, _ in model.backbone.named_parameters()]
    stages = backbone_stages(model.backbone)
    frozen = {
        name
        for stage in stages[: {"none": 0, "backbone": len(stages)}.get(what, what)]
        for name in stage
    }
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model.train()
    optimizer = torch.optim.SGD(
        [weight for weight in model.parameters() if weight.requires_grad], lr=0.1
    )
    model(torch.rand(4, 1, 32, 32)).square().sum().backward()
    optimizer.step()
    after = model.backbone.state_dict()
    moved = {name for name in names if not torch.equal(before[name], after[name])}
    assert moved.isdisjoint(frozen) and bool(moved) == (what != "backbone")
    norms = {key for key in before if "running" in key and not torch.equal(before[key], after[key])}
    assert norms.isdisjoint(
        {key.replace("weight", part) for key in frozen for part in ("running_mean", "running_var")}
    )
    assert bool(norms) == (what != "backbone")


def test_freezing_more_stages_than_there_are_is_refused():
    with pytest.raises(CxrError, match="has 5 stages"):
        build_model(small(freeze=9))


def test_transfer_keeps_the_backbone_and_not_the_head(tmp_path):
    earlier = build_model(small(seed=1, findings=("Cardiomegaly",)))
    save_model(tmp_path, earlier, card(small(findings=("Cardiomegaly",))))
    later = build_model(small(seed=2, init_from=str(tmp_path)))
    theirs, ours = earlier.backbone.state_dict(), later.backbone.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert torch.equal(later.head[0].weight, build_model(small(seed=2)).head[0].weight)


def test_transfer_between_different_backbones_is_refused(tmp_path):
    save_model(tmp_path, build_model(SMALL), card(SMALL))
    with pytest.raises(CxrError, match="holds a resnet10t, but this run uses resnet18"):
        build_model(small(backbone="resnet18", init_from=str(tmp_path)))


def test_transfer_of_weights_that_do_not_fit_names_them(tmp_path):
    vit = small(backbone="vit_tiny_patch16_224", image_size=32)
    save_model(tmp_path, build_model(vit), card(vit))
    larger = build_model(vit.model_copy(update={"image_size": 64}))
    with pytest.raises(CxrError, match="pos_embed"):
        transfer_backbone(larger, vit.backbone, tmp_path)


def test_an_unfinished_stage_is_named(tmp_path):
    with pytest.raises(CxrError, match=r"holds no card\.json"):
        build_model(small(init_from=str(tmp_path / "nowhere")))


def test_a_saved_model_answers_the_same_after_loading(tmp_path):
    model = build_model(small(head="linear")).eval()
    save_model(tmp_path, model, card(small(head="linear")))
    loaded, found = load_model(tmp_path)
    film = torch.rand(3, 1, 32, 32)
    assert torch.equal(model(film), loaded(film)) and found["findings"] == ["Mass", "Nodule"]


def test_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CxrError, match=r"cannot be fetched .* pretrained to a local weight file"):
        build_backbone("resnet10t", 32, pretrained=True)


def test_an_unknown_backbone_gets_close_names():
    with pytest.raises(CxrError, match="resnet18"):
        build_backbone("resnet1800", 32)


# --- saved models that are damaged


@pytest.fixture
def saved(tmp_path):
    save_model(tmp_path, build_model(SMALL), card(SMALL))
    return tmp_path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backbone", None),
        ("head", "other"),
        ("dropout", 2),
        ("findings", []),
        ("image_size", "32"),
        ("normalisation", {"mean": [0, 0, 0]}),
        ("weights", {"source": "none"}),
    ],
)
def test_a_damaged_card_is_named(saved, field, value):
    write_json(saved / "card.json", read_json(saved / "card.json") | {field: value})
    for use in (lambda: load_model(saved), lambda: build_model(small(init_from=str(saved)))):
        with pytest.raises(CxrError, match=rf"card\.json is damaged \({field}"):
            use()


def test_a_card_of_an_unknown_backbone_is_named(saved):
    write_json(saved / "card.json", read_json(saved / "card.json") | {"backbone": "resnet10z"})
    with pytest.raises(CxrError, match=r"card\.json: backbone 'resnet10z' is not known to timm"):
        load_model(saved)


def test_damaged_weights_are_named(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    for use in (lambda: load_model(saved), lambda: build_model(small(init_from=str(saved)))):
        with pytest.raises(CxrError, match=r"model\.safetensors cannot be read"):
            use()


def test_weights_that_are_not_finite_are_named(saved):
    state = safetensors.torch.load_file(saved / "model.safetensors")
    key = next(key for key in state if key.endswith("conv1.weight"))
    state[key][0] = float("nan")
    safetensors.torch.save_file(state, saved / "model.safetensors")
    with pytest.raises(CxrError, match=rf"model\.safetensors: values are not finite in {key}"):
        load_model(saved)


def test_weights_that_do_not_fit_their_card_are_named(saved):
    write_json(saved / "card.json", read_json(saved / "card.json") | {"findings": ["Mass"]})
    with pytest.raises(CxrError, match=r"model\.safetensors does not fit its card\.json"):
        load_model(saved)
