"""First weights: files of many kinds, where they are looked for, their input range, and what a run
says of where its weights came from."""

import hashlib
import json
import pickle
import re

import pytest
import safetensors.torch
import timm
import torch

from lib.config import Config
from lib.exceptions import ModelError, StudyError
from lib.inference.card import card_text, make_card
from lib.models.classifier import build_model, describe_model, load_model, save_model
from lib.models.training import model_cost
from lib.models.weights import normalisation
from lib.runs.record import WeightsPart

NET = "test_resnet"
FINDINGS = ("Mass", "Nodule")
REAL_SHA256 = "4cc81571d22805f614435f32bc61a364be4187a932121d8ef5815ad3119b8241"


@pytest.fixture(scope="module")
def published():
    """The network with its classifier, as a publisher trains it."""
    torch.manual_seed(7)
    return timm.create_model(NET)


def config(path, **changes) -> Config:
    values = {"backbone": NET, "image_size": 32, "findings": FINDINGS, "pretrained": str(path)}
    return Config(**values | changes)


def write(path, state, **wrapped):
    """Writes a state dict as the suffix says."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(dict(state), path)
    else:
        torch.save(wrapped or state, path)
    return path


def assert_same(model, published):
    theirs = published.state_dict()
    assert all(
        torch.equal(value, theirs[key]) for key, value in model.backbone.state_dict().items()
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("classifier", [True, False])
def test_a_file_fits_with_and_without_its_classifier(published, tmp_path, suffix, classifier):
    state = published.state_dict()
    if not classifier:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    model = build_model(config(write(tmp_path / f"weights{suffix}", state)))
    assert_same(model, published)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
def test_what_training_scripts_wrap_around_weights_is_taken_off(
    published, tmp_path, wrapper, prefix
):
    state = {f"{prefix}{key}": value for key, value in published.state_dict().items()}
    path = write(tmp_path / "weights.pth", None, **{wrapper: state, "epoch": 3, "optimizer": {}})
    assert_same(build_model(config(path)), published)


def test_the_moving_average_of_a_checkpoint_is_taken(published, tmp_path):
    wrong = {key: torch.zeros_like(value) for key, value in published.state_dict().items()}
    path = write(
        tmp_path / "last.pth", None, state_dict=wrong, state_dict_ema=published.state_dict()
    )
    assert_same(build_model(config(path)), published)


def test_the_head_is_the_same_with_every_file(published, tmp_path):
    path = write(tmp_path / "weights.pth", published.state_dict())
    ours, random = build_model(config(path)), build_model(config(path, pretrained=False))
    assert torch.equal(ours.head[0].weight, random.head[0].weight)


def test_position_embeddings_are_resized_to_the_image(tmp_path):
    torch.manual_seed(7)
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    path = write(tmp_path / "vit.safetensors", state)
    model = build_model(config(path, backbone="vit_tiny_patch16_224", image_size=64))
    assert model.backbone.pos_embed.shape == (1, 17, 192)
    assert torch.equal(model.backbone.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    assert torch.equal(model.backbone.pos_embed[:, :1], state["pos_embed"][:, :1])


def test_the_names_of_torchvisions_files_are_understood(tmp_path):
    torch.manual_seed(7)
    state = timm.create_model("densenet121").state_dict()
    theirs = {
        re.sub(r"(\d\.(?:norm|conv))(\d)", r"\1.\2", key): value
        for key, value in state.items()
        if "num_batches" not in key
    }
    path = write(tmp_path / "densenet.pth", theirs)
    loaded = build_model(config(path, backbone="densenet121")).backbone.state_dict()
    assert theirs.keys() - state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_counters_of_batch_norms_may_be_missing(published, tmp_path):
    state = {k: v for k, v in published.state_dict().items() if "num_batches" not in k}
    build_model(config(write(tmp_path / "weights.pth", state)))


def spoilt(state, what):
    if what == "missing":
        return {key: value for key, value in state.items() if key != "conv1.0.weight"}
    if what == "unknown":
        return state | {"odd.weight": torch.zeros(1)}
    if what == "shape":
        return state | {"layer1.0.conv1.weight": torch.zeros(2, 2)}
    if what == "other":
        return {"features.0.weight": torch.zeros(1)}
    return state | {"layer1.0.conv1.weight": state["layer1.0.conv1.weight"] * torch.nan}


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("missing", r"do not fit 'test_resnet': .*w\.pth .*: conv1\.0\.weight is missing"),
        ("unknown", "odd.weight is unknown"),
        ("shape", r"layer1\.0\.conv1\.weight has \(2, 2\) but needs \(32, 32, "),
        ("other", r"is missing; .* and \d+ more"),
        ("nan", r"values are not finite in layer1\.0\.conv1\.weight"),
    ],
)
def test_what_does_not_fit_is_named(published, tmp_path, what, sentence):
    path = write(tmp_path / "w.pth", spoilt(dict(published.state_dict()), what))
    with pytest.raises(ModelError, match=sentence):
        build_model(config(path))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "cannot be read as plain weights"),
        (b"PK\x03\x04 cut off", "cannot be read as plain weights"),
        (pickle.dumps(Config, 2), "cannot be read as plain weights"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_is_damaged_or_holds_code_is_refused(tmp_path, content, sentence, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=sentence):
        build_model(config(path))


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"layer": "text"}, {}])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"holds no state dict|holds more than tensors"):
        build_model(config(tmp_path / "weights.pth"))


@pytest.mark.parametrize("place", ["weights", "../weights"])
def test_a_file_is_looked_for_below_the_folder_of_the_data_too(published, tmp_path, place):
    data = tmp_path / "data"
    (data / place).mkdir(parents=True)
    write(data / place / "w.safetensors", published.state_dict())
    made = config(f"{place}/w.safetensors", data_root=str(data))
    assert_same(build_model(made), published)
    assert made.weights_file.samefile(data / place / "w.safetensors")


def test_both_places_are_named_where_a_file_is_missing(tmp_path):
    made = config("nowhere/w.pth", data_root=str(tmp_path))
    places = " or ".join(str(place) for place in made.weights_places)
    assert len(made.weights_places) == 2 and str(tmp_path / "nowhere/w.pth") in places
    with pytest.raises(ModelError) as caught:
        build_model(made)
    assert f"there is no file {places}" in str(caught.value)


def test_without_a_file_there_is_no_place_to_look(tmp_path):
    assert config(tmp_path, pretrained=True).weights_file is None


@pytest.mark.parametrize(
    ("given", "black", "white"),
    [
        ([0, 1], 0.0, 1.0),
        ([-1, 1], -1.0, 1.0),
        ([0, 255], 0.0, 255.0),
        ([-1024, 1024], -1024.0, 1024.0),
    ],
)
def test_black_and_white_arrive_as_the_weights_expect(tmp_path, given, black, white):
    model = build_model(config(tmp_path, pretrained=False, input_range=given))
    ends = (torch.tensor([0.0, 1.0]) - model.mean) / model.std
    wanted = torch.tensor([black, white]).expand(1, 3, 1, 2)
    assert torch.allclose(ends, wanted, rtol=1e-6, atol=1e-4)


def test_the_usual_range_is_that_of_timm_and_imagenet_has_its_own(tmp_path):
    model = build_model(config(tmp_path, pretrained=False))
    assert model.mean.flatten().tolist() == [0.5, 0.5, 0.5]  # what timm states for test_resnet
    mean, std = normalisation("imagenet", model.backbone)
    assert (mean, std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("given", [[1, 0], [0, 0], [0, 1, 2], [0, float("inf")], "zero_one"])
def test_an_impossible_range_is_refused(given):
    with pytest.raises(StudyError, match="parameter 'input_range' is"):
        Config.from_namespace({"input_range": given})


def test_the_usual_range_changes_no_hash_and_another_does():
    assert Config(input_range="timm").hash() == Config().hash() != Config(input_range=[0, 1]).hash()


@pytest.fixture
def earlier(published, tmp_path):
    """The folder of a run that started from a file and expects images from 0 to 255."""
    path = write(tmp_path / "first.pth", published.state_dict())
    made = config(path, input_range=[0, 255], findings=("Pneumonia",))
    save_model(tmp_path / "s" / "pneumonia-s0", build_model(made), {**made.network(), "data": {}})
    return tmp_path / "s" / "pneumonia-s0"


def test_a_saved_model_keeps_its_range_and_hands_it_on(earlier):
    loaded, _ = load_model(earlier)
    later = build_model(config("", pretrained=True, init_from=str(earlier)))
    same = build_model(config("", init_from=str(earlier), input_range=[0, 255]))
    for model in (loaded, later, same):
        assert model.std.flatten().tolist() == pytest.approx([1 / 255] * 3)


def test_a_range_other_than_the_earlier_runs_is_refused(earlier):
    with pytest.raises(ModelError, match=r"input_range is imagenet, but .* was trained with mean"):
        build_model(config("", init_from=str(earlier), input_range="imagenet"))


def test_record_and_card_say_which_file_it_was(published, tmp_path):
    path = write(tmp_path / "first.safetensors", published.state_dict())
    made = config(path)
    model = build_model(made)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    part = WeightsPart(**model_cost(model, made)["weights"])
    assert (part.source, part.name, part.sha256) == ("file", "first.safetensors", digest)
    save_model(tmp_path, model, made.network())
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["weights"]["text"] == f"the file first.safetensors (sha256 {digest[:12]})"
    assert str(tmp_path) not in json.dumps(card)
    assert card["weights"]["text"] in describe_model(model, made).loc["starts from", "model"]


def test_a_chain_of_stages_is_told_from_its_first_file_on(earlier, tmp_path):
    made = config("", init_from=str(earlier), findings=("Cardiomegaly",))
    card = {**made.network(), "data": {"phantom": True}}
    save_model(tmp_path / "s" / "heart-s0", build_model(made), card)
    last = build_model(config("", init_from=str(tmp_path / "s" / "heart-s0")))
    part = WeightsPart(**last.weights)
    assert [part.source, part.starts_from.source] == ["run", "run"]
    assert part.starts_from.starts_from.name == "first.pth"
    model = (tmp_path / "s" / "heart-s0" / "model.safetensors").read_bytes()
    assert part.sha256 == hashlib.sha256(model).hexdigest()
    first, *stages = part.text.split(", then the run ")
    assert first.startswith("the file first.pth (sha256 ")
    assert stages == ["s/pneumonia-s0 (Pneumonia)", "s/heart-s0 (Cardiomegaly on phantoms)"]


def test_random_weights_are_called_so(tmp_path):
    assert build_model(config("", pretrained=False)).weights == {
        "source": "none",
        "text": "random weights",
    }


def test_timms_own_weights_are_told_with_their_address(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(
        "lib.models.classifier.timm.create_model", lambda name, pretrained, **o: create(name, **o)
    )
    weights = build_model(config("", pretrained=True)).weights
    assert weights["source"] == "timm" and weights["name"] == "test_resnet.r160_in1k"
    assert weights["hf_hub_id"] == "timm/test_resnet.r160_in1k"
    assert "timm/test_resnet.r160_in1k" in weights["text"]


def test_the_exported_card_says_where_the_weights_came_from():
    text = "the file first.pth (sha256 0123456789ab)"
    run = {"backbone": "b", "head": "linear", "findings": ["Mass"], "image_size": 32, "data": {}}
    parts = {"precision": "fp32", "exported": "today", "versions": {}, "familiarity": None}
    known = card_text(make_card("m", run | {"weights": {"text": text}}, [], **parts))
    assert f"## Where the weights came from\n\nIts training started from {text}." in known
    assert "Its card does not say." in card_text(make_card("m", run, [], **parts))


def test_the_real_imagenet_file_fits(real_data):
    path = "weights/mobilenetv2_035_imagenet.safetensors"
    made = config(path, backbone="mobilenetv2_035", data_root=str(real_data))
    model = build_model(made)
    assert model.weights["sha256"] == REAL_SHA256
    with torch.inference_mode():
        features = model.eval().backbone(torch.zeros(1, 3, 64, 64))
    assert features.std() > 0.01
