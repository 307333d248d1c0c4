"""Check whether models can be built from given parameters.

In: on stdin, a JSON list of model parameters. Out: on stdout, one problem or null for each.
`lib.studies.preflight` runs `python -m lib.models.check`, so that it need not import torch itself.
"""

import json
import sys
from typing import Any

import timm
import torch

from lib.config import Config
from lib.exceptions import ModelError
from lib.models.classifier import build_backbone, build_head, check_freeze
from lib.models.devices import check_devices
from lib.models.pruning import prune_backbone
from lib.models.weights import weights_to_load


def check_model(values: dict[str, Any]) -> str | None:
    """Return in one sentence why these parameters cannot build a model; None if they can."""
    config = Config(**values)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(config.accelerator, True):
        return (
            f"accelerator: {config.accelerator} is not available on this machine; use auto or cpu"
        )
    try:
        check_devices(config)
        backbone = _build(config)
        check_freeze(backbone, config.freeze)
        if config.prune:
            narrow = build_backbone(config.backbone, config.image_size, config.drop_path)
            prune_backbone(narrow, config.backbone, config.image_size, config.prune)
        build_head(config.head, backbone.head_hidden_size, len(config.findings), config.dropout)
    except ModelError as error:
        return str(error)
    published = timm.get_pretrained_cfg(config.backbone)
    if config.pretrained is True and not (published and published.has_weights):
        return f"backbone {config.backbone!r} has no pretrained weights in timm; set pretrained to false or a file"
    return None


def _build(config: Config) -> torch.nn.Module:
    """Build the backbone: with weights if they are a local file, else without allocating any."""
    if isinstance(config.pretrained, str):
        return build_backbone(
            config.backbone, config.image_size, config.drop_path, weights_to_load(config)
        )
    try:
        with torch.device("meta"):
            return build_backbone(config.backbone, config.image_size, config.drop_path)
    except ModelError:
        raise
    except (
        Exception
    ):  # some networks compute with tensor values while being built, which the meta device cannot
        return build_backbone(config.backbone, config.image_size, config.drop_path)


if __name__ == "__main__":
    print(json.dumps([check_model(values) for values in json.load(sys.stdin)]))
