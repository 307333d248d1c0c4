"""Build, save and load classifiers.

In: a backbone's name, a head, what to freeze, an earlier stage. Out: a classifier of grey images;
saved models.
"""

import difflib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from lib.config import Config, resolve
from lib.exceptions import ModelError
from lib.files import atomic_write, read_json, write_json

MLP_WIDTHS = (625, 256)  # Ayushk4/MedImaging (2021)


class Classifier(nn.Module):
    """A timm backbone and a head for grey images: (B, 1, H, W) in [0, 1] -> logits (B, F).

    The grey channel is normalised with the backbone's own mean and std, which repeats it to three
    channels. Modules whose weights are all frozen stay in evaluation mode, so that frozen batch
    norm statistics do not change.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float]
    ):
        super().__init__()
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
    """Build the model of a config: backbone with weights, new head, frozen parts.

    Weights come from `init_from` (the backbone of an earlier run), else from `pretrained`. Initial
    weights depend on the seed only. Raises ModelError for an unknown backbone or a wrong option,
    and when weights cannot be fetched or do not fit.
    """
    torch.manual_seed(config.seed)
    pretrained = False if config.init_from else config.pretrained
    backbone = build_backbone(config.backbone, config.image_size, config.drop_path, pretrained)
    head = build_head(config.head, backbone.head_hidden_size, len(config.findings), config.dropout)
    model = Classifier(
        backbone, head, backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"]
    )
    if config.init_from:
        transfer_backbone(model, config.backbone, resolve(config.init_from))
    freeze(model, config.freeze)
    return model


def build_backbone(
    name: str, image_size: int, drop_path: float = 0.0, pretrained: bool | str = False
) -> nn.Module:
    """Build any timm backbone without its classifier: (B, 3, H, W) -> (B, head_hidden_size).

    `pretrained` is True (timm's weights, downloaded once), False, or the path of a local file.
    `drop_path` is the stochastic depth rate. Backbones with a fixed input size (vision
    transformers) are built for `image_size`.
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
    if isinstance(pretrained, str):
        path = resolve(pretrained)
        if not path.is_file():
            raise ModelError(
                f"pretrained: there is no file {path}; use a timm weight file, true or false"
            )
        options["pretrained_cfg_overlay"] = {"file": str(path)}
    try:
        backbone = timm.create_model(name, pretrained=bool(pretrained), num_classes=0, **options)
        if isinstance(pretrained, str):
            _check_loaded(backbone, name, options)
        return backbone
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


def _check_loaded(backbone: nn.Module, name: str, options: dict[str, Any]) -> None:
    """Raise ModelError when a weight file lacks tensors of the backbone.

    Without a classifier, timm silently loads only what fits. So a second backbone is built from the
    same file with other random numbers: tensors that differ were not in the file.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() ^ 1)
        again = timm.create_model(name, pretrained=True, num_classes=0, **options).state_dict()
    loaded = backbone.state_dict()
    missing = [key for key, value in again.items() if not torch.equal(value, loaded[key])]
    if missing:
        raise ModelError(
            f"the weights do not fit {name!r}: {options['pretrained_cfg_overlay']['file']} lacks"
            f" {len(missing)} of {len(loaded)} tensors, the first is {missing[0]!r}; use a weight file of this backbone"
        )


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
            "starts from": config.init_from or config.pretrained or "random weights",
            "parameters": f"{parameters['all']:,}",
            "trained": f"{parameters['trained']:,}",
            "backbone stages": len(backbone_stages(model.backbone)),
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
    """Copy the backbone of the run in `folder` into `model`; the head stays new.

    `name` is the backbone of `model`. Raises ModelError that names what does not fit: another
    backbone, or missing, unknown or wrongly shaped weights.
    """
    card = read_card(folder)
    if card["backbone"] != name:
        raise ModelError(
            f"init_from: {folder} holds a {card['backbone']}, but this run uses {name}; use the same backbone for both"
        )
    state = safetensors.torch.load_file(folder / "model.safetensors")
    prefix = "backbone."
    given = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    wanted = model.backbone.state_dict()
    shapes = [
        f"{key} has {tuple(given[key].shape)} but needs {tuple(wanted[key].shape)}"
        for key in given.keys() & wanted.keys()
        if given[key].shape != wanted[key].shape
    ]
    wrong = [f"{key} is missing" for key in wanted.keys() - given.keys()]
    wrong += [f"{key} is unknown" for key in given.keys() - wanted.keys()] + shapes
    if wrong:
        raise ModelError(
            f"init_from: {folder} does not fit {name}: {'; '.join(sorted(wrong)[:5])} ({len(wrong)} in total)"
        )
    model.backbone.load_state_dict(given)


def save_model(folder: Path, model: Classifier, card: dict[str, Any]) -> None:
    """Write `model.safetensors` and its `card.json`.

    The card needs at least backbone, head, dropout, findings and image_size.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_write(folder / "model.safetensors") as partial:
        safetensors.torch.save_file(
            state, partial, metadata={"card": json.dumps({"backbone": card["backbone"]})}
        )
    normalisation = {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
    write_json(folder / "card.json", {**card, "normalisation": normalisation})


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card of a saved model; raises ModelError when a file is missing."""
    for name in ("card.json", "model.safetensors"):
        if not (folder / name).exists():
            raise ModelError(f"{folder} holds no {name}: that stage is not complete; run it first")
    return read_json(folder / "card.json")


def load_model(folder: Path) -> tuple[Classifier, dict[str, Any]]:
    """Return the model saved in `folder`, in evaluation mode, and its card."""
    card = read_card(folder)
    backbone = build_backbone(card["backbone"], card["image_size"])
    head = build_head(
        card["head"], backbone.head_hidden_size, len(card["findings"]), card["dropout"]
    )
    model = Classifier(backbone, head, card["normalisation"]["mean"], card["normalisation"]["std"])
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    return model.eval(), card
