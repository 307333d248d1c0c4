"""Train a model and predict with it; interrupted training resumes exactly.

In: a model, loaders and a config. Out: the best weights by validation, a history, and
probabilities.
"""

import copy
import logging
import math
import pickle
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib.config import Config
from lib.exceptions import ModelError
from lib.files import atomic_write
from lib.metrics.predictions import Predictions
from lib.metrics.scores import auroc, average_precision, epoch_score, mean_defined
from lib.models.batches import Loader
from lib.models.classifier import Classifier, count_parameters
from lib.models.losses import balanced_pos_weight, make_loss, reduced

CHECKPOINT = "last.ckpt"
CHECKPOINT_VERSION = 2
"""Increase this when the same config trains differently than before. Training then does not resume
from a checkpoint of the older code."""


def make_fabric(config: Config, model: nn.Module) -> Fabric:
    """Return a Fabric with one device and the precision of the config.

    `auto` means bf16-mixed where that is faster, else 32-true.
    """
    alone = {
        "devices": 1,
        "plugins": LightningEnvironment(),
    }  # ignore any batch system of this machine
    fabric = Fabric(accelerator=config.accelerator, precision="32-true", **alone)
    if config.precision == "32-true" or (
        config.precision == "auto" and not bf16_helps(fabric.device, model)
    ):
        return fabric
    logger = logging.getLogger("lightning_fabric.utilities.rank_zero")
    level = logger.level
    logger.setLevel(
        logging.WARNING
    )  # it logs the precision every time, and the record holds it already
    try:
        return Fabric(accelerator=config.accelerator, precision="bf16-mixed", **alone)
    finally:
        logger.setLevel(level)


def bf16_helps(device: torch.device, model: nn.Module) -> bool:
    """Return whether the hardware supports bf16 and this model gains from it.

    NVIDIA GPUs since Ampere and CPUs with AVX512-BF16 or AMX support bf16. On such CPUs, depthwise
    convolutions, as in EfficientNets, run at about half speed in bf16.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features: dict[str, bool] = (
        getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    )
    depthwise = any(
        isinstance(part, nn.Conv2d) and part.groups == part.in_channels > 1
        for part in model.modules()
    )
    return bool(features.get("avx512_bf16") or features.get("amx_bf16")) and not depthwise


def describe_device(fabric: Fabric) -> dict[str, Any]:
    """Describe the device for the record: kind, name, precision, threads and peak memory."""
    device = {"kind": fabric.device.type, "precision": str(fabric.strategy.precision.precision)}
    if fabric.device.type != "cuda":
        return {**device, "threads": torch.get_num_threads()}
    peak = torch.cuda.max_memory_allocated(fabric.device) / 2**20
    return {
        **device,
        "name": torch.cuda.get_device_name(fabric.device),
        "peak_memory_mb": round(peak, 1),
    }


def start_at_prevalence(model: Classifier, targets: np.ndarray, config: Config) -> None:
    """Set the head's last bias to the log-odds of each finding in targets (N, F).

    One image per class is added to the counts. After Lin et al. (2017), "Focal loss for dense
    object detection": otherwise rare findings start at 0.5, and the first steps only learn how rare
    they are. With `pos_weight: balanced`, positives count by their weight in the loss.
    """
    positives, negatives = (targets == 1).sum(0) + 1.0, (targets == 0).sum(0) + 1.0
    log_odds = torch.tensor(np.log(positives / negatives), dtype=torch.float32)
    if config.pos_weight == "balanced":
        log_odds += balanced_pos_weight(targets).log()
    bias = model.head[-1].bias
    with torch.no_grad():
        bias.copy_(log_odds)


def build_optimizer(model: Classifier, config: Config) -> torch.optim.Optimizer:
    """Build Adam or AdamW with layer-wise learning rates and selective weight decay.

    Only matrices and kernels decay: biases, norms and what timm names for the backbone (position
    embeddings, class tokens) do not. Layer-wise decay with `layer_decay` follows BEiT (Bao et al.
    2022) as in timm: deeper groups learn faster, the head at `lr`.
    """
    exempt = model.backbone.no_weight_decay() if hasattr(model.backbone, "no_weight_decay") else ()
    groups = param_groups_layer_decay(
        model.backbone, config.weight_decay, exempt, layer_decay=config.layer_decay
    )
    head = [weight for weight in model.head.parameters() if weight.requires_grad]
    decayed, plain = (
        [weight for weight in head if (weight.ndim > 1) == wanted] for wanted in (True, False)
    )
    groups.append({"params": plain, "weight_decay": 0.0, "lr_scale": 1.0})
    groups.append({"params": decayed, "weight_decay": config.weight_decay, "lr_scale": 1.0})
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind([group for group in groups if group["params"]], lr=config.lr, fused=True)


def lr_factor(step: int, steps: int, config: Config) -> float:
    """Return the factor of the learning rate at `step` of `steps`.

    It is a linear warm-up, then cosine decay to 0, or constant.
    """
    warm = round(config.warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def fit(
    model: Classifier,
    train: Loader,
    val: Loader,
    config: Config,
    folder: Path,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> pd.DataFrame:
    """Train `model` in place, keep the weights of the best epoch, and return the history.

    `choose_epoch_by` of the config says which epoch is best on validation. The history has one row
    per epoch with train_loss, val_loss (binary cross-entropy, whatever `loss` is), val_auroc,
    val_average_precision, lr, seconds, and val_cardiomegaly_accuracy if it chooses the epoch.
    `on_epoch` is called with each row.

    After every epoch, `last.ckpt` in `folder` holds everything needed to resume. When called again
    with the same arguments, training continues from it and ends with the same weights, bit for bit
    on one CPU with the same number of threads. Raises ModelError when no epoch can be chosen on
    validation, and on a NaN loss.
    """
    _check_validation(val.targets, config)
    if config.head_bias == "prior":
        start_at_prevalence(model, train.targets, config)
    fabric = make_fabric(config, model)
    model.to(memory_format=torch.channels_last)
    state = _State(model, fabric, config, len(train) * config.epochs)
    state.load(folder / CHECKPOINT)
    with tqdm(
        total=state.steps, initial=state.step, desc="training", unit="batch", mininterval=1
    ) as bar:
        for epoch in range(len(state.history), config.epochs):
            started = time.perf_counter()
            loss = _train_epoch(state, train, epoch, bar)
            scores = _score(state, val)
            row = {
                "epoch": epoch + 1,
                "train_loss": loss,
                **scores,
                "lr": state.optimizer.param_groups[-1]["lr"],
            }
            state.keep({**row, "seconds": time.perf_counter() - started})
            state.save(folder / CHECKPOINT)
            bar.set_postfix(
                epoch=epoch + 1, loss=f"{loss:.3f}", val_auroc=f"{scores['val_auroc']:.3f}"
            )
            if on_epoch:
                on_epoch(state.history[-1])
    model.load_state_dict(state.best)
    return pd.DataFrame(state.history)


@torch.inference_mode()
def predict(
    model: nn.Module, loader: Loader, config: Config, fabric: Fabric | None = None
) -> np.ndarray:
    """Return probabilities (N, F) float32 of a loader's images, in its order.

    The model is left in evaluation mode. Pass a `fabric` of `make_fabric` to avoid making another.
    """
    fabric = fabric or make_fabric(config, model)
    model.to(fabric.device, memory_format=torch.channels_last).eval()
    parts = []
    for images, _ in loader.epoch(ahead=fabric.device.type != "cpu"):
        images = images.to(fabric.device, memory_format=torch.channels_last)
        with fabric.autocast():
            logits = model(images)
        parts.append(logits.float().sigmoid().cpu())
    return torch.cat(parts).numpy()


def predict_splits(
    model: nn.Module, loaders: Mapping[str, Loader], config: Config
) -> dict[str, Predictions]:
    """Return the predictions for every split except train."""
    fabric = make_fabric(config, model)
    found = {}
    for split, loader in loaders.items():
        if split != "train":
            probs = predict(model, loader, config, fabric)
            found[split] = Predictions(
                config.findings, loader.images, loader.patients, loader.targets, probs
            )
    return found


def model_cost(model: Classifier, config: Config) -> dict[str, Any]:
    """Return what the record holds of the model: parameters, CPU ms per image, the device, and
    where its first weights came from."""
    return {
        "parameters": count_parameters(model),
        "cpu_latency_ms": cpu_latency_ms(model, config.image_size),
        "device": describe_device(make_fabric(config, model)),
        "weights": model.weights,
    }


@torch.inference_mode()
def cpu_latency_ms(model: Classifier, image_size: int, repeats: int = 30) -> float:
    """Return milliseconds per image on this CPU: float32, eager, current number of threads.

    This is the minimum of `repeats`, as `timeit` advises: anything above it is other work on the
    machine.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    image = torch.rand(1, 1, image_size, image_size)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        model(image)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds)


class _State:
    """Everything that changes during training, and its checkpoint."""

    def __init__(self, model: Classifier, fabric: Fabric, config: Config, steps: int):
        torch.manual_seed(config.seed)
        optimizer = build_optimizer(model, config)
        self.config, self.fabric, self.steps, self.step = config, fabric, steps, 0
        self.net, self.fabric_optimizer = fabric.setup(model, optimizer)
        self.model, self.optimizer = model, optimizer
        self.ema = ModelEmaV3(model, decay=config.ema, use_warmup=True) if config.ema else None
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_score = -math.inf

    @property
    def evaluated(self) -> nn.Module:
        return self.ema.module if self.ema else self.model

    def keep(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        score = epoch_score(row, self.config.choose_epoch_by)
        if score > self.best_score:
            self.best_score = score
            self.best = {
                key: value.detach().cpu().clone()
                for key, value in self.evaluated.state_dict().items()
            }

    def save(self, path: Path) -> None:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        content = {
            "version": CHECKPOINT_VERSION,
            "config": self.config.hash(),
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else {},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
            "best": self.best,
            "best_score": self.best_score,
            "history": self.history,
        }
        with atomic_write(path) as partial:
            torch.save(content, partial)

    def load(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            if content.get("version") != CHECKPOINT_VERSION:
                raise ValueError(
                    f"version {content.get('version', 1)}, this code writes {CHECKPOINT_VERSION}"
                )
        except (
            RuntimeError,
            OSError,
            EOFError,
            pickle.UnpicklingError,
            zipfile.BadZipFile,
            ValueError,
        ) as error:
            aside = path.rename(
                path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
            )
            reason = (str(error).strip() or "it ends too early").splitlines()[0]
            warnings.warn(
                f"{path} is damaged or of another version ({reason}); "
                f"it was kept as {aside.name}, and training starts over",
                stacklevel=2,
            )
            return
        if content["config"] != self.config.hash():
            raise ModelError(
                f"{path} was written by a run with other parameters; use another run_dir or delete the file"
            )
        self.model.load_state_dict(content["model"])
        if self.ema:
            self.ema.module.load_state_dict(content["ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.best, self.best_score = (
            content["step"],
            content["best"],
            content["best_score"],
        )
        self.history = content["history"]
        torch.set_rng_state(content["random"]["cpu"])
        if torch.cuda.is_available() and content["random"]["cuda"]:
            torch.cuda.set_rng_state_all(content["random"]["cuda"])


def _train_epoch(state: _State, train: Loader, epoch: int, bar: tqdm) -> float:
    """Train on all images once; return the mean loss of the batches."""
    config, device = state.config, state.fabric.device
    loss_of = make_loss(config, train.targets, device)
    state.net.train()
    losses = []
    for images, targets in train.epoch(epoch, ahead=device.type != "cpu"):
        factor = lr_factor(state.step, state.steps, config)
        for group in state.optimizer.param_groups:
            group["lr"] = config.lr * group["lr_scale"] * factor
        images = images.to(device, memory_format=torch.channels_last)
        total, known = loss_of(state.net(images).float(), targets.to(device))
        loss = reduced(total, known, config.loss_reduction)
        state.fabric.backward(loss)
        if config.clip_norm:
            nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm)
        state.fabric_optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        if state.ema:
            state.ema.update(state.model, step=state.step)
        losses.append(loss.detach())
        bar.update()
    mean = torch.stack(losses).mean().item()
    if not math.isfinite(mean):
        raise ModelError(
            f"the training loss of epoch {epoch + 1} is {mean}: lower lr, raise warmup or clip_norm"
        )
    return mean


def _check_validation(targets: np.ndarray, config: Config) -> None:
    """Raise ModelError when no epoch can be chosen with validation targets (N, F)."""
    if np.isnan(_mean([auroc(t, np.zeros(len(t))) for t in targets.T])):
        raise ModelError(
            "no finding has both a positive and a negative in validation: use more data or val_fraction"
        )
    if config.choose_epoch_by != "cardiomegaly_accuracy":
        return
    if np.isnan(targets[:, config.findings.index("Cardiomegaly")]).all():
        raise ModelError(
            "no validation image is labelled for Cardiomegaly: "
            "set choose_epoch_by to another value, or add images with this label"
        )


def _score(state: _State, val: Loader) -> dict[str, float]:
    """Return validation loss, macro AUROC, macro average precision, and what chooses the epoch.

    They are those of the weights that would be kept.
    """
    probs = predict(state.evaluated, val, state.config, state.fabric)
    loss = F.binary_cross_entropy(
        torch.from_numpy(probs).double(),
        torch.from_numpy(np.nan_to_num(val.targets)).double(),
        reduction="none",
    ).numpy()
    columns = list(zip(val.targets.T, probs.T, strict=True))
    scores = {
        "val_loss": float(loss[~np.isnan(val.targets)].mean()),
        "val_auroc": _mean([auroc(t, p) for t, p in columns]),
        "val_average_precision": _mean([average_precision(t, p) for t, p in columns]),
    }
    if state.config.choose_epoch_by == "cardiomegaly_accuracy":
        scores["val_cardiomegaly_accuracy"] = _cardiomegaly_accuracy(
            val.targets, probs, state.config
        )
    return scores


def _cardiomegaly_accuracy(targets: np.ndarray, probs: np.ndarray, config: Config) -> float:
    """Return the accuracy at 0.5 on the images (N, F) whose Cardiomegaly label is known."""
    column = config.findings.index("Cardiomegaly")
    annotated = ~np.isnan(targets[:, column])
    return float(((probs[annotated, column] >= 0.5) == (targets[annotated, column] == 1)).mean())


def _mean(values: list[float]) -> float:
    return float(mean_defined(np.array(values)))
