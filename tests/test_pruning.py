"""Pruning: how many channels go, which, and that a pruned network is saved, loaded and exported."""

import json

import numpy as np
import pytest
import torch
from small_models import SIZE, films, small_classifier
from torch import nn

from lib.config import Config
from lib.exceptions import ModelError
from lib.export.onnx_file import check_parity, golden_films, write_onnx
from lib.models import classifier
from lib.models.classifier import Classifier, build_backbone, build_model, load_model, save_model
from lib.models.cross_stages import SeparateStage, separate_halves
from lib.models.heatmaps import ServingModule
from lib.models.pruning import narrow_backbone, prune_backbone

pytestmark = pytest.mark.timeout(1200)  # networks are exported, on a machine that may be busy

FAMILIES = ("thin", "tf_efficientnet_b0", "darknet17", "cs3darknet_s", "repvgg_a0", "vgg", "vit")
FAMILIES += ("mobilenetv2_035",)
CARD = {"head": "linear", "dropout": 0.3, "findings": ["Mass", "Edema", "Hernia"]}


def channels(backbone: nn.Module) -> int:
    """The output channels of all convolutions, or the hidden units of a transformer's MLPs."""
    if hasattr(backbone, "blocks") and hasattr(backbone.blocks[0], "mlp"):
        return sum(block.mlp.fc1.out_features for block in backbone.blocks)
    return sum(part.out_channels for part in backbone.modules() if isinstance(part, nn.Conv2d))


def pruned(family: str, share: float = 0.5) -> tuple[Classifier, Classifier]:
    """The classifier as it was, and pruned, with a head that fits."""
    whole, model = small_classifier(family), small_classifier(family)
    model.widths = prune_backbone(model.backbone, family, SIZE, share)
    torch.manual_seed(0)
    model.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(model.backbone.head_hidden_size, 3))
    nn.init.normal_(model.head[-1].weight, std=0.3)
    return whole, model.eval()


def answers(model: Classifier) -> torch.Tensor:
    with torch.inference_mode():
        return model(films(3).unsqueeze(1).float() / 255)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_network_is_loaded_and_exported_and_answers_the_same(
    family, tmp_path, monkeypatch
):
    whole, model = pruned(family)
    assert channels(model.backbone) / channels(whole.backbone) == pytest.approx(0.5, abs=0.03)
    wanted = answers(model)
    save_model(tmp_path, model, {**CARD, "backbone": family, "image_size": SIZE})
    monkeypatch.setattr(classifier, "build_backbone", lambda *_: small_classifier(family).backbone)
    loaded, _ = load_model(tmp_path)
    assert torch.equal(answers(loaded), wanted)
    served = ServingModule(loaded, [1.0] * 3, [0.0] * 3, SIZE)
    write_onnx(served, tmp_path / "model.onnx")
    assert (
        check_parity(served, tmp_path / "model.onnx", golden_films(SIZE, films(2).numpy())) < 1e-4
    )


def test_of_a_chain_of_layers_those_channels_go_whose_weights_are_smallest():
    model = small_classifier("vgg").backbone
    first, norm, second = model.features[0], model.features[1], model.features[4]
    size = torch.tensor([5.0, 1.0, 4.0, 2.0, 8.0, 3.0, 7.0, 6.0])
    with torch.no_grad():
        for values in (first.weight, first.bias, norm.weight, norm.bias):
            values.copy_(size.view(-1, *[1] * (values.ndim - 1)).expand_as(values))
        second.weight.copy_(size.view(1, -1, 1, 1).expand_as(second.weight))
    prune_backbone(model, "vgg", SIZE, 0.5)
    assert norm.weight.tolist() == [5.0, 8.0, 7.0, 6.0]


@pytest.mark.parametrize("family", ["cs3darknet_s", "cspresnet50"])
def test_separate_halves_of_a_cross_stage_answer_as_the_whole(family):
    model = small_classifier(family)
    wanted = answers(model)
    separate_halves(model.backbone)
    assert any(isinstance(part, SeparateStage) for part in model.backbone.modules())
    torch.testing.assert_close(answers(model), wanted, rtol=1e-4, atol=1e-5)


# --- in a run


def config(**changes) -> Config:
    values = {"backbone": "resnet10t", "pretrained": False, "image_size": 32, "head": "linear"}
    values |= {"findings": ("Mass", "Edema", "Hernia"), "accelerator": "cpu"}
    return Config(**values, **changes)


def saved(folder, made: Config) -> Classifier:
    model = build_model(made)
    save_model(folder, model, made.network())
    return model


def test_a_run_that_starts_from_a_pruned_one_has_its_widths_and_weights(tmp_path):
    first = saved(tmp_path, config(prune=0.5))
    later = build_model(config(init_from=str(tmp_path), seed=1))
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(later.backbone.state_dict()[name], value), name
    assert later.widths == first.widths and later.widths["share"] == 0.5


def test_pruning_again_takes_the_share_of_what_is_left_and_loads(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = channels(build_model(config()).backbone)
    saved(tmp_path / "a", config(prune=0.5))
    twice = saved(tmp_path / "b", config(init_from=str(tmp_path / "a"), prune=0.5))
    assert twice.widths["share"] == 0.75
    assert channels(twice.backbone) / whole == pytest.approx(0.25, abs=0.03)
    loaded, _ = load_model(tmp_path / "b")
    film = torch.rand(2, 1, 32, 32)
    assert torch.equal(loaded(film), twice.eval()(film))


def test_pruning_starts_from_the_weights_of_the_earlier_run(tmp_path):
    first = saved(tmp_path, config())
    narrow = build_model(config(init_from=str(tmp_path), prune=0.5, seed=3))
    rows = {tuple(row.flatten().tolist()) for row in first.backbone.conv1[0].weight}
    kept = narrow.backbone.conv1[0].weight
    assert 0 < len(kept) < len(rows) and {tuple(row.flatten().tolist()) for row in kept} <= rows


def test_the_same_seed_gives_the_same_pruned_network():
    one, other = build_model(config(prune=0.3)), build_model(config(prune=0.3))
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_frozen_stages_of_a_pruned_network_stay_frozen():
    model = build_model(config(prune=0.5, freeze="backbone"))
    assert not any(weight.requires_grad for weight in model.backbone.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attributes": {"conv1.0": {"out_channels": 1000}}}, "out_channels is 1000"),
        ({"attributes": {"conv1.0": {"weight": 3}}}, "weight is no width"),
        ({"attributes": {"nowhere": {"out_channels": 3}}}, "nowhere"),
        ({"shapes": {"conv1.0.weight": [10**6, 3, 3, 3]}}, "conv1.0.weight is"),
        ({"shapes": {"conv1.0.weight": [4, 3]}}, "shorter|longer"),
    ],
)
def test_widths_that_are_not_those_of_the_backbone_are_refused(tmp_path, change, words):
    saved(tmp_path, config(prune=0.5))
    card = json.loads((tmp_path / "card.json").read_text())
    card["widths"] |= change
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=words):
        load_model(tmp_path)


class Fixed(nn.Module):
    """Its shapes are written into it, so that it breaks without a channel; `joined`: nothing can
    go."""

    def __init__(self, joined: bool):
        super().__init__()
        self.conv, self.last, self.joined = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), joined

    def forward(self, images):
        means = self.conv(images).mean((2, 3))
        return means.detach() if self.joined else self.last(means.relu() + torch.ones(8))


@pytest.mark.parametrize(
    ("joined", "words"), [(True, "removes no channel"), (False, "no channels can be")]
)
def test_a_backbone_that_is_not_understood_is_refused_with_its_name(joined, words):
    with pytest.raises(ModelError, match=f"{words}.*'fixed'"):
        prune_backbone(Fixed(joined), "fixed", 32, 0.5)


def test_widths_hold_plain_numbers_only():
    widths = build_model(config(prune=0.5)).widths
    assert json.loads(json.dumps(widths)) == widths
    backbone = build_backbone("resnet10t", 32)
    narrow_backbone(backbone, widths, "here")
    assert np.array(backbone.conv1[0].weight.shape).tolist() == widths["shapes"]["conv1.0.weight"]
