"""Distillation: the loss by hand and at its limits; the teacher's answers, computed once."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from lib.config import Config
from lib.datasets.prepare import read_rows, split_and_label
from lib.datasets.unlabelled import split_films
from lib.exceptions import DatasetError, ModelError
from lib.metrics.calibration import Calibration
from lib.models.batches import Loader, make_loaders
from lib.models.classifier import build_model, load_model, save_model
from lib.models.distil import distil_loss, mixed, soft_answers, soft_bce, with_answers
from lib.models.losses import bce, reduced
from lib.models.training import fit

FINDINGS = ("Cardiomegaly", "Effusion", "Mass")
CONFIG = Config(
    backbone="resnet10t",
    pretrained=False,
    image_size=32,
    epochs=2,
    batch_size=8,
    findings=FINDINGS,
    head="linear",
    accelerator="cpu",
    precision="32-true",
)
NAN = float("nan")


def tensor(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


# --- the loss


def test_the_loss_is_the_mix_of_labels_and_answers_by_hand():
    logits, labels, answers = tensor([[0.0, 1.0]]), tensor([[1.0, 0.0]]), tensor([[0.25, 0.5]])
    total, known = mixed(bce, logits, labels, answers, 0.25, 1.0)
    of_labels = np.log(2) + np.log1p(np.e)
    of_answers = np.log(2) + (np.log1p(np.e) - 0.5)  # log(1 + e^z) - s z
    assert total.item() == pytest.approx(0.75 * of_labels + 0.25 * of_answers, rel=1e-6)
    assert known.item() == 2


def test_where_there_is_no_label_the_answer_counts_alone_and_the_other_way_round():
    logits = tensor([[0.5, -1.0, 2.0]])
    total, known = mixed(
        bce, logits, tensor([[NAN, 1.0, NAN]]), tensor([[0.2, NAN, NAN]]), 0.9, 1.0
    )
    by_hand = (np.log1p(np.exp(0.5)) - 0.2 * 0.5) + np.log1p(np.exp(1.0))
    assert total.item() == pytest.approx(by_hand, rel=1e-6) and known.item() == 2


def test_without_weight_labels_count_as_without_a_teacher():
    logits, labels = tensor([[0.3, -2.0]]), tensor([[1.0, 0.0]])
    total, known = mixed(bce, logits, labels, tensor([[0.1, 0.9]]), 0.0, 3.0)
    assert total.item() == bce(logits, labels)[0].item() and known.item() == 2


def test_at_temperature_1_the_mix_is_cross_entropy_with_mixed_targets():
    rng = np.random.default_rng(0)
    logits, answers = tensor(rng.normal(size=(5, 3))), tensor(rng.uniform(0.01, 0.99, (5, 3)))
    labels = tensor(rng.integers(0, 2, (5, 3)))
    total, _ = mixed(bce, logits, labels, answers, 0.3, 1.0)
    assert total.item() == pytest.approx(
        bce(logits, 0.7 * labels + 0.3 * answers)[0].item(), rel=1e-5
    )


def test_a_student_that_answers_as_its_teacher_has_no_gradient():
    logits = tensor([[-3.0, 0.0, 2.0]]).requires_grad_()
    soft_bce(logits, logits.detach().sigmoid(), 2.0).backward()
    assert logits.grad.abs().max() < 1e-5


def test_at_a_high_temperature_the_gradient_matches_logits_as_hinton_et_al_show():
    # section 2.1, for two classes with log-odds z and v: T^2 dC/dz -> (z - v) / 4
    z, v = np.array([[0.7, -1.2]]), np.array([[-0.4, 0.9]])
    logits = tensor(z).requires_grad_()
    soft_bce(logits, tensor(expit(v)), 200.0).backward()
    np.testing.assert_allclose(logits.grad.numpy(), (z - v) / 4, rtol=1e-3)


def test_answers_of_0_and_1_give_a_finite_loss():
    loss = soft_bce(tensor([[4.0, -4.0]]), tensor([[0.0, 1.0]]), 3.0)
    assert torch.isfinite(loss)


def test_the_loss_of_a_batch_is_the_mean_over_pairs_with_a_label_or_an_answer():
    config = CONFIG.model_copy(update={"teacher": ("t",), "distil_weight": 0.5})
    labels, answers = [[1.0, NAN, NAN]], [[0.5, 0.5, NAN]]
    loss = distil_loss(config, np.array(labels))(
        torch.zeros(1, 3), tensor([labels[0] + answers[0]])
    )
    assert reduced(*loss, "mean").item() == pytest.approx(np.log(2), rel=1e-6)


# --- the answers


def films(count: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 4, 4), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def loader(count: int = 20, **changes) -> Loader:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, (count, 3)).astype(np.float32)
    return Loader(films(40), np.arange(count), targets, 8, **changes)


def teach(folder, seed: int, slope: float = 1.0):
    """Saves an untrained teacher with a calibration; returns its folder."""
    config = CONFIG.model_copy(update={"seed": seed})
    model, count = build_model(config), len(FINDINGS)
    with torch.no_grad():
        model.head[-1].bias.copy_(tensor([-2.0, 0.5, 2.0]))
    method = ["platt" if slope != 1 else "none"] * count
    maps = Calibration.from_maps(FINDINGS, method, [slope] * count, [0.0] * count)
    folder.mkdir(parents=True)
    save_model(folder, model, {**config.network(), "calibration": maps.as_card()})
    return folder


def raw(folder, count: int) -> np.ndarray:
    model, _ = load_model(folder)
    with torch.inference_mode():
        return (
            model(torch.from_numpy(films(40)[:count]).unsqueeze(1).float() / 255).double().numpy()
        )


def test_the_answers_are_the_mean_of_the_calibrated_probabilities(tmp_path):
    folders = [teach(tmp_path / "a", 0), teach(tmp_path / "b", 1, slope=1.5)]
    found = soft_answers(folders, films(40), np.arange(20), CONFIG)
    wanted = (expit(raw(folders[0], 20)) + expit(1.5 * raw(folders[1], 20))) / 2
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_answers_are_kept_by_the_hash_of_model_and_films(tmp_path):
    folder = teach(tmp_path / "a", 0)
    first = soft_answers([folder], films(40), np.arange(20), CONFIG)
    (kept,) = (folder / "answers").glob("*.npy")
    np.save(kept, np.full((20, 3), 0.125, np.float32))  # what is kept is what is read
    again = soft_answers([folder], films(40), np.arange(20), CONFIG)
    assert (again == 0.125).all() and not (first == 0.125).all()


def test_another_model_or_other_films_answer_anew(tmp_path):
    folder = teach(tmp_path / "a", 0)
    soft_answers([folder], films(40), np.arange(20), CONFIG)
    soft_answers([folder], films(40), np.arange(1, 21), CONFIG)
    save_model(
        folder, build_model(CONFIG), json.loads((folder / "card.json").read_text()) | {"x": 1}
    )
    soft_answers([folder], films(40), np.arange(20), CONFIG)
    assert len(list((folder / "answers").glob("*.npy"))) == 3


def test_the_teacher_answers_each_film_as_it_is_and_not_augmented(tmp_path):
    config = CONFIG.model_copy(update={"teacher": (str(teach(tmp_path / "a", 0)),)})
    plain, turned = (with_answers(loader(augment=kind), config).soft for kind in ("none", "full"))
    np.testing.assert_array_equal(plain, turned)


def test_the_card_of_a_student_names_its_teachers(tmp_path):
    folders = (
        str(teach(tmp_path / "study" / "a-s0", 0)),
        str(teach(tmp_path / "study" / "a-s1", 1)),
    )
    config = CONFIG.model_copy(update={"teacher": folders})
    save_model(tmp_path, build_model(config), config.network())
    weights = load_model(tmp_path)[1]["weights"]
    assert weights["taught_by"] == ["study/a-s0", "study/a-s1"]
    assert weights["text"] == "random weights, taught by study/a-s0, study/a-s1"


def test_a_batch_has_the_labels_and_behind_them_the_answers(tmp_path):
    config = CONFIG.model_copy(update={"teacher": (str(teach(tmp_path / "a", 0)),)})
    taught = with_answers(loader(), config)
    batches = list(taught.epoch())
    found = torch.cat([targets for _, targets in batches]).numpy()
    np.testing.assert_array_equal(found, np.concatenate([taught.targets, taught.soft], axis=1))


def test_unlabelled_films_are_learned_from_the_answers_alone(tmp_path):
    config = CONFIG.model_copy(update={"teacher": (str(teach(tmp_path / "a", 0)),)})
    taught = with_answers(loader(unlabelled=np.arange(30, 36)), config)
    assert len(taught.rows) == 26 and taught.per_epoch == 26
    assert np.isnan(taught.targets[20:]).all() and not np.isnan(taught.soft).any()
    assert sum(taught.known_labels()) == 26 * 3


def test_films_of_another_folder_are_unlabelled_but_those_of_held_out_patients(tmp_path):
    names = [f"{i:02d}.png" for i in range(10)]
    patients = ["p0", "p1", "p2", "p3", "p4", "p1", "p2", "p5", "p5", "p4"]
    frame = pd.DataFrame(
        {"image": names, "patient": patients, "answered": [False] * 4 + [True] * 6}
    )
    split = pd.Series(["train", "val", "test", "train", "unused"], name="split")
    found = split_films(frame, split)
    assert list(found[:4]) == ["train", "val", "test", "train"]
    unlabelled, excluded = "unlabelled", "excluded"
    assert list(found[4:]) == [unlabelled, excluded, excluded, unlabelled, unlabelled, unlabelled]


def test_films_of_another_folder_stand_behind_the_labelled_ones_and_train(tiny_phantoms, tmp_path):
    update = {"data_root": str(tiny_phantoms), "data_dir": ("dataset_cardiomegaly",)}
    update |= {"distil_data": "dataset_full", "teacher": (str(teach(tmp_path / "a", 0)),)}
    config = CONFIG.model_copy(update=update | {"findings": ("Cardiomegaly",)})
    data, frame, _ = read_rows(config)
    frame = split_and_label(data, frame, config)
    store = np.zeros((len(frame), 32, 32), np.uint8)
    taught = with_answers(make_loaders(frame, store, config)["train"], config)
    labelled, free = frame["split"] == "train", frame["split"] == "unlabelled"
    assert free.sum() > 0 and not frame.loc[free, "image"].isin(data.frame["image"]).any()
    assert len(taught.rows) == labelled.sum() + free.sum()
    held = frame["split"].isin(["val", "test"])
    assert not set(frame.loc[free, "patient"]) & set(frame.loc[held, "patient"])


def test_films_without_a_teacher_are_refused(tiny_phantoms):
    update = {"data_root": str(tiny_phantoms), "distil_data": "dataset_full"}
    with pytest.raises(DatasetError, match="no teacher answers for them"):
        read_rows(CONFIG.model_copy(update=update))


def test_a_run_without_a_teacher_keeps_its_loader():
    plain = loader()
    assert with_answers(plain, CONFIG) is plain


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 64}, "answers for films of 32 px, but this run's have 64"),
        ({"findings": ("Hernia",)}, "does not answer for Hernia"),
    ],
)
def test_a_teacher_that_cannot_answer_is_refused(tmp_path, change, words):
    with pytest.raises(ModelError, match=words):
        soft_answers(
            [teach(tmp_path / "a", 0)],
            films(40),
            np.arange(4),
            CONFIG.model_copy(update=change),
        )


def test_a_student_of_answers_alone_learns_nothing_from_the_labels(tmp_path):
    update = {"distil_weight": 1.0, "epochs": 1, "head_bias": "random", "choose_epoch_by": "last"}
    config = CONFIG.model_copy(update={**update, "teacher": (str(teach(tmp_path / "a", 3)),)})
    train, val = loader(8), loader(8)
    wrong = dataclasses.replace(train, targets=1 - train.targets)
    one, other, untaught = (build_model(config) for _ in range(3))
    fit(one, train, val, config, tmp_path / "one")
    fit(other, wrong, val, config, tmp_path / "other")
    fit(untaught, train, val, config.model_copy(update={"teacher": ()}), tmp_path / "untaught")
    assert torch.equal(one.head[-1].weight, other.head[-1].weight)
    assert not torch.equal(one.head[-1].weight, untaught.head[-1].weight)


def test_an_interrupted_student_ends_with_the_same_weights(tmp_path):
    config = CONFIG.model_copy(update={"teacher": (str(teach(tmp_path / "a", 0)),)})
    one, other = build_model(config), build_model(config)
    fit(one, loader(8, shuffle=True), loader(8), config, tmp_path / "one")

    def stop(row: dict) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(other, loader(8, shuffle=True), loader(8), config, tmp_path / "other", on_epoch=stop)
    fit(other, loader(8, shuffle=True), loader(8), config, tmp_path / "other")
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
