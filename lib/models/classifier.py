"""Build, save and load classifiers.

In: a backbone's name, a head, what to freeze, an earlier stage. Out: a classifier of grey images;
saved models.
"""

import difflib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import safetensors.torch
import timm
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from timm.models import group_parameters
from torch import Tensor, nn

from lib.config import Config, Fraction, Positive, resolve
from lib.exceptions import ModelError
from lib.files import CARD, INT8, WEIGHTS, atomic_write, read_json, write_json
from lib.models.pruning import Widths, narrow_backbone, prune_backbone
from lib.models.weights import (
    few,
    load_weights,
    misfits,
    normalisation,
    origin,
    origin_in_run,
    read_weights,
    taught_by,
    weights_to_load,
)

MLP_WIDTHS = (625, 256)  # Ayushk4/MedImaging (2021)


class Classifier(nn.Module):
    """A timm backbone and a head for grey images: (B, 1, H, W) in [0, 1] -> logits (B, F).

    The grey channel is normalised with the mean and std that the backbone's weights need, which
    repeats it to three channels. Modules whose weights are all frozen stay in evaluation mode, so
    that frozen batch norm statistics do not change. `weights` says where the first weights came
    from, see `lib.models.weights.origin`; `widths` what was pruned, see `lib.models.pruning`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        weights: dict[str, Any] | None = None,
        widths: Widths | None = None,
    ):
        super().__init__()
        self.weights, self.widths = weights, widths
        self.backbone = backbone
        self.head = head
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images - self.mean) / self.std  # (B, 3, H, W)
        features = self.backbone(pixels)  # (B, head_hidden_size)
        device = images.device.type
        full = (
            torch.autocast(device, enabled=False)
            if torch.amp.is_autocast_available(device)
            else nullcontext()
        )
        with full:  # in bf16, probabilities would be rounded to ties
            return self.head(features.float())  # (B, F)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        for module in self.backbone.modules():
            weights = list(module.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                module.eval()
        return self


def build_model(config: Config) -> Classifier:
    """Build the model of a config: backbone with weights, pruned, new head, frozen parts.

    Weights come from `init_from` (the backbone of an earlier run, with its normalisation and its
    widths), else from `pretrained`. Initial weights depend on the seed only. Raises ModelError for an unknown
    backbone or a wrong option, when weights cannot be fetched or do not fit, and for an
    `input_range` that contradicts the earlier run's.
    """
    torch.manual_seed(config.seed)
    pretrained = False if config.init_from else weights_to_load(config)
    backbone = build_backbone(config.backbone, config.image_size, config.drop_path, pretrained)
    widths = _widths_of_start(config)
    if widths:
        narrow_backbone(backbone, widths, f"init_from: {config.init_from}")
    head = build_head(config.head, backbone.head_hidden_size, len(config.findings), config.dropout)
    mean, std = normalisation(config.input_range, backbone)
    model = Classifier(backbone, head, mean, std, origin(backbone, pretrained), widths)
    if config.init_from:
        transfer_backbone(model, config.backbone, resolve(config.init_from))
        _check_normalisation(model, mean, std, config)
    if config.teacher:
        model.weights = taught_by(model.weights, config.teacher)
    if config.prune:
        model.widths = prune_backbone(
            backbone, config.backbone, config.image_size, config.prune, widths
        )
        torch.manual_seed(config.seed)
        features = backbone.head_hidden_size
        model.head = build_head(config.head, features, len(config.findings), config.dropout)
    freeze(model, config.freeze)
    return model


def _widths_of_start(config: Config) -> Widths | None:
    """Return the widths of the earlier run's backbone where it is pruned and the same."""
    card = read_card(resolve(config.init_from)) if config.init_from else {}
    return card.get("widths") if card.get("backbone") == config.backbone else None


def _check_normalisation(
    model: Classifier, mean: Sequence[float], std: Sequence[float], config: Config
) -> None:
    found = torch.stack([model.mean.flatten(), model.std.flatten()])
    if config.input_range != "timm" and not torch.allclose(found, torch.tensor([mean, std])):
        raise ModelError(
            f"input_range is {config.input_range}, but {config.init_from} was trained with mean "
            f"{found[0].tolist()} and std {found[1].tolist()}: use its input_range, or leave it at timm"
        )


def build_backbone(
    name: str, image_size: int, drop_path: float = 0.0, pretrained: bool | Path = False
) -> nn.Module:
    """Build any timm backbone without its classifier: (B, 3, H, W) -> (B, head_hidden_size).

    `pretrained` is True (timm's weights, downloaded once), False, or the path of a weight file, see
    `lib.models.weights.load_weights`. `drop_path` is the stochastic depth rate. Backbones with a
    fixed input size (vision transformers) are built for `image_size`.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=5)
        raise ModelError(
            f"backbone {name!r} is not known to timm; close names: {', '.join(close) or 'none'}"
        )
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        options["img_size"] = image_size
    try:
        backbone = timm.create_model(name, pretrained=pretrained is True, num_classes=0, **options)
    except TypeError as error:
        raise ModelError(
            f"backbone {name!r} does not support {', '.join(options)}: {error}"
        ) from error
    except OSError as error:
        raise ModelError(
            f"the weights of {name!r} cannot be fetched ({type(error).__name__}): set pretrained to a local "
            "weight file, set it to false to start from scratch, or run once with network access"
        ) from error
    except RuntimeError as error:
        first = str(error).strip().splitlines()[:3]
        raise ModelError(
            f"the weights do not fit {name!r} (pretrained={pretrained!r}): {' '.join(first)}"
        ) from error
    if isinstance(pretrained, Path):
        load_weights(backbone, name, pretrained)
    return backbone


def build_head(kind: str, features: int, outputs: int, dropout: float) -> nn.Module:
    """Build a `linear` head, or the `mlp` head of Ayushk4/MedImaging (2021).

    The `mlp` maps features -> 625 -> 256 -> outputs with LeakyReLU.
    """
    if kind == "linear":
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(features, outputs))
    wide, narrow = MLP_WIDTHS
    return nn.Sequential(
        nn.Linear(features, wide),
        nn.LeakyReLU(),
        nn.Dropout(dropout),
        nn.Linear(wide, narrow),
        nn.LeakyReLU(),
        nn.Linear(narrow, outputs),
    )


def backbone_stages(backbone: nn.Module) -> list[list[str]]:
    """Return the parameter names of a backbone in order of depth.

    Groups are timm's coarse groups: the stem, then each stage or block.
    """
    groups = group_parameters(backbone, backbone.group_matcher(coarse=True))
    return [groups[key] for key in sorted(groups)]


def freeze(model: Classifier, what: str | int) -> None:
    """Freeze `none`, the whole `backbone`, or its first k stages.

    `what` is one of these two words, or k as an int; the stem counts as the first stage.
    """
    check_freeze(model.backbone, what)
    stages = backbone_stages(model.backbone)
    count = {"none": 0, "backbone": len(stages)}.get(what, what)
    frozen = {name for stage in stages[:count] for name in stage}
    for name, weight in model.backbone.named_parameters():
        weight.requires_grad = name not in frozen


def check_freeze(backbone: nn.Module, what: str | int) -> None:
    """Raise ModelError when `what` freezes more stages than the backbone has."""
    stages = len(backbone_stages(backbone))
    if isinstance(what, int) and what > stages:
        raise ModelError(
            f"freeze={what}: this backbone has {stages} stages; use a smaller number or 'backbone'"
        )


def describe_model(model: Classifier, config: Config) -> pd.DataFrame:
    """Return a table that describes a model before training."""
    parameters = count_parameters(model)
    return pd.Series(
        {
            "backbone": config.backbone,
            "starts from": (model.weights or {}).get("text", ""),
            "parameters": f"{parameters['all']:,}",
            "trained": f"{parameters['trained']:,}",
            "backbone stages": len(backbone_stages(model.backbone)),
            "channels removed": f"{model.widths['share']:.0%}" if model.widths else "none",
            "frozen": config.freeze,
            "head": config.head,
        },
        name="model",
    ).to_frame()


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count all parameters of a model, and the trained ones."""
    weights = list(model.parameters())
    return {
        "all": sum(w.numel() for w in weights),
        "trained": sum(w.numel() for w in weights if w.requires_grad),
    }


def transfer_backbone(model: Classifier, name: str, folder: Path) -> None:
    """Copy the backbone of the run in `folder`, with its normalisation, into `model`.

    The head stays new. `name` is the backbone of `model`. Raises ModelError that names what does
    not fit: another backbone, or missing, unknown or wrongly shaped weights.
    """
    card = read_card(folder)
    if card["backbone"] != name:
        raise ModelError(
            f"init_from: {folder} holds a {card['backbone']}, but this run uses {name}; use the same backbone for both"
        )
    state = _read_state(folder)
    prefix = "backbone."
    given = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    wrong = misfits(given, model.backbone.state_dict())
    if wrong:
        raise ModelError(f"init_from: {folder} does not fit {name}: {few(wrong)}")
    model.backbone.load_state_dict(given)
    for buffer, key in ((model.mean, "mean"), (model.std, "std")):
        buffer.copy_(torch.tensor(card["normalisation"][key]).view(1, 3, 1, 1))
    model.weights = origin_in_run(folder, card)


def save_model(folder: Path, model: Classifier, card: dict[str, Any]) -> None:
    """Write `model.safetensors` and its `card.json`.

    The card needs at least backbone, head, dropout, findings and image_size; the normalisation,
    where the first weights came from, and the widths of a pruned backbone are added.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_write(folder / "model.safetensors") as partial:
        safetensors.torch.save_file(
            state, partial, metadata={"card": json.dumps({"backbone": card["backbone"]})}
        )
    stats = {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
    made = {"weights": model.weights, **card, "normalisation": stats}
    write_json(folder / "card.json", made | ({"widths": model.widths} if model.widths else {}))


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Channels(_Part):
    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)]


class _Origin(_Part):
    text: str


class _Widths(_Part):
    share: Fraction
    attributes: dict[str, dict[str, int | list[int]]]
    shapes: dict[str, list[int]]


class _Card(_Part):
    """What a saved model is built from; a card holds more."""

    backbone: str
    head: Literal["mlp", "linear"]
    dropout: Fraction
    findings: Annotated[list[str], Field(min_length=1)]
    image_size: Annotated[int, Field(ge=1, le=4096)]
    normalisation: _Channels
    weights: _Origin | None = None
    widths: _Widths | None = None
    data: dict[str, Any] = {}


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card of a saved model; raises ModelError when a file is missing, and when the card
    does not say how the model is built."""
    if (folder / INT8).exists():
        raise ModelError(
            f"{folder} holds an int8 network, whose layers are numbers of 8 bits: it answers, but no "
            "run can start from it or learn from it; name the run that it was made from"
        )
    for name in (CARD, WEIGHTS):
        if not (folder / name).exists():
            raise ModelError(f"{folder} holds no {name}: that stage is not complete; run it first")
    path = folder / CARD
    card = read_json(path)
    try:
        _Card.model_validate(card)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise ModelError(
            f"{path} is damaged ({'; '.join(problems)}); run the stage again"
        ) from error
    return card


def _read_state(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a saved model; raises ModelError when they are broken."""
    path = folder / "model.safetensors"
    state = read_weights(path)
    if broken := [key for key, value in state.items() if not value.isfinite().all()]:
        raise ModelError(f"{path}: values are not finite in {few(broken)}; run the stage again")
    return state


def load_model(folder: Path) -> tuple[Classifier, dict[str, Any]]:
    """Return the model saved in `folder`, in evaluation mode, and its card.

    Raises ModelError when a file is missing or damaged.
    """
    card = read_card(folder)
    try:
        backbone = build_backbone(card["backbone"], card["image_size"])
        if card.get("widths"):
            narrow_backbone(backbone, card["widths"], str(folder))
    except ModelError as error:
        raise ModelError(f"{folder / 'card.json'}: {error}") from error
    head = build_head(
        card["head"], backbone.head_hidden_size, len(card["findings"]), card["dropout"]
    )
    model = Classifier(
        backbone,
        head,
        card["normalisation"]["mean"],
        card["normalisation"]["std"],
        card.get("weights"),
        card.get("widths"),
    )
    state = _read_state(folder)
    if wrong := misfits(state, model.state_dict()):
        raise ModelError(
            f"{folder / 'model.safetensors'} does not fit its card.json: {few(wrong)}; run the stage again"
        )
    model.load_state_dict(state)
    return model.eval(), card
