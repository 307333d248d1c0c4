"""Train a model; interrupted training resumes exactly.

In: a model, loaders and a config. Out: the best weights by validation, and a history.
"""

import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib.config import Config
from lib.exceptions import ModelError
from lib.files import atomic_write
from lib.metrics.scores import auroc, average_precision, epoch_score, mean_defined
from lib.models.batch_norm import GlobalBatchNorm
from lib.models.batches import Loader, share
from lib.models.checkpoint import DAMAGED, read_checkpoint, set_aside
from lib.models.classifier import Classifier, count_parameters
from lib.models.devices import check_devices, visible_devices
from lib.models.distil import distil_loss, with_answers
from lib.models.losses import balanced_pos_weight, class_weights, reduced
from lib.models.predicting import describe_device, make_fabric, predict
from lib.models.ranks import Ranks
from lib.models.weights import few, misfits

CHECKPOINT = "last.ckpt"
CHECKPOINT_VERSION = 2
"""Increase this when the same config trains differently than before. Training then does not resume
from a checkpoint of the older code."""
HISTORY = {"epoch", "train_loss", "val_loss", "val_auroc", "val_average_precision", "lr", "seconds"}
"""The columns that every row of a history has."""


def start_at_prevalence(model: Classifier, targets: np.ndarray, config: Config) -> None:
    """Set the head's last bias to the log-odds of each finding in targets (N, F).

    One image per class is added to the counts. After Lin et al. (2017), "Focal loss for dense
    object detection": otherwise rare findings start at 0.5, and the first steps only learn how rare
    they are. With `pos_weight: balanced`, positives count by their weight in the loss.
    """
    positives, negatives = class_weights(targets)
    log_odds = torch.tensor(np.log((positives + 1) / (negatives + 1)), dtype=torch.float32)
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
    `on_epoch` is called with each row, first with those of epochs that were trained before an
    interruption.

    After every epoch, `last.ckpt` in `folder` holds everything needed to resume. When called again
    with the same arguments, training continues from it and ends with the same weights, bit for bit
    on one CPU with the same number of threads.

    With `devices_per_run` K, this process and K - 1 others, which start and end here, train on
    their shares of each batch. Loss, gradient, augmentation and batch norm are those of the whole
    batch, so the history is that of one device up to rounding; only dropout and drop_path draw
    other masks. Every process computes the same moving average of the weights. Validation images
    are shared too; this process alone chooses the epoch and writes the checkpoint, which any number
    of devices can continue.

    Raises ModelError when no epoch can be chosen on validation, on a NaN loss, when there are fewer
    devices, and when another process fails or is killed.
    """
    _check_validation(val.targets, config)
    if config.head_bias == "prior":
        start_at_prevalence(model, train.targets, config)
    train = with_answers(train, config)
    model.to(memory_format=torch.channels_last)
    checkpoint = folder / CHECKPOINT
    content = _read_checkpoint(checkpoint, config)
    if config.devices_per_run == 1:
        state = _State(model, make_fabric(config, model), config, len(train) * config.epochs)
        state.restore(checkpoint, content)
        _train(state, train, val, checkpoint, on_epoch)
    else:
        state = _fit_on_ranks(model, train, val, config, checkpoint, content, on_epoch)
    model.load_state_dict(state.best)
    return pd.DataFrame(state.history)


def model_cost(model: Classifier, config: Config) -> dict[str, Any]:
    """Return what the record holds of the model: parameters, CPU ms per image, the device, and
    where its first weights came from."""
    return {
        "parameters": count_parameters(model),
        "cpu_latency_ms": cpu_latency_ms(model, config.image_size),
        "device": describe_device(make_fabric(config, model), config.devices_per_run),
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

    def seed(self, epoch: int) -> None:
        """Give a rank above 0 its own random numbers for dropout, anew in every epoch.

        So a checkpoint need hold those of rank 0 only, as with one device.
        """
        if rank := self.fabric.global_rank:
            values = np.random.SeedSequence((self.config.seed, epoch, rank))
            torch.manual_seed(values.generate_state(1, np.uint64).item())

    def leave(self) -> None:
        """Let go of what belongs to the process group, which then ends."""
        self.net = self.fabric_optimizer = None

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
        device = self.fabric.device
        cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
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

    def restore(self, path: Path, content: dict[str, Any] | None) -> None:
        """Continue from the content of the checkpoint `path`, if there is one.

        One that does not fit is set aside, and training starts over.
        """
        if content is None:
            return
        before = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        random = torch.get_rng_state()
        try:
            self._take_over(content)
        except DAMAGED as error:
            self.model.load_state_dict(before[0])
            self.optimizer.load_state_dict(before[1])
            if self.ema:
                self.ema.set(self.model)
            torch.set_rng_state(random)
            if self.fabric.is_global_zero:  # every rank finds the same
                set_aside(path, error)

    def _take_over(self, content: dict[str, Any]) -> None:
        """Become what a checkpoint holds; raises one of DAMAGED when it does not fit."""
        step, history, best = content["step"], content["history"], content["best"]
        best_score = float(content["best_score"])
        if any(not row.keys() >= HISTORY for row in history):
            raise ValueError("its history lacks a column")
        if (
            len(history) > self.config.epochs
            or step * self.config.epochs != len(history) * self.steps
        ):
            raise ValueError(f"{step} steps in {len(history)} epochs")
        if wrong := misfits(best, self.model.state_dict()):
            raise ValueError(f"of the best weights {few(wrong)}")
        self.model.load_state_dict(content["model"])
        if self.ema:
            self.ema.module.load_state_dict(content["ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        _check_shapes(self.optimizer)
        torch.set_rng_state(content["random"]["cpu"])
        if self.fabric.device.type == "cuda" and content["random"]["cuda"]:
            torch.cuda.set_rng_state(content["random"]["cuda"][0], self.fabric.device)
        self.step, self.history = step, history
        self.best, self.best_score = best, best_score


def _check_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError where the optimizer's state is not that of its weights."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for weight in weights:
        kept = optimizer.state[weight].values()
        if any(value.ndim and value.shape != weight.shape for value in kept):
            raise ValueError("the optimizer's state is not of these weights")


def _read_checkpoint(path: Path, config: Config) -> dict[str, Any] | None:
    """Return the content of a checkpoint, or None where there is none or none that can be read.

    Raises ModelError for the checkpoint of a run with other parameters.
    """
    if not path.exists():
        return None
    try:
        content = read_checkpoint(path, CHECKPOINT_VERSION)
        if content["config"] == config.hash():
            return content
    except DAMAGED as error:
        set_aside(path, error)
        return None
    raise ModelError(
        f"{path} was written by a run with other parameters; use another run_dir or delete the file"
    )


def _fit_on_ranks(
    model: Classifier,
    train: Loader,
    val: Loader,
    config: Config,
    checkpoint: Path,
    content: dict[str, Any] | None,
    on_epoch: Callable[[dict[str, Any]], None] | None,
) -> "_State":
    """Train as rank 0, with a process for each other device."""
    check_devices(config)
    _check_smallest_batch(model, train, config)
    kind, _ = visible_devices(config.accelerator)
    backend = "nccl" if kind == "cuda" else "gloo"
    model.cpu()  # the others receive it without a detour over a device
    resumes = content is not None
    others = (_follow, model, train, val, config, checkpoint, resumes)
    with Ranks(config.devices_per_run, backend, *others) as ranks:
        state = _join(0, model, train, config, checkpoint, content)
        _train(state, train, val, checkpoint, on_epoch, ranks.check)
        state.leave()
    return state


def _follow(
    rank: int,
    model: Classifier,
    train: Loader,
    val: Loader,
    config: Config,
    checkpoint: Path,
    resumes: bool,
) -> None:
    """Train as one of the ranks above 0."""
    content = _read_checkpoint(checkpoint, config) if resumes else None
    state = _join(rank, model, train, config, checkpoint, content)
    _train(state, train, val, checkpoint)


def _join(
    rank: int,
    model: Classifier,
    train: Loader,
    config: Config,
    checkpoint: Path,
    content: dict[str, Any] | None,
) -> "_State":
    fabric = make_fabric(config, model, rank)
    fabric.launch()
    state = _State(model, fabric, config, len(train) * config.epochs)
    state.restore(checkpoint, content)
    return state


def _check_smallest_batch(model: Classifier, train: Loader, config: Config) -> None:
    """Raise ModelError where a rank may get no image of a batch, and the network needs one."""
    if train.smallest_batch() >= config.devices_per_run:
        return
    size = config.image_size
    try:
        with torch.inference_mode():
            copy.deepcopy(model).cpu().eval()(torch.zeros(0, 1, size, size))
    except RuntimeError as error:
        raise ModelError(
            f"batch_size {config.batch_size} leaves some of {config.devices_per_run} devices without "
            f"an image, which {config.backbone} cannot do: raise batch_size or lower devices_per_run"
        ) from error


def _train(
    state: "_State",
    train: Loader,
    val: Loader,
    checkpoint: Path,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Train the epochs that are missing; rank 0 alone decides, reports and saves.

    `check` raises when another rank has failed.
    """
    first = state.fabric.is_global_zero
    on_epoch = on_epoch or (lambda row: None)
    for row in state.history:
        on_epoch(row)
    with tqdm(
        total=state.steps,
        initial=state.step,
        desc="training",
        unit="batch",
        mininterval=1,
        disable=not first,
    ) as bar:
        for epoch in range(len(state.history), state.config.epochs):
            started = time.perf_counter()
            loss = _train_epoch(state, train, epoch, bar)
            probs = _validate(state, val)
            check()
            if not first:
                continue
            scores = _score(probs, val.targets, state.config)
            row = {
                "epoch": epoch + 1,
                "train_loss": loss,
                **scores,
                "lr": state.optimizer.param_groups[-1]["lr"],
            }
            state.keep({**row, "seconds": time.perf_counter() - started})
            state.save(checkpoint)
            bar.set_postfix(
                epoch=epoch + 1, loss=f"{loss:.3f}", val_auroc=f"{scores['val_auroc']:.3f}"
            )
            on_epoch(state.history[-1])


def _train_epoch(state: _State, train: Loader, epoch: int, bar: tqdm) -> float:
    """Train on all images once; return the mean loss of the batches."""
    config, device = state.config, state.fabric.device
    rank, ranks = state.fabric.global_rank, state.fabric.world_size
    loss_of = distil_loss(config, train.targets, device)
    state.seed(epoch)
    state.net.train()
    losses = []
    batches = train.epoch(epoch, device=device, rank=rank, ranks=ranks)
    known = train.known_labels(epoch)  # of the whole batch, also where a rank has part of it
    for (images, targets), in_batch in zip(batches, known, strict=True):
        factor = lr_factor(state.step, state.steps, config)
        for group in state.optimizer.param_groups:
            group["lr"] = config.lr * group["lr_scale"] * factor
        images = images.to(device, memory_format=torch.channels_last)
        with GlobalBatchNorm() if ranks > 1 else nullcontext():
            logits = state.net(images).float()
        total, labels = loss_of(logits, targets.to(device))
        loss = reduced(total, labels if ranks == 1 else in_batch, config.loss_reduction)
        state.fabric.backward(loss * ranks)  # DDP takes the mean of the ranks' gradients
        if config.clip_norm:
            nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm)
        state.fabric_optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        if state.ema:
            state.ema.update(state.model, step=state.step)
        losses.append(loss.detach())
        bar.update()
    mean = state.fabric.all_reduce(torch.stack(losses), reduce_op="sum").mean().item()
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


def _validate(state: _State, val: Loader) -> np.ndarray:
    """Return probabilities (N, F) of the weights that would be kept, on every rank.

    Each rank predicts its share of the images; the others' are zeros until all are added.
    """
    fabric, count = state.fabric, len(val.rows)
    if fabric.world_size == 1:
        return predict(state.evaluated, val, state.config, fabric)
    where = share(count, fabric.global_rank, fabric.world_size)
    probs = torch.zeros(val.targets.shape)
    if where.start < where.stop:
        mine = predict(state.evaluated, val.part(where), state.config, fabric)
        probs[where] = torch.from_numpy(mine)
    return fabric.all_reduce(probs.to(fabric.device), reduce_op="sum").cpu().numpy()


def _score(probs: np.ndarray, targets: np.ndarray, config: Config) -> dict[str, float]:
    """Return validation loss, macro AUROC, macro average precision, and what chooses the epoch."""
    loss = F.binary_cross_entropy(
        torch.from_numpy(probs).double(),
        torch.from_numpy(np.nan_to_num(targets)).double(),
        reduction="none",
    ).numpy()
    columns = list(zip(targets.T, probs.T, strict=True))
    scores = {
        "val_loss": float(loss[~np.isnan(targets)].mean()),
        "val_auroc": _mean([auroc(t, p) for t, p in columns]),
        "val_average_precision": _mean([average_precision(t, p) for t, p in columns]),
    }
    if config.choose_epoch_by == "cardiomegaly_accuracy":
        scores["val_cardiomegaly_accuracy"] = _cardiomegaly_accuracy(targets, probs, config)
    return scores


def _cardiomegaly_accuracy(targets: np.ndarray, probs: np.ndarray, config: Config) -> float:
    """Return the accuracy at 0.5 on the images (N, F) whose Cardiomegaly label is known."""
    column = config.findings.index("Cardiomegaly")
    annotated = ~np.isnan(targets[:, column])
    return float(((probs[annotated, column] >= 0.5) == (targets[annotated, column] >= 0.5)).mean())


def _mean(values: list[float]) -> float:
    return float(mean_defined(np.array(values)))
