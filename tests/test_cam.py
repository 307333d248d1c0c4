"""Heat maps in forward operations: the same as Grad-CAM and attention times gradient by autograd,
family by family."""

import pytest
import timm
import torch
from small_models import FAMILIES, FINDINGS, SIZE, films, small_classifier
from timm.layers import SelectAdaptivePool2d
from torch import nn
from torch.nn.functional import gelu

from lib.config import REPO_ROOT
from lib.exceptions import ExportError
from lib.models.attention import gelu_slope, norm_gradient
from lib.models.cam import head_gradient, weighted_maps
from lib.models.classifier import Classifier, build_backbone, build_head
from lib.models.finer_maps import finer_backbone
from lib.models.heatmaps import LEAST_CELLS, ServingModule
from lib.studies.plan import plan_study

CNNS = [family for family in FAMILIES if family != "vit"]
FINER = ["darknet17", "cs3darknet_s", "repvgg_a0"]
"""Whose map of 2 x 2 places at 64 px is computed at 8 x 8."""


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def served(model: Classifier, size: int = SIZE) -> ServingModule:
    count = model.head[-1].out_features
    return ServingModule(model, [1.0] * count, [0.0] * count, size)


def answers(model: Classifier, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        logits, _, heatmaps, _ = served(model, images.shape[-1])(images)
    return logits, heatmaps


def each_gradient(
    model: Classifier, module: nn.Module, images: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Logits (B, F), what `module` gives, and the gradient of each logit there (F, ...), by
    autograd."""
    kept = []

    def keep(_, __, output):
        output.retain_grad()
        kept.append(output)

    handle = module.register_forward_hook(keep)
    logits = model(images.unsqueeze(1).float() / 255)
    handle.remove()
    gradients = [
        torch.autograd.grad(logits[:, f].sum(), kept[0], retain_graph=True)[0]
        for f in range(FINDINGS)
    ]
    return logits.detach(), kept[0].detach(), torch.stack(gradients)


def last_features(backbone: nn.Module) -> nn.Module:
    """The module whose output Grad-CAM looks at: before the last pooling of VGG, else before the
    global pooling."""
    if hasattr(backbone, "pre_logits"):
        return backbone.features[-2]
    pooling = next(
        module for module in backbone.modules() if isinstance(module, SelectAdaptivePool2d)
    )
    probe = nn.Identity()
    pooling.register_forward_pre_hook(lambda _, given: (probe(given[0]),))
    return probe


def grad_cam(model: Classifier, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Selvaraju et al. 2017, word by word."""
    logits, features, gradients = each_gradient(model, last_features(model.backbone), images)
    alpha = gradients.mean((3, 4))  # (F, B, K)
    return logits, torch.einsum("fbk,bkhw->bfhw", alpha, features).relu()


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("family", CNNS)
def test_the_maps_of_a_cnn_are_grad_cam(family, head):
    model, images = small_classifier(family, head), films(3)
    wanted_logits, wanted = grad_cam(model, images)
    logits, heatmaps = answers(model, images)
    assert torch.allclose(logits, wanted_logits, atol=1e-4) and logits.std() > 0.01
    step = 4 if family in FINER else 1
    coarse = heatmaps[..., ::step, ::step]
    assert heatmaps.shape[-1] == step * wanted.shape[-1] and coarse.shape == wanted.shape
    assert (coarse - wanted).abs().max() <= 1e-4 * wanted.max() and wanted.max() > 0


@pytest.mark.parametrize("family", FINER)
def test_a_coarse_map_is_computed_on_a_finer_grid_without_changing_an_answer(family):
    model, images = small_classifier(family), films(3)
    fine, step = finer_backbone(model.backbone, SIZE, cells=7)
    pixels = (images.unsqueeze(1).float() / 255 - model.mean) / model.std
    with torch.no_grad():
        features, coarse = (net.forward_features(pixels) for net in (fine, model.backbone))
    assert (coarse.shape[-1], step, features.shape[-1]) == (2, 4, 8)
    assert torch.allclose(features[..., ::step, ::step], coarse, atol=1e-5 * coarse.abs().max())
    assert not torch.allclose(features[..., 1::step, ::step], coarse, rtol=0.01)  # not repeated


def test_the_cnns_of_the_demo_have_maps_of_eight_cells_per_side():
    configs = [run.config for run in plan_study(REPO_ROOT / "studies" / "demo.yaml").runs.values()]
    sizes = {one.backbone: one.image_size for one in configs if not one.backbone.startswith("vit")}
    assert len(sizes) > 1
    for name, size in sizes.items():
        fine, _ = finer_backbone(build_backbone(name, size), size, LEAST_CELLS)
        with torch.no_grad():
            assert min(fine.forward_features(torch.rand(1, 3, size, size)).shape[2:]) >= 8, name


class Strided(nn.Sequential):
    """Three convolutions of stride 2: one place of the map sees 15 px."""

    def __init__(self):
        super().__init__(*(nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(3)))

    forward_features = nn.Sequential.forward


def test_the_places_between_are_the_answers_on_shifted_images():
    network, image = Strided(), torch.rand(1, 3, 64, 64)
    fine, step = finer_backbone(network, 64, cells=16)
    with torch.no_grad():
        before, after = (fine(pixels) for pixels in (image, image.roll(4, -1)))  # half a stride
    assert step == 2 and before.shape[-1] == 16
    # an image moved by one finer place gives a map moved by one place, but at the borders
    assert torch.allclose(after[..., 2:-2, 4:-2], before[..., 2:-2, 3:-3], atol=1e-6)
    assert not torch.allclose(after[..., 2:-2, 4:-2], before[..., 2:-2, 4:-2], atol=1e-3)


@pytest.mark.parametrize("family", ["tf_efficientnet_b0", "resnet10t"])
def test_backbones_that_average_on_the_way_keep_their_coarse_map(family):
    model = small_classifier(family)
    assert finer_backbone(model.backbone, SIZE, cells=7) == (model.backbone, 1)


def test_a_map_that_is_fine_enough_stays_as_it_is():
    model = small_classifier("darknet17", size=224)
    assert finer_backbone(model.backbone, 224, cells=7) == (model.backbone, 1)


def test_the_maps_of_vgg_on_a_film_larger_than_its_kernel_are_grad_cam_too():
    model, images = small_classifier("vgg", "mlp", size=288), films(2, 288)
    _, wanted = grad_cam(model, images)
    _, heatmaps = answers(model, images)
    assert heatmaps.shape == (2, FINDINGS, 18, 18)
    assert (heatmaps - wanted).abs().max() <= 1e-4 * wanted.max() and wanted.max() > 0


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_maps_of_a_transformer_are_attention_times_its_gradient(head):
    model, images = small_classifier("vit", head), films(3)
    attention = model.backbone.blocks[-1].attn
    attention.fused_attn = False  # so that there are weights to look at
    wanted_logits, weights, gradients = each_gradient(model, attention.attn_drop, images)
    shares = (gradients * weights).sum(2)[
        :, :, 0, 1:
    ]  # (F, B, patches): all heads, from the class token
    wanted = shares.relu().transpose(0, 1).unflatten(2, (4, 4))
    logits, heatmaps = answers(model, images)
    assert torch.allclose(logits, wanted_logits, atol=1e-4) and logits.std() > 0.01
    assert (heatmaps - wanted).abs().max() <= 1e-4 * wanted.max() and wanted.max() > 0


def test_transformers_with_scaled_layers_normalised_queries_and_registers_have_maps_too():
    options = {
        "qk_norm": True,
        "init_values": 0.5,
        "reg_tokens": 2,
        "qkv_bias": False,
        "depth": 2,
        "img_size": 64,
    }
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)
    model = Classifier(
        backbone, build_head("linear", 192, FINDINGS, 0.3), (0.5,) * 3, (0.5,) * 3
    ).eval()
    attention, images = backbone.blocks[-1].attn, films(2)
    attention.fused_attn = False
    wanted_logits, weights, gradients = each_gradient(model, attention.attn_drop, images)
    wanted = (gradients * weights).sum(2)[:, :, 0, 3:].relu().transpose(0, 1).unflatten(2, (4, 4))
    logits, heatmaps = answers(model, images)
    assert torch.allclose(logits, wanted_logits, atol=1e-5)
    assert (heatmaps - wanted).abs().max() <= 1e-4 * wanted.max() and wanted.max() > 0


def test_with_a_linear_head_the_map_before_its_positive_part_sums_to_the_logit_without_its_bias():
    head = build_head("linear", 5, 2, 0.0).eval()
    features = torch.rand(3, 5, 4, 4)  # (B, K, h, w)
    logits, gradient = head_gradient(head, features.mean((2, 3)))
    parts = [weighted_maps(sign * gradient / 16, features).sum((2, 3)) for sign in (1, -1)]
    assert torch.allclose(parts[0] - parts[1], logits - head[-1].bias, atol=1e-5)


def test_the_gradient_of_a_small_head_by_hand():
    head = nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(0.1), nn.Linear(2, 1))
    with torch.no_grad():
        head[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, -4.0]]))
        head[0].bias.zero_()
        head[2].weight.copy_(torch.tensor([[5.0, 7.0]]))
    _, gradient = head_gradient(
        head, torch.tensor([[1.0, 1.0]])
    )  # 3 > 0: slope 1; -1 < 0: slope 0.1
    assert torch.allclose(gradient, torch.tensor([[[5 + 0.7 * 3, 10 - 0.7 * 4]]]))


def test_the_slope_of_gelu_is_that_of_autograd():
    values = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(gelu(values).sum(), values)
    assert torch.allclose(gelu_slope(values), wanted, atol=1e-12)


def test_the_gradient_of_a_layer_norm_is_that_of_autograd():
    norm = nn.LayerNorm(7, eps=1e-3).double()
    nn.init.normal_(norm.weight)
    values = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 1, 7, dtype=torch.float64)
    (wanted,) = torch.autograd.grad((norm(values) * upstream[:, 0]).sum(), values)
    assert torch.allclose(norm_gradient(norm, values, upstream)[:, 0], wanted, atol=1e-12)


def test_probabilities_are_calibrated_and_logits_are_raw():
    model, images = small_classifier("resnet10t"), films(2)
    slope, intercept = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1.0, 0.0, -1.0])
    with torch.no_grad():
        logits, probs, _, embedding = ServingModule(
            model, slope.tolist(), intercept.tolist(), SIZE
        )(images)
        wanted = model(images.unsqueeze(1).float() / 255)
        pixels = (images.unsqueeze(1).float() / 255 - model.mean) / model.std
        assert torch.allclose(embedding, model.backbone(pixels), atol=1e-5)
    assert torch.allclose(logits, wanted, atol=1e-5)
    assert torch.allclose(probs, (slope * wanted + intercept).sigmoid(), atol=1e-6)


@pytest.mark.parametrize(
    "name", ["convnext_atto", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"]
)
def test_backbones_without_a_closed_form_are_refused_by_name(name):
    size = 224 if name.startswith("swin") else 32
    backbone = build_backbone(name, size)
    model = Classifier(
        backbone, build_head("linear", backbone.head_hidden_size, 1, 0.0), (0.5,) * 3, (0.5,) * 3
    )
    with pytest.raises(
        ExportError, match=f"for {type(backbone).__name__}: its features are not simply averaged"
    ):
        served(model, size)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"global_pool": "avg"}, "no class token"),
        ({"act_layer": nn.ReLU}, "not GELU"),
        ({"fc_norm": True}, "pooled"),
    ],
)
def test_transformers_of_another_kind_are_refused_with_the_reason(options, reason):
    backbone = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, depth=1, img_size=32, **options
    )
    model = Classifier(backbone, build_head("linear", 192, 1, 0.0), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ExportError, match=reason):
        served(model, 32)


def test_a_head_with_another_layer_is_refused():
    model = small_classifier("resnet10t")
    model.head.append(nn.Tanh())
    with pytest.raises(ExportError, match="the head holds Tanh"):
        ServingModule(model, [1.0] * 3, [0.0] * 3, SIZE)
