"""Remove channels from a backbone, and build the narrower backbone again.

In: a backbone and the share of its channels to remove. Out: the narrower backbone, and its widths
as JSON values, from which an unpruned backbone becomes as narrow.

Channels that depend on one another, through skip connections or depthwise convolutions, go together
(DepGraph, Fang et al. 2023, "Towards any structural pruning"). Each group loses the same share:
those channels whose weights have the smallest norm over all layers of the group. What is left is a
multiple of MULTIPLE channels. Of vision transformers the hidden units of the MLPs go; tokens and
heads stay.
"""

import warnings
from typing import Any

import torch
from timm.models import VisionTransformer
from torch import nn

from lib.exceptions import ModelError
from lib.models.cross_stages import separate_halves

Widths = dict[str, Any]
"""share: of the channels that were removed; attributes: module -> {attribute: number or numbers};
shapes: tensor -> shape; both of what is narrower than in the unpruned backbone."""

MULTIPLE = 4
"""onnxruntime computes convolutions in blocks of channels, and takes a path several times slower for
numbers that 4 does not divide: MobileNetV2 at width 0.35 without 30 % of its channels takes twice
the time of the whole network, and three quarters of it with multiples of 4."""


def prune_backbone(
    backbone: nn.Module, name: str, size: int, share: float, before: Widths | None = None
) -> Widths:
    """Remove a share of the channels of `backbone`, which is timm's `name`, in place.

    size: pixels per side. before: the widths of a backbone that was pruned already; the new share
    is of what is left. Returns its widths for the card. With random weights the norms mean nothing,
    and what is left is the same network with fewer channels. Raises ModelError where torch-pruning
    is missing, and for a backbone that it does not understand.
    """
    if before is None:
        separate_halves(backbone)
    mode, old = backbone.training, _numbers(backbone)
    shapes = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    film = torch.zeros(1, 3, size, size, device=next(backbone.parameters()).device)
    backbone.eval()
    try:
        _remove(backbone, film, share)
        _follow_up(backbone, film)
    except ImportError as error:
        raise ModelError(
            "prune needs torch-pruning: install it, or the extra `compress`"
        ) from error
    except Exception as error:  # a backbone that torch-pruning does not understand fails anyhow
        raise ModelError(
            f"prune: no channels can be removed from {name!r} ({type(error).__name__}: {error}); "
            "use another backbone, or prune 0"
        ) from error
    backbone.train(mode)
    new = _numbers(backbone)
    changed = {part: _changed(old[part], new[part]) for part in new}
    narrower = {
        key: list(value.shape)
        for key, value in backbone.state_dict().items()
        if tuple(value.shape) != shapes[key]
    }
    if not narrower:
        raise ModelError(f"prune: {share} removes no channel of {name!r}; use more, or 0")
    widths = before or {"share": 0.0, "attributes": {}, "shapes": {}}
    parts = {
        part: {**widths["attributes"].get(part, {}), **values}
        for part, values in changed.items()
        if values
    }
    return {
        "share": round(1 - (1 - widths["share"]) * (1 - share), 6),
        "attributes": {**widths["attributes"], **parts},
        "shapes": {**widths["shapes"], **narrower},
    }


def narrow_backbone(backbone: nn.Module, widths: Widths, where: str) -> None:
    """Give an unpruned backbone the widths that another was pruned to; its weights are then to be
    loaded.

    Raises ModelError, naming `where` the widths are from, for widths that are not of this backbone,
    or wider than it.
    """
    separate_halves(backbone)
    try:
        for part, values in widths["attributes"].items():
            module = backbone.get_submodule(part)
            for key, value in values.items():
                setattr(module, key, _narrower(getattr(module, key), value, f"{part}.{key}"))
        for key, shape in widths["shapes"].items():
            _shrink(backbone, key, shape)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{where}: its widths do not fit this backbone ({error}); run the stage again"
        ) from error


def _remove(backbone: nn.Module, film: torch.Tensor, share: float) -> None:
    import torch_pruning

    kept = _kept_outputs(backbone)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
        torch_pruning.pruner.BasePruner(
            backbone,
            film,
            torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=share,
            ignored_layers=kept,
            round_to=MULTIPLE,
        ).step()


def _kept_outputs(backbone: nn.Module) -> list[nn.Module]:
    """Return the layers whose outputs all stay: of a transformer all but the first of each MLP."""
    if not isinstance(backbone, VisionTransformer):
        return []
    hidden = {block.mlp.fc1 for block in backbone.blocks}
    return [
        part
        for part in backbone.modules()
        if isinstance(part, nn.Linear | nn.Conv2d | nn.LayerNorm) and part not in hidden
    ]


@torch.no_grad()
def _follow_up(backbone: nn.Module, film: torch.Tensor) -> None:
    """Set the numbers of features that timm keeps beside the layers themselves."""
    backbone.num_features = backbone.head_hidden_size = backbone(film).shape[-1]


def _numbers(backbone: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the attributes of every module that are whole numbers, or tuples of them."""
    return {
        name: {key: value for key, value in vars(part).items() if _is_number(value)}
        for name, part in backbone.named_modules()
    }


def _is_number(value: Any) -> bool:
    parts = value if isinstance(value, tuple) and value else (value,)
    return all(type(part) is int for part in parts)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in new.items()
        if old.get(key) != value
    }


def _narrower(old: Any, value: int | list[int], what: str) -> Any:
    """Return the value as it is kept; raises ValueError where it is of another kind or wider."""
    given = tuple(value) if isinstance(value, list) else value
    if not (_is_number(old) and _is_number(given) and type(old) is type(given)):
        raise ValueError(f"{what} is no width")
    pairs = zip(*(one if isinstance(one, tuple) else (one,) for one in (old, given)), strict=True)
    if any(not 1 <= new <= full for full, new in pairs):
        raise ValueError(f"{what} is {value}, and {old} unpruned")
    return given


def _shrink(backbone: nn.Module, key: str, shape: list[int]) -> None:
    """Cut a parameter or buffer to a shape."""
    place, _, name = key.rpartition(".")
    module = backbone.get_submodule(place)
    full = getattr(module, name)
    _narrower(tuple(full.shape), list(shape), key)
    cut = full.detach()[tuple(slice(0, count) for count in shape)].clone()
    if isinstance(full, nn.Parameter):
        setattr(module, name, nn.Parameter(cut, requires_grad=full.requires_grad))
    else:
        module.register_buffer(name, cut)
