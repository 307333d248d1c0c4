"""Load a backbone's first weights from a file, and say where they came from.

In: a weight file and a timm backbone; the card of an earlier run. Out: the loaded backbone, its
normalisation, and the origin of its weights as JSON values with one text for readers.
"""

import argparse
import pickle
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from lib.config import Config
from lib.exceptions import ModelError
from lib.files import sha256

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys below which training scripts keep the weights; moving averages first, as timm does."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
"""What wrappers of a network put in front of every key."""
FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")
"""What timm calls a family's function that renames another library's weights or resizes position
embeddings."""


def weights_to_load(config: Config) -> bool | Path:
    """Return what `build_backbone` is to load: timm's weights (True), none (False), or a file.

    Raises ModelError when `pretrained` names a file that is in neither of its places.
    """
    path = config.weights_file
    if path is None:
        return bool(config.pretrained)
    if not path.is_file():
        places = " or ".join(str(place) for place in config.weights_places)
        raise ModelError(f"pretrained: there is no file {places}; use a weight file, true or false")
    return path


def load_weights(backbone: nn.Module, name: str, path: Path) -> None:
    """Load the weight file `path` into `backbone`, which is timm's `name` without its classifier.

    The file's classifier is left out. Every other tensor must fit, and none may be missing; the
    functions of timm's model families rename the weights of other libraries and resize position
    embeddings. Raises ModelError that names what is missing, unknown or of another shape.
    """
    state = _without_classifier(_unwrapped(read_weights(path), path), backbone)
    wrong = misfits(state, backbone.state_dict())
    if wrong:
        state = _without_classifier(_renamed(state, backbone), backbone)
    if wrong and misfits(state, backbone.state_dict()):
        raise ModelError(
            f"the weights do not fit {name!r}: {path} is not a file of this backbone: {few(wrong)}"
        )
    backbone.load_state_dict(state)


def read_weights(path: Path) -> Any:
    """Return what a safetensors file or a torch file holds; nothing but data is ever loaded.

    Raises ModelError when the file cannot be read, or holds Python objects.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's training options
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile file raises a dozen exception types
        raise ModelError(f"{path} cannot be read as plain weights: {_unreadable(error)}") from error


def misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return what is missing, unknown or of another shape in `given`, sorted; empty if it fits.

    The counters of batch norms may be missing: older files do not have them.
    """
    wrong = [
        f"{key} is missing"
        for key in wanted.keys() - given.keys()
        if not key.endswith("num_batches_tracked")
    ]
    wrong += [f"{key} is unknown" for key in given.keys() - wanted.keys()]
    wrong += [
        f"{key} has {tuple(given[key].shape)} but needs {tuple(wanted[key].shape)}"
        for key in given.keys() & wanted.keys()
        if given[key].shape != wanted[key].shape
    ]
    return sorted(wrong)


def few(names: list[str]) -> str:
    """Return the first five of `names` as text, and how many more there are."""
    return "; ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def normalisation(
    input_range: str | tuple[float, float], backbone: nn.Module
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std of three channels, for images in [0, 1], that give `input_range`.

    `timm` are those that timm states for this backbone, `imagenet` are ImageNet's. (black, white)
    maps 0 to black and 1 to white: (x - mean) / std with std = 1 / (white - black) and mean =
    -black * std.
    """
    if isinstance(input_range, tuple):
        black, white = input_range
        std = 1 / (white - black)
        return (-black * std,) * 3, (std,) * 3
    if input_range == "imagenet":
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return tuple(backbone.pretrained_cfg["mean"]), tuple(backbone.pretrained_cfg["std"])


def origin(backbone: nn.Module, pretrained: bool | Path) -> dict[str, Any]:
    """Return where the weights of a new backbone came from: `source` and `text`, and more.

    A `file` has its name and sha256; weights of `timm` have the name, Hugging Face id, address and
    licence that timm states; `none` are random weights.
    """
    if isinstance(pretrained, Path):
        digest = sha256(pretrained)
        text = f"the file {pretrained.name} (sha256 {digest[:12]})"
        return {"source": "file", "name": pretrained.name, "sha256": digest, "text": text}
    if not pretrained:
        return {"source": "none", "text": "random weights"}
    stated = backbone.pretrained_cfg
    name = ".".join(filter(None, (stated.get("architecture"), stated.get("tag"))))
    places = {key: stated.get(key) for key in ("hf_hub_id", "url", "license") if stated.get(key)}
    place = places.get("hf_hub_id") or places.get("url")
    text = f"timm's weights {name}" + (f" ({place})" if place else "")
    return {"source": "timm", "name": name, **places, "text": text}


def origin_in_run(folder: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the weights of a backbone came from that is that of the run in `folder`.

    Its model's sha256, its findings, and `starts_from`: where its own weights came from, up to the
    first file; None where an older version did not write it down.
    """
    before, findings = card.get("weights"), list(card["findings"])
    phantom = bool(card.get("data", {}).get("phantom"))
    task = ", ".join(findings) if len(findings) < 4 else f"{len(findings)} findings"
    name = f"{folder.resolve().parent.name}/{folder.resolve().name}"
    first = before["text"] if before else "weights that were not written down"
    return {
        "source": "run",
        "name": name,
        "sha256": sha256(folder / "model.safetensors"),
        "findings": findings,
        "phantom": phantom,
        "starts_from": before,
        "text": f"{first}, then the run {name} ({task}{' on phantoms' if phantom else ''})",
    }


def taught_by(given: Mapping[str, Any], folders: Iterable[str]) -> dict[str, Any]:
    """Return the origin of weights that then learn the answers of the runs in `folders`: with
    `taught_by`, and their names in the text."""
    names = ["/".join(Path(folder).parts[-2:]) for folder in folders]
    return {**given, "taught_by": names, "text": f"{given['text']}, taught by {', '.join(names)}"}


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict that may lie below one of WRAPPERS and have PREFIXES."""
    for _ in WRAPPERS:  # a mapping may hold itself
        if isinstance(content, Mapping) and (inner := _first_mapping(content)) is not None:
            content = inner
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path} holds no state dict of tensors: {type(content).__name__}")
    strange = [
        f"{key!r} ({type(value).__name__})"
        for key, value in content.items()
        if not isinstance(key, str) or not isinstance(value, Tensor)
    ]
    if strange:
        raise ModelError(f"{path} holds more than tensors: {few(strange)}; use a plain state dict")
    broken = [key for key, value in content.items() if not _finite(value)]
    if broken:
        raise ModelError(f"{path}: values are not finite in {few(broken)}; the file is broken")
    state = dict(content)
    while prefix := _shared_prefix(state):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _first_mapping(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    inner = (content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping))
    return next(inner, None)


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def _shared_prefix(keys: Iterable[str]) -> str | None:
    return next((one for one in PREFIXES if all(key.startswith(one) for key in keys)), None)


def _without_classifier(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Leave out the tensors of the classifier that timm names for this backbone.

    A module around the classifier of which the backbone has no tensor belongs to the classifier,
    for instance its own batch norm.
    """
    stated = backbone.pretrained_cfg.get("classifier") or ()
    ours = tuple(backbone.state_dict())
    for name in (stated,) if isinstance(stated, str) else stated:
        around, _, _ = name.rpartition(".")
        while around and not any(key.startswith(f"{around}.") for key in ours):
            name, (around, _, _) = around, around.rpartition(".")
        state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
    return state


def _renamed(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Return the state after the function of timm's family for foreign files, if it has one."""
    family = sys.modules[type(backbone).__module__]
    found = next((getattr(family, name) for name in FILTERS if hasattr(family, name)), None)
    if found is None:
        return state
    takes_model = found.__code__.co_argcount > 1
    try:
        return dict(found(dict(state), backbone) if takes_model else found(dict(state)))
    except Exception:  # not a file of this family: the caller names what does not fit
        return state


def _unreadable(error: Exception) -> str:
    """Return why a file was refused, without torch's advice to load it unsafely."""
    if found := re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error)):
        return (
            f"it holds a Python object ({found[1]}), which could run code. Only weights are read: "
            "save them alone with torch.save(model.state_dict(), FILE)"
        )
    if isinstance(error, pickle.UnpicklingError) or not str(error).strip():
        return "it is damaged, or holds more than weights, and only weights are read; download it again"
    return str(error).strip().splitlines()[0][:200]
