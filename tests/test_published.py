"""The authors' published state dicts: as they are, in our order, and nothing else."""

import pickle

import numpy as np
import pytest
import timm
import torch
from small_models import films
from torch import Tensor, nn

from lib.config import FINDINGS
from lib.exceptions import ExportError
from lib.export import published
from lib.export.onnx_file import read_card
from lib.export.published import ORDER, load_published
from lib.inference.session import run_file

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def theirs(outputs: int, name: str = "tf_efficientnet_b4.ns_jft_in1k") -> nn.Module:
    """The network as the authors build it: timm's, its classifier replaced."""
    torch.manual_seed(1)
    model = timm.create_model(name)
    model.classifier = nn.Sequential(
        nn.Linear(model.num_features, 625),
        nn.LeakyReLU(),
        nn.Dropout(p=0.3),
        nn.Linear(625, 256),
        nn.LeakyReLU(),
        nn.Linear(256, outputs),
    )
    nn.init.normal_(model.classifier[5].weight, std=0.2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.6)
    return model.eval()


@pytest.fixture(scope="module")
def b4() -> nn.Module:
    return theirs(14)


@pytest.fixture
def small(monkeypatch) -> str:
    """A smaller backbone in the place of theirs, for what does not depend on it."""
    monkeypatch.setattr(published, "BACKBONE", "test_efficientnet")
    monkeypatch.setattr(published, "SIZE", 64)
    return "test_efficientnet"


def saved(tmp_path, state) -> str:
    torch.save(state, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def as_they_look_at(images: Tensor) -> Tensor:
    """RGB of a grey film, through torchvision's Normalize."""
    rgb = images.unsqueeze(1).expand(-1, 3, -1, -1).float() / 255
    return (rgb - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_all_14_answers_as_theirs_does_finding_by_finding(b4, tmp_path):
    model, card = load_published(saved(tmp_path, b4.state_dict()))
    images = films(2, 96)
    with torch.no_grad():
        wanted = b4(as_they_look_at(images)).sigmoid()  # in their order
        found = model(images.unsqueeze(1).float() / 255).sigmoid()  # in ours
    assert card["findings"] == list(FINDINGS) and card["image_size"] == 224 and wanted.std() > 0.01
    for place, finding in enumerate(ORDER):
        assert torch.allclose(found[:, FINDINGS.index(finding)], wanted[:, place], atol=1e-5)


def test_their_order_names_every_finding_once():
    assert sorted(ORDER) == sorted(FINDINGS) and ORDER[:4] == (
        "Effusion",
        "Nodule",
        "Fibrosis",
        "Cardiomegaly",
    )


def test_single_disease_gives_the_second_share_of_their_softmax_as_one_logit(small, tmp_path):
    network = theirs(2, small)
    model, card = load_published(saved(tmp_path, network.state_dict()))
    images = films(3)
    with torch.no_grad():
        wanted = network(as_they_look_at(images)).softmax(1)[:, 1:]
        found = model(images.unsqueeze(1).float() / 255)
    assert card["findings"] == ["Cardiomegaly"] and found.shape == (3, 1)
    assert torch.allclose(found.sigmoid(), wanted, atol=1e-5) and wanted.std() > 1e-4


def test_a_published_file_is_exported_like_a_run(small, tmp_path):
    from lib.export.run import export_run

    network = theirs(14, small)
    torch.save(network.state_dict(), tmp_path / "all_14.pt")
    said = []
    path = export_run(tmp_path / "all_14.pt", out=tmp_path / "out", log=said.append)
    assert path == tmp_path / "out" / "all_14.onnx" and any(
        "published weights" in line for line in said
    )
    images = films(2)
    with torch.no_grad():
        wanted = network(as_they_look_at(images)).sigmoid().numpy()
    found = run_file(path, images.numpy())["probs"]
    assert (
        np.abs(found[:, FINDINGS.index("Hernia")] - wanted[:, ORDER.index("Hernia")]).max() < 1e-4
    )
    card = read_card(path)
    assert (
        card["familiarity"] is None and card["metrics"] == [] and card["thresholds"] == [0.5] * 14
    )
    assert (
        card["thresholds_from"] == ["default"] * 14
        and "Ayushk4/MedImaging" in path.with_suffix(".md").read_text()
    )


def test_int8_of_a_published_file_is_refused_for_want_of_films(small, tmp_path):
    from lib.export.run import export_run

    torch.save(theirs(2, small).state_dict(), tmp_path / "single_disease.pt")
    with pytest.raises(
        ExportError, match=r"int8 needs the run's images, but published weights come without images"
    ):
        export_run(tmp_path / "single_disease.pt", int8=True, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Payload:
    """What unpickles to a call; were it unpickled, the file `executed` would exist."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_file_that_holds_code_is_refused_and_not_executed(tmp_path):
    torch.save({"classifier.5.bias": Payload(tmp_path / "executed")}, tmp_path / "weights.pt")
    message = r"weights\.pt cannot be read as plain weights: it holds a Python object \(\S*open\).*Only weights"
    with pytest.raises(ExportError, match=message) as caught:
        load_published(tmp_path / "weights.pt")
    assert "weights_only" not in str(caught.value) and "trust" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", [b"", b"no weights at all", pickle.dumps({"a": 1}, protocol=2)[:-3]]
)
def test_a_file_that_is_no_state_dict_is_one_sentence(tmp_path, content):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(
        ExportError, match=r"weights\.pt cannot be read as plain weights: ."
    ) as caught:
        load_published(tmp_path / "weights.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: [state], "holds a list; a state dict of tensors is needed"),
        (
            lambda state: {"state_dict": dict(state), "epoch": 3},
            r"more than tensors: 'state_dict' \(dict\); 'epoch'",
        ),
        (
            lambda state: {**state, "classifier.5.bias": torch.zeros(3)},
            "should have 14 values .* or 2 .*, not 3",
        ),
        (
            lambda state: {"conv_stem.weight": state["conv_stem.weight"]},
            "should have 14 values .*, not None",
        ),
        (
            lambda state: {k: v for k, v in state.items() if k != "bn1.bias"},
            r"bn1\.bias is missing$",
        ),
        (lambda state: {**state, "module.extra": torch.zeros(1)}, r"module\.extra is unknown$"),
        (
            lambda state: {**state, "classifier.0.weight": torch.zeros(625, 7)},
            r"classifier\.0\.weight has \(625, 7\) but needs \(625, 256\)",
        ),
        (
            lambda state: {**state, "bn2.weight": state["bn2.weight"].long()},
            r"bn2\.weight holds torch\.int64",
        ),
        (
            lambda state: {**state, "bn2.weight": state["bn2.weight"] * torch.nan},
            "not finite in bn2.weight",
        ),
    ],
)
def test_what_does_not_fit_is_named(small, tmp_path, change, sentence):
    path = saved(tmp_path, change(theirs(14, small).state_dict()))
    with pytest.raises(ExportError, match=sentence):
        load_published(path)
