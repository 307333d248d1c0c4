"""Write cross stages without their split.

In: a CSP network (Wang et al. 2020) of timm. Out: the same network, whose every expansion is two
convolutions, one for each path, in place of one whose output is split in two.

The outputs are the same up to rounding. A graph of which channels depend on which then needs to know
of no split, and the two paths can have different widths.
"""

import copy

import torch
from timm.models.cspnet import CrossStage, CrossStage3
from torch import Tensor, nn


def separate_halves(backbone: nn.Module) -> None:
    """Replace every cross stage of `backbone` in place; other backbones stay as they are."""
    for part in list(backbone.modules()):
        for name, child in part.named_children():
            if isinstance(child, CrossStage | CrossStage3):
                setattr(part, name, SeparateStage(child))


class SeparateStage(nn.Module):
    """timm's CrossStage or CrossStage3 with its weights: (B, C, H, W) -> (B, D, H', W')."""

    def __init__(self, stage: CrossStage | CrossStage3):
        super().__init__()
        half = stage.expand_chs // 2
        self.conv_down = stage.conv_down
        self.conv_exp_a = _part(stage.conv_exp, slice(0, half))
        self.conv_exp_b = _part(stage.conv_exp, slice(half, 2 * half))
        self.blocks = stage.blocks
        self.conv_transition_b = getattr(stage, "conv_transition_b", None)
        self.conv_transition = stage.conv_transition

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_down(x)
        first, second = self.conv_exp_a(x), self.conv_exp_b(x)
        if self.conv_transition_b is None:  # CrossStage3: the blocks are on the first path
            first = self.blocks(first)
        else:
            second = self.conv_transition_b(self.blocks(second))
        return self.conv_transition(torch.cat([first, second], dim=1))


@torch.no_grad()
def _part(expansion: nn.Module, rows: slice) -> nn.Module:
    """Return a convolution with its batch norm that computes some of the output channels."""
    part = copy.deepcopy(expansion)
    conv, norm = part.conv, part.bn
    conv.weight = nn.Parameter(conv.weight[rows].clone())
    conv.out_channels = norm.num_features = len(conv.weight)
    if conv.bias is not None:
        conv.bias = nn.Parameter(conv.bias[rows].clone())
    for name in ("weight", "bias"):
        setattr(norm, name, nn.Parameter(getattr(norm, name)[rows].clone()))
    for name in ("running_mean", "running_var"):
        norm.register_buffer(name, getattr(norm, name)[rows].clone())
    return part
