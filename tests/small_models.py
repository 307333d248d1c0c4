"""Small classifiers of every family, with weights that make them answer differently for different
films."""

import timm
import torch
from timm.models.vgg import VGG, ConvMlp
from torch import nn

from lib.models.classifier import Classifier, build_backbone, build_head

FAMILIES = (
    "resnet10t",
    "tf_efficientnet_b0",
    "darknet17",
    "cs3darknet_s",
    "repvgg_a0",
    "vgg",
    "vit",
)
FINDINGS = 3
SIZE = 64


def small_classifier(
    family: str, head: str = "linear", size: int = SIZE, findings: int = FINDINGS
) -> Classifier:
    """A classifier in evaluation mode; `thin` is a ResNet of few channels, `vgg` a narrow VGG with
    batch norm, and `vit` a transformer of two blocks.
    """
    torch.manual_seed(0)
    backbone = _backbone(family, size)
    top = build_head(head, backbone.head_hidden_size, findings, 0.3)
    nn.init.normal_(top[-1].weight, std=0.3)
    return settle(Classifier(backbone, top, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), size)


def _backbone(family: str, size: int) -> nn.Module:
    if family == "thin":
        return timm.create_model("resnet10t", num_classes=0, channels=(8, 16, 16, 32), stem_width=8)
    if family == "vgg":
        backbone = VGG(
            [8, "M", 8, "M", 16, "M", 16, "M", 32, "M"], num_classes=0, norm_layer=nn.BatchNorm2d
        )
        backbone.pre_logits, backbone.head_hidden_size = ConvMlp(32, 48, 7), 48
        return backbone
    if family == "vit":
        backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=size, depth=2)
        for weight in backbone.parameters():
            nn.init.normal_(weight, mean=1.0 if weight.ndim == 1 else 0.0, std=0.06)
        return backbone
    return build_backbone(family, size)


def settle(model: Classifier, size: int) -> Classifier:
    """Sets the batch norms to what they meet, so that activations neither vanish nor explode in
    evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # some start at 0, which would hide a branch
            module.momentum = None  # the plain mean of what comes
    model.train()
    with torch.no_grad():
        for seed in range(2):
            model(films(8, size, seed).unsqueeze(1).float() / 255)
    return model.eval()


def films(count: int, size: int = SIZE, seed: int = 9) -> torch.Tensor:
    """(count, size, size) uint8: a few soft blobs each, unlike one another."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 6, 6, generator=generator)
    grey = nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (grey[:, 0] * 255).round().to(torch.uint8)
