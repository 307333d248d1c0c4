"""Load the weights that the method's authors published.

In: a published state dict. Out: a classifier with our findings in our order, and its card.

Ayushk4/MedImaging (2021) released `all_14.pt` and `single_disease.pt`: plain state dicts of
tf_efficientnet_b4_ns from timm, with `classifier` replaced by Linear(1792, 625), LeakyReLU,
Dropout, Linear(625, 256), LeakyReLU, Linear(256, n). Images are resized to 224 x 224 px and
normalised with ImageNet's mean and std. Their app uses LeakyReLU for both files, and so does this
module. Their training script for a single finding used ReLU, which differs by a hundredth of each
negative value.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.config import FINDINGS
from lib.exceptions import ExportError, ModelError
from lib.models.classifier import Classifier, build_backbone, build_head
from lib.models.weights import few, origin, read_weights

BACKBONE = "tf_efficientnet_b4.ns_jft_in1k"
SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DROPOUT = 0.3
ORDER = (
    "Effusion",
    "Nodule",
    "Fibrosis",
    "Cardiomegaly",
    "Mass",
    "Pneumothorax",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Hernia",
    "Infiltration",
    "Pleural_Thickening",
    "Atelectasis",
    "Emphysema",
)
"""The outputs of `all_14.pt`, each followed by a sigmoid."""

PAIR = ("No Finding", "Cardiomegaly")
"""The outputs of `single_disease.pt`, numbered as in their training script; one softmax follows."""

_LAST = "classifier.5"
_ABOUT = (
    "as its authors released it (Ayushk4/MedImaging, 2021), trained on samples of NIH ChestX-ray14"
)


def load_published(path: Path) -> tuple[Classifier, dict[str, Any]]:
    """Return the classifier in `path`, in evaluation mode, and a card like that of a run.

    Fourteen outputs are put into the order of FINDINGS. Two outputs become one logit of
    Cardiomegaly, z_1 - z_0, since the softmax of two is the sigmoid of their difference. Nothing
    but tensors is read from the file. Raises ExportError for any other file, naming what is
    unknown, missing or of the wrong shape.
    """
    state = read_state(path)
    outputs = (
        state[f"{_LAST}.bias"].shape[0]
        if f"{_LAST}.bias" in state and state[f"{_LAST}.bias"].ndim
        else None
    )
    if outputs not in (len(ORDER), len(PAIR)):
        raise ExportError(
            f"{path}: {_LAST}.bias should have {len(ORDER)} values (all_14.pt) or {len(PAIR)} (single_disease.pt), not "
            f"{outputs}; only the two files published by the method's authors are supported"
        )
    backbone = build_backbone(BACKBONE, SIZE)
    model = Classifier(
        backbone, build_head("mlp", backbone.head_hidden_size, outputs, DROPOUT), MEAN, STD
    )
    state = {_our_name(key): value for key, value in state.items()}
    _check_fits(path, state, model.state_dict())
    findings = FINDINGS if outputs == len(ORDER) else ("Cardiomegaly",)
    for key in ("head.5.weight", "head.5.bias"):
        rows = state[key]
        state[key] = (
            rows[[ORDER.index(name) for name in FINDINGS]]
            if len(findings) > 1
            else rows[1:] - rows[:1]
        )
    model.head = build_head("mlp", backbone.head_hidden_size, len(findings), DROPOUT)
    model.load_state_dict(state)
    model.weights = origin(backbone, path)
    card = {
        "backbone": BACKBONE,
        "head": "mlp",
        "dropout": DROPOUT,
        "image_size": SIZE,
        "findings": list(findings),
        "weights": model.weights,
    }
    return model.eval(), card | {"data": {"phantom": False, "about": _ABOUT}}


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict, read with weights_only=True.

    Raises ExportError when the file holds anything else.
    """
    try:
        state = read_weights(path)
    except ModelError as error:
        raise ExportError(str(error)) from error
    if not isinstance(state, dict):
        raise ExportError(
            f"{path} holds a {type(state).__name__}; a state dict of tensors is needed"
        )
    plain = {
        key
        for key, value in state.items()
        if isinstance(value, Tensor) and value.layout is torch.strided
    }
    strange = [
        f"{key!r} ({type(value).__name__})" for key, value in state.items() if key not in plain
    ]
    strange += [f"{key!r} (a key)" for key in state if not isinstance(key, str)]
    if strange:
        raise ExportError(
            f"{path} holds more than tensors: {few(strange)}; a plain state dict is needed"
        )
    broken = [
        key
        for key, value in state.items()
        if value.is_floating_point() and not value.isfinite().all()
    ]
    if broken:
        raise ExportError(
            f"{path}: values are not finite in {few(broken)}; the file is broken, download it again"
        )
    return state


def _our_name(key: str) -> str:
    return (
        f"head.{key.removeprefix('classifier.')}"
        if key.startswith("classifier.")
        else f"backbone.{key}"
    )


def _their_name(key: str) -> str:
    return (
        key.removeprefix("backbone.")
        if key.startswith("backbone.")
        else key.replace("head.", "classifier.", 1)
    )


def _check_fits(path: Path, given: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    wrong = [f"{_their_name(key)} is missing" for key in wanted.keys() - given.keys()]
    wrong += [f"{_their_name(key)} is unknown" for key in given.keys() - wanted.keys()]
    for key in given.keys() & wanted.keys():
        if given[key].shape != wanted[key].shape:
            shapes = f"{tuple(given[key].shape)} but needs {tuple(wanted[key].shape)}"
            wrong.append(f"{_their_name(key)} has {shapes}")
        elif given[key].is_floating_point() != wanted[key].is_floating_point():
            wrong.append(f"{_their_name(key)} holds {given[key].dtype}")
    if wrong:
        raise ExportError(
            f"{path} is not a published {BACKBONE} of this method: {few(sorted(wrong))}"
        )
