"""In: logits and targets of a batch, NaN where a label is unknown. Out: the sum of the loss over the
known labels, and how many they are.

Sum and number are apart, so that batches on several devices can be put together before the division.
`loss` of Config names the loss; the parameters of each are those of its paper.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from lib.config import Config

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(logits (B, F), targets (B, F)) -> sum over known labels (), number of known labels ()."""


def make_loss(config: Config, targets: np.ndarray, device: torch.device | str = "cpu") -> Loss:
    """Return the loss of the config. `targets` (N, F) of the training images give the weights of
    `pos_weight: balanced`."""
    if config.loss == "bce" and config.pos_weight == "balanced":
        return partial(bce, pos_weight=balanced_pos_weight(targets).to(device))
    return {"bce": bce, "asl": asl, "focal": focal}[config.loss]


def reduced(total: Tensor, known: Tensor | int, reduction: str) -> Tensor:
    """Return the loss of a batch from its sum and its number of known labels.

    `reduction` is `mean` or `sum`. The mean over no labels is 0. `known` counts the whole batch, also
    where `total` is of the part that one of several devices has.
    """
    if reduction == "sum":
        return total
    return total / (max(known, 1) if isinstance(known, int) else known.clamp(min=1))


def bce(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy; `pos_weight` (F,) weighs positives."""
    known = ~targets.isnan()
    each = F.binary_cross_entropy_with_logits(
        logits, targets.nan_to_num(), pos_weight=pos_weight, reduction="none"
    )
    return (each * known).sum(), known.sum()


def asl(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Asymmetric loss (Ridnik et al. 2021) of timm: gamma 4 for negatives and 1 for positives,
    probabilities of negatives less 0.05."""
    known = ~targets.isnan()
    # as one row, of which timm returns the sum in all its versions
    total = AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=1, clip=0.05)(
        logits[known][None], targets[known][None]
    )
    return total, known.sum()


def focal(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss (Lin et al. 2017) of torchvision: gamma 2, positives weighed by 0.25 and negatives
    by 0.75."""
    known = ~targets.isnan()
    each = sigmoid_focal_loss(logits, targets.nan_to_num(), alpha=0.25, gamma=2)
    return (each * known).sum(), known.sum()


def class_weights(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many positives and negatives targets (N, F) hold of each finding: (F,) each.

    A soft target of 0.7 is 0.7 positives and 0.3 negatives.
    """
    exact = targets.astype(float)
    return np.nansum(exact, axis=0), np.nansum(1 - exact, axis=0)


def balanced_pos_weight(targets: np.ndarray) -> Tensor:
    """Return (F,) negatives per positive of each finding in targets (N, F), at most 100.

    It is 1 for a finding without positives. A soft target counts in part on either side.
    """
    positives, negatives = class_weights(targets)
    ratio = np.where(positives > 0, negatives / np.maximum(positives, 1), 1.0)
    return torch.tensor(ratio.clip(max=100.0), dtype=torch.float32)
