"""Training: the masked loss, exact resume after SIGKILL, true copies of the best weights,
loaders."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch.nn.functional import affine_grid as torch_affine_grid

from lib.config import FINDINGS, REPO_ROOT, Config
from lib.exceptions import CxrError
from lib.metrics.scores import auroc, epoch_score
from lib.models.batches import Loader, affine_grid, augment_batch, make_loaders, random_affine
from lib.models.classifier import build_model
from lib.models.losses import class_weights
from lib.models.training import (
    CHECKPOINT,
    build_optimizer,
    fit,
    lr_factor,
    make_fabric,
    predict,
    start_at_prevalence,
)

CONFIG = Config(
    backbone="resnet10t",
    pretrained=False,
    image_size=32,
    epochs=4,
    batch_size=8,
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.05,
    ema=0.9,
    augment="full",
    findings=("Mass", "Nodule"),
    accelerator="cpu",
)


def films(count: int = 40, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Films whose brightness tells the first finding; some labels are unknown."""
    rng = np.random.default_rng(0)
    targets = (rng.random((count, 2)) < 0.5).astype(np.float32)
    store = rng.integers(0, 120, (count, size, size)).astype(np.uint8)
    store[targets[:, 0] == 1] += 60
    targets[::7, 1] = np.nan
    return store, targets


def loaders(config: Config) -> tuple[Loader, Loader]:
    store, targets = films()
    train, val = np.arange(28), np.arange(28, 40)
    return (
        Loader(
            store,
            train,
            targets[train],
            config.batch_size,
            config.augment,
            shuffle=True,
            seed=config.seed,
        ),
        Loader(store, val, targets[val], config.batch_size),
    )


def train_in(folder: Path) -> dict[str, torch.Tensor]:
    """What the killed process and the undisturbed one both do: fit and save the best weights."""
    torch.set_num_threads(1)
    (folder / "started").touch()
    model = build_model(CONFIG)
    pause = float(os.environ.get("PAUSE_AFTER_EPOCH", "0"))
    history = fit(model, *loaders(CONFIG), CONFIG, folder, on_epoch=lambda row: time.sleep(pause))
    history.drop(columns="seconds").to_csv(folder / "history.csv")
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")
    return state


@pytest.fixture
def start_training(popen):
    """Starts `train_in(folder)` in a process of its own, that can be killed."""

    def start(folder: Path, **environment: str) -> subprocess.Popen:
        code = f"from pathlib import Path; from tests.test_training import train_in; train_in(Path({str(folder)!r}))"
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPO_ROOT),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        return popen([sys.executable, "-c", code], cwd=REPO_ROOT, env=environment)

    return start


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, f"the training ended before there was {path.name}"
        time.sleep(0.02)


def test_the_head_starts_at_the_smoothed_log_odds_of_each_finding():
    targets = np.array([[1, 0], [0, 0], [0, np.nan], [np.nan, 0]])
    model = build_model(CONFIG)
    start_at_prevalence(model, targets, CONFIG)
    assert model.head[-1].bias.tolist() == pytest.approx([np.log(2 / 3), np.log(1 / 4)])


def test_balanced_positives_count_in_the_heads_first_bias_as_in_the_loss():
    targets = np.array([[1], [0], [0], [0]])
    config = CONFIG.model_copy(update={"findings": ("Mass",), "pos_weight": "balanced"})
    model = build_model(config)
    start_at_prevalence(model, targets, config)
    assert model.head[-1].bias.item() == pytest.approx(np.log(2 / 4 * 3))


@pytest.mark.parametrize(("head_bias", "moved"), [("prior", True), ("random", False)])
def test_training_starts_at_the_prevalence_where_the_config_asks_for_it(tmp_path, head_bias, moved):
    config = CONFIG.model_copy(
        update={"head_bias": head_bias, "lr": 1e-30, "epochs": 1, "ema": 0.0}
    )
    model = build_model(config)
    before = model.head[-1].bias.detach().clone()
    fit(model, *loaders(config), config, tmp_path)
    assert (not torch.allclose(model.head[-1].bias, before)) == moved


@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224"])
def test_weight_decay_spares_biases_norms_position_embeddings_and_class_tokens(backbone):
    config = CONFIG.model_copy(update={"backbone": backbone, "head": "mlp"})
    model = build_model(config)
    groups = build_optimizer(model, config).param_groups
    decayed = {
        id(weight) for group in groups if group["weight_decay"] for weight in group["params"]
    }
    spared = {name for name, weight in model.named_parameters() if id(weight) not in decayed}
    tokens = {"backbone.pos_embed", "backbone.cls_token"}
    assert spared == {
        name for name, weight in model.named_parameters() if weight.ndim == 1 or name in tokens
    }


@pytest.mark.parametrize(
    ("rule", "epoch"), [("auroc", 2), ("loss", 1), ("last", 4), ("cardiomegaly_accuracy", 3)]
)
def test_the_epoch_that_is_kept_is_the_one_that_the_rule_prefers(rule, epoch):
    accuracy = [0.1, 0.2, 0.9, 0.3]
    history = pd.DataFrame(
        {"epoch": [1, 2, 3, 4], "val_auroc": [0.5, 0.8, 0.7, 0.6], "val_loss": [0.1, 0.4, 0.3, 0.2]}
    )
    history["val_cardiomegaly_accuracy"] = accuracy
    assert history.loc[epoch_score(history, rule).idxmax(), "epoch"] == epoch


def test_training_by_the_last_epoch_ends_with_its_weights(tmp_path):
    config = CONFIG.model_copy(update={"choose_epoch_by": "last", "ema": 0.0})
    train, val = loaders(config)
    model = build_model(config)
    history = fit(model, train, val, config, tmp_path)
    scores = [
        auroc(t, p) for t, p in zip(val.targets.T, predict(model, val, config).T, strict=True)
    ]
    assert np.mean(scores) == pytest.approx(history["val_auroc"].iloc[-1])


def test_the_history_holds_the_cardiomegaly_accuracy_that_chose(tmp_path):
    changes = {
        "choose_epoch_by": "cardiomegaly_accuracy",
        "findings": ("Cardiomegaly", "Mass"),
        "ema": 0.0,
    }
    config = CONFIG.model_copy(update=changes)
    train, val = loaders(config)
    model = build_model(config)
    history = fit(model, train, val, config, tmp_path)
    right = (predict(model, val, config)[:, 0] >= 0.5) == (val.targets[:, 0] == 1)
    assert history["val_cardiomegaly_accuracy"].max() == pytest.approx(right.mean())


def test_choosing_by_cardiomegaly_needs_labels_of_it_in_validation(tmp_path):
    changes = {"choose_epoch_by": "cardiomegaly_accuracy", "findings": ("Cardiomegaly", "Mass")}
    config = CONFIG.model_copy(update=changes)
    train, val = loaders(config)
    val.targets[:, 0] = np.nan
    val.targets[:2, 1] = [0, 1]
    with pytest.raises(CxrError, match="no validation image is labelled for Cardiomegaly"):
        fit(build_model(config), train, val, config, tmp_path)


def test_choosing_by_cardiomegaly_needs_it_among_the_findings():
    with pytest.raises(
        ValueError, match="cardiomegaly_accuracy needs Cardiomegaly among the findings"
    ):
        Config(findings="Mass", choose_epoch_by="cardiomegaly_accuracy")


def test_a_training_makes_one_fabric(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "lib.models.training.make_fabric",
        lambda *asked: made.append(make_fabric(*asked)) or made[-1],
    )
    fit(build_model(CONFIG), *loaders(CONFIG), CONFIG, tmp_path)
    assert len(made) == 1


def test_learning_rate_warms_up_and_falls_to_zero():
    config = CONFIG.model_copy(update={"warmup": 0.1})
    factors = [lr_factor(step, 100, config) for step in range(100)]
    assert factors[:10] == sorted(factors[:10]) and factors[10] == 1 and factors[-1] < 0.001
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_layer_decay_slows_the_stem_and_leaves_the_head_at_full_rate():
    config = CONFIG.model_copy(update={"layer_decay": 0.5})
    model = build_model(config)
    scales = {
        id(weight): group["lr_scale"]
        for group in build_optimizer(model, config).param_groups
        for weight in group["params"]
    }
    stem = scales[id(next(model.backbone.parameters()))]
    assert scales[id(model.head[0].weight)] == 1.0 and stem < 0.1


def test_training_learns_and_keeps_the_best_epoch(tmp_path):
    config = CONFIG.model_copy(update={"epochs": 6, "augment": "none", "ema": 0.0})
    train, val = loaders(config)
    model = build_model(config)
    history = fit(model, train, val, config, tmp_path)
    again = predict(model, val, config)
    kept = np.mean([auroc(t, p) for t, p in zip(val.targets.T, again.T, strict=True)])
    assert kept == pytest.approx(history["val_auroc"].max())
    assert auroc(val.targets[:, 0], again[:, 0]) > 0.9


def test_a_killed_training_ends_with_the_same_weights_bit_for_bit(tmp_path, start_training):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    wanted = train_in(whole)
    process = start_training(killed, PAUSE_AFTER_EPOCH="30")
    wait_for(killed / "last.ckpt", process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert start_training(killed).wait() == 0
    found = safetensors.torch.load_file(killed / "model.safetensors")
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    assert (killed / "history.csv").read_text() == (whole / "history.csv").read_text()


def test_kills_at_random_moments_change_nothing(tmp_path, start_training):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    wanted = train_in(whole)
    seed = time.time_ns() % 10**6
    rng = np.random.default_rng(seed)
    for _ in range(2):
        (killed / "started").unlink(missing_ok=True)
        process = start_training(killed)
        wait_for(killed / "started", process)
        time.sleep(rng.uniform(0, 2))  # from before the first batch to after the last
        process.kill()
        process.wait()
    assert start_training(killed).wait() == 0, f"seed {seed}"
    found = safetensors.torch.load_file(killed / "model.safetensors")
    assert all(torch.equal(found[key], value) for key, value in wanted.items()), f"seed {seed}"


def test_who_follows_the_epochs_is_told_of_those_before_an_interruption_too(tmp_path):
    def stop(row: dict) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(build_model(CONFIG), *loaders(CONFIG), CONFIG, tmp_path, on_epoch=stop)
    rows: list[dict] = []
    history = fit(
        build_model(CONFIG),
        *loaders(CONFIG),
        CONFIG,
        tmp_path,
        on_epoch=lambda row: rows.append(row),
    )
    assert CONFIG.epochs > 2 and rows == history.to_dict("records")


def test_resume_refuses_a_checkpoint_of_other_parameters(tmp_path):
    fit(build_model(CONFIG), *loaders(CONFIG), CONFIG, tmp_path)
    other = CONFIG.model_copy(update={"lr": 0.5})
    with pytest.raises(CxrError, match="other parameters"):
        fit(build_model(other), *loaders(other), other, tmp_path)


def test_a_diverging_loss_is_an_error_that_says_what_to_change(tmp_path):
    config = CONFIG.model_copy(update={"lr": 1e30, "clip_norm": 0.0, "ema": 0.0})
    with pytest.raises(CxrError, match="lower lr"):
        fit(build_model(config), *loaders(config), config, tmp_path)


def test_validation_with_one_class_is_refused_before_training(tmp_path):
    train, val = loaders(CONFIG)
    val.targets[:] = 0
    with pytest.raises(CxrError, match="validation"):
        fit(build_model(CONFIG), train, val, CONFIG, tmp_path)


def test_batches_cover_every_image_once_and_differ_by_at_most_one():
    store, targets = films()
    store[:, 0, 0] = np.arange(40)
    loader = Loader(store, np.arange(33), targets[:33], 8, shuffle=True, seed=3)
    batches = [images for images, _ in loader.epoch(1)]
    seen = torch.cat([images[:, 0, 0, 0] for images in batches]).mul(255).round().int().tolist()
    assert sorted(seen) == list(range(33)) and seen != sorted(seen)
    assert {len(images) for images in batches} == {6, 7} and len(batches) == len(loader)


def test_batches_made_ahead_are_the_same():
    store, targets = films()
    loader = Loader(store, np.arange(40), targets, 8, "full", shuffle=True, seed=1)
    pairs = zip(loader.epoch(2), loader.epoch(2, ahead=True), strict=True)
    assert all(
        torch.equal(a, b) and torch.equal(s.nan_to_num(9), t.nan_to_num(9))
        for (a, s), (b, t) in pairs
    )


def test_a_longer_epoch_shows_every_image_about_equally_often():
    store = np.zeros((10, 2, 2), np.uint8)
    targets = np.arange(10, dtype=np.float32)[:, None]
    loader = Loader(store, np.arange(10), targets, 8, shuffle=True, per_epoch=34)
    sizes = [len(images) for images, _ in loader.epoch(0)]
    seen = np.concatenate([labels.numpy()[:, 0] for _, labels in loader.epoch(0)])
    assert len(loader) == len(sizes) == 5 and sum(sizes) == 34
    assert set(np.bincount(seen.astype(int))) == {3, 4}
    assert sorted(seen[:10]) == list(range(10))


def test_less_data_is_not_less_training():
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(60)], "patient": range(60)})
    frame["split"] = ["train"] * 10 + ["unused"] * 30 + ["val"] * 10 + ["test"] * 10
    frame[list(FINDINGS)] = 1.0
    loader = make_loaders(frame, np.zeros((60, 16, 16), np.uint8), Config(batch_size=8))["train"]
    assert len(loader.rows) == 10 and len(loader) == 5


def test_balanced_sources_give_an_epoch_as_many_images_and_its_length_stays():
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(60)], "patient": range(60)})
    frame["split"] = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    frame["source"] = ["small"] * 8 + ["large"] * 52
    frame[list(FINDINGS)] = 1.0
    config = Config(batch_size=8, balance_sources=True, augment="none")
    loader = make_loaders(frame, np.zeros((60, 16, 16), np.uint8), config)["train"]
    order = loader._order(0)
    assert len(loader) == 5 and len(order) == 40
    assert set(np.bincount(order)[:8]) <= {2, 3} and (order < 8).sum() == 20
    assert np.bincount(order)[8:].max() == 1
    assert (order == loader._order(0)).all() and (order != loader._order(1)).any()


def test_a_soft_target_counts_in_part():
    targets = np.array([[0.7], [1.0], [0.0], [np.nan]], dtype=np.float32)
    positives, negatives = class_weights(targets)
    assert positives[0] == pytest.approx(1.7) and negatives[0] == pytest.approx(1.3)


def test_an_epoch_is_the_same_for_the_same_seed_and_another_for_another():
    store, targets = films()
    first, again, other = (
        Loader(store, np.arange(40), targets, 8, "full", shuffle=True, seed=seed)
        for seed in (1, 1, 2)
    )
    a, b, c = (
        torch.cat([images for images, _ in loader.epoch(5)]) for loader in (first, again, other)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("kind", ["none", "rotate", "full"])
def test_augmented_images_stay_in_range_and_keep_one_grey_channel(kind):
    images = torch.from_numpy(films()[0])
    batch = augment_batch(images, kind, torch.Generator().manual_seed(0))
    assert batch.shape == (40, 1, 32, 32) and batch.dtype == torch.float32
    assert batch.min() >= 0 and batch.max() <= 1


def test_affine_grid_equals_torch():
    matrices = random_affine(5, 0.2, 0.1, 0.1, torch.Generator().manual_seed(0))
    ours, theirs = (
        affine_grid(matrices, 17),
        torch_affine_grid(matrices, [5, 1, 17, 17], align_corners=False),
    )
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_an_empty_split_is_refused():
    store, targets = films()
    with pytest.raises(CxrError, match="empty"):
        Loader(store, np.arange(0), targets[:0], 8)


def test_a_checkpoint_of_another_version_is_kept_aside(tmp_path):
    train, val = loaders(CONFIG)
    fit(build_model(CONFIG), train, val, CONFIG, tmp_path)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.save(
        {name: value for name, value in content.items() if name != "version"},
        tmp_path / "last.ckpt",
    )
    with pytest.warns(UserWarning, match=r"of another version \(version 1, this code writes"):
        assert len(fit(build_model(CONFIG), train, val, CONFIG, tmp_path)) == CONFIG.epochs
    assert list(tmp_path.glob("last.ckpt.damaged-*"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_kept_aside_and_training_begins_anew(tmp_path, content):
    (tmp_path / CHECKPOINT).write_bytes(content)
    config = CONFIG.model_copy(update={"epochs": 1})
    with pytest.warns(
        UserWarning,
        match=r"last.ckpt is damaged or of .* kept as last.ckpt.damaged-.*, and training starts over",
    ):
        history = fit(build_model(config), *loaders(config), config, tmp_path)
    assert len(history) == 1 and next(tmp_path.glob("last.ckpt.damaged-*")).read_bytes() == content


def test_a_batch_systems_environment_changes_no_run(monkeypatch):
    for name, value in {
        "SLURM_NTASKS": "4",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "cxr",
        "SLURM_PROCID": "1",
    }.items():
        monkeypatch.setenv(name, value)
    fabric = make_fabric(CONFIG, build_model(CONFIG))
    assert fabric.world_size == 1 and fabric.global_rank == 0


def begun_anew(folder: Path) -> bool:
    """Whether training with the checkpoint in `folder` gives what it gives without one, and warns."""
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged .* training starts over"):
        again = build_model(CONFIG)
        fit(again, *loaders(CONFIG), CONFIG, folder)
    fresh = build_model(CONFIG)
    fit(fresh, *loaders(CONFIG), CONFIG, folder / "fresh")
    pairs = zip(again.state_dict().values(), fresh.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_one_wrong_bit_in_a_checkpoint_is_noticed(tmp_path):
    fit(build_model(CONFIG), *loaders(CONFIG), CONFIG, tmp_path)
    data = bytearray((tmp_path / CHECKPOINT).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / CHECKPOINT).write_bytes(data)
    assert begun_anew(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", {}),
        ("ema", {}),
        ("optimizer", {}),
        ("best", {}),
        ("best_score", None),
        ("history", [{}]),
        ("step", 1),
        ("random", {}),
    ],
)
def test_a_checkpoint_with_a_damaged_part_changes_nothing(tmp_path, key, value):
    fit(build_model(CONFIG), *loaders(CONFIG), CONFIG, tmp_path)
    content = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    torch.save(content | {key: value}, tmp_path / CHECKPOINT)
    assert begun_anew(tmp_path)
