"""Losses: each against its plain formula, over the known labels alone."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor

from lib.config import Config
from lib.exceptions import StudyError
from lib.metrics.calibration import fit_calibration
from lib.models.losses import asl, balanced_pos_weight, bce, focal, make_loss, reduced

LOSSES = {"bce": bce, "asl": asl, "focal": focal}
UNKNOWN = float("nan")


def batch(rows: int = 6, findings: int = 4) -> tuple[Tensor, Tensor]:
    """Logits and targets, a third of them unknown."""
    rng = np.random.default_rng(0)
    logits = torch.tensor(3 * rng.normal(size=(rows, findings)), dtype=torch.float32)
    targets = rng.choice([0.0, 1.0, UNKNOWN], size=(rows, findings))
    return logits.requires_grad_(), torch.tensor(targets, dtype=torch.float32)


def plain(name: str, logits: Tensor, targets: Tensor) -> float:
    """The sum over the known labels, label by label, as the papers write it."""
    total = 0.0
    for z, y in zip(logits.detach().double().ravel(), targets.ravel(), strict=True):
        if y.isnan():
            continue
        p = float(1 / (1 + torch.exp(-z)))
        if name == "bce":
            total -= np.log(p) if y == 1 else np.log(1 - p)
        if name == "focal":
            total -= 0.25 * (1 - p) ** 2 * np.log(p) if y == 1 else 0.75 * p**2 * np.log(1 - p)
        if name == "asl":
            less = max(p - 0.05, 0)
            total -= (1 - p) * np.log(p) if y == 1 else less**4 * np.log(1 - less)
    return total


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_plain_formula_over_the_known_labels(name):
    logits, targets = batch()
    total, known = LOSSES[name](logits, targets)
    assert total.item() == pytest.approx(plain(name, logits, targets), rel=1e-5)
    assert known.item() == (~targets.isnan()).sum()


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_labels_have_no_gradient(name):
    logits, targets = batch()
    LOSSES[name](logits, targets)[0].backward()
    assert (logits.grad[targets.isnan()] == 0).all() and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_images_without_a_label_change_nothing(name):
    logits, targets = batch()
    more = torch.cat([logits, torch.ones(3, 4)]), torch.cat([targets, torch.full((3, 4), UNKNOWN)])
    mean = reduced(*LOSSES[name](logits, targets), "mean")
    assert reduced(*LOSSES[name](*more), "mean").item() == pytest.approx(mean.item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_labels_has_loss_zero_and_no_gradient(name):
    logits = torch.ones(2, 3, requires_grad=True)
    loss = reduced(*LOSSES[name](logits, torch.full((2, 3), UNKNOWN)), "mean")
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().sum() == 0


def test_the_mean_is_over_known_labels_only():
    targets = torch.tensor([[1.0, UNKNOWN], [0.0, UNKNOWN]])
    total, known = bce(torch.tensor([[0.0, 2.0], [1.0, -1.0]]), targets)
    by_hand = np.log(2) + np.log1p(np.e)
    assert reduced(total, known, "mean").item() == pytest.approx(by_hand / 2, rel=1e-6)
    assert reduced(total, known, "sum").item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_that_of_torch_to_the_bit(weighted):
    logits, targets = batch(64, 14)
    known = ~targets.isnan()
    config = Config(pos_weight="balanced" if weighted else "none")
    weight = balanced_pos_weight(targets.numpy()) if weighted else None
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets.nan_to_num(), pos_weight=weight, reduction="none"
    )
    made = reduced(*make_loss(config, targets.numpy())(logits, targets), "mean")
    assert torch.equal(made, (each * known).sum() / known.sum())


@pytest.mark.parametrize("name", ["asl", "focal"])
def test_soft_targets_lie_between_those_of_both_classes(name):
    logits = torch.tensor([[0.7]])
    low, soft, high = sorted(
        LOSSES[name](logits, torch.tensor([[y]]))[0].item() for y in (0.0, 0.5, 1.0)
    )
    assert low < soft < high


def test_weights_of_positives_are_refused_with_a_loss_that_has_its_own():
    with pytest.raises(
        StudyError, match=r"'pos_weight' is 'balanced': it must be 'none' with loss"
    ):
        Config.from_namespace({"loss": "asl", "pos_weight": "balanced"})


def test_the_default_loss_changes_no_hash():
    assert Config(loss="bce").hash() == Config().hash() != Config(loss="focal").hash()


def test_balanced_weight_counts_negatives_per_positive_and_skips_unknown():
    targets = np.array([[1, 0], [0, 0], [0, np.nan], [np.nan, 0]])
    assert balanced_pos_weight(targets).tolist() == [2.0, 1.0]


def learned(name: str, features: Tensor, targets: Tensor) -> Tensor:
    """The weight and bias of a logistic model that has the least loss."""
    weights = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimizer.zero_grad()
        logits = features * weights[0] + weights[1]
        loss = reduced(*LOSSES[name](logits, targets), "mean")
        loss.backward()
        return loss

    optimizer.step(step)
    return weights.detach()


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_loss_does_to_probabilities_calibration_undoes(name):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(9000, 1))
    truth = expit(1.5 * features - 2)
    targets = (rng.random(truth.shape) < truth).astype(float)
    train, val, test = slice(0, 3000), slice(3000, 6000), slice(6000, 9000)
    weights = learned(name, torch.tensor(features[train]), torch.tensor(targets[train])).numpy()
    probs = expit(features * weights[0] + weights[1])
    maps = fit_calibration(targets[val], probs[val], np.arange(3000), ["Mass"])
    off = np.abs(maps.apply(probs[test]) - truth[test]).mean()
    raw = np.abs(probs[test] - truth[test]).mean()
    assert off < 0.05 and (name == "bce" or off < raw / 2)
