"""Answer with a model.

In: a model, the films of a loader, a config. Out: the device and precision to compute with, and
probabilities.
"""

import logging
import socket
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import nn

from lib.config import Config
from lib.metrics.predictions import Predictions
from lib.models.batches import Loader
from lib.models.devices import OwnProcesses
from lib.system import visible_ids


def make_fabric(config: Config, model: nn.Module, rank: int | None = None) -> Fabric:
    """Return a Fabric with the precision of the config and one device, or as `rank` of a run on
    several devices.

    `auto` means bf16-mixed where that is faster, else 32-true.
    """

    def make(precision: Any) -> Fabric:
        if rank is None:  # the plugin has Fabric ignore any batch system of this machine
            alone: Any = {"devices": 1, "plugins": LightningEnvironment()}
            return Fabric(accelerator=config.accelerator, precision=precision, **alone)
        ranks = config.devices_per_run
        return Fabric(
            accelerator=config.accelerator,
            devices=ranks,
            strategy=OwnProcesses(rank, ranks),
            precision=precision,
        )

    fabric = make("32-true")
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
        return make("bf16-mixed")
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


def describe_device(fabric: Fabric, devices: int = 1) -> dict[str, Any]:
    """Describe the device for the record: kind, machine, precision, how many devices trained
    together, and threads or, of a GPU, ids, name and peak memory."""
    device: dict[str, Any] = {
        "kind": fabric.device.type,
        "host": socket.gethostname(),
        "precision": str(fabric.strategy.precision.precision),
        "devices": devices,
    }
    if fabric.device.type != "cuda":
        return {**device, "threads": torch.get_num_threads()}
    peak = torch.cuda.max_memory_allocated(fabric.device) / 2**20
    return {
        **device,
        "ids": visible_ids() or [str(fabric.device.index)],
        "name": torch.cuda.get_device_name(fabric.device),
        "peak_memory_mb": round(peak, 1),
    }


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
    for images, _ in loader.epoch(device=fabric.device):
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
