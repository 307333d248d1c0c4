"""In: logits and targets of a batch, NaN where a label is unknown. Out: the loss over the known
labels."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def masked_bce(
    logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return the mean or sum of binary cross-entropy over the known labels of a batch.

    Shapes (B, F) -> (). A target of NaN is unknown. `pos_weight` (F,) weighs positives; `reduction`
    is `mean` or `sum`.
    """
    annotated = ~targets.isnan()
    each = F.binary_cross_entropy_with_logits(
        logits, targets.nan_to_num(), pos_weight=pos_weight, reduction="none"
    )
    total = (each * annotated).sum()
    return total if reduction == "sum" else total / annotated.sum().clamp(min=1)


def balanced_pos_weight(targets: np.ndarray) -> Tensor:
    """Return (F,) negatives per positive of each finding in targets (N, F), at most 100.

    It is 1 for a finding without positives.
    """
    positives, negatives = (targets == 1).sum(0), (targets == 0).sum(0)
    ratio = np.where(positives > 0, negatives / np.maximum(positives, 1), 1.0)
    return torch.tensor(ratio.clip(max=100.0), dtype=torch.float32)
