"""Measure whether the loader would keep a GPU waiting.

In: an image cache of random pixels. Out: rows with the loader's images per second, against what
networks train at on GPUs by published figures.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import Row, rates
from lib.models.batches import Loader
from lib.system import available_cores

SIZE = 224
BATCH = 32
TIMM = "timm, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv"
NVIDIA = "NVIDIA DeepLearningExamples, PyTorch/Classification/ConvNets, README"
PUBLISHED = (
    ("EfficientNet-B4", 355.0, 320, "RTX 3090", TIMM),
    ("ViT-B/16", 393.0, 224, "RTX 3090", TIMM),
    ("ResNet-50", 1218.0, 224, "RTX 3090", TIMM),
    ("EfficientNet-B4", 331.0, 380, "A100 80 GB", NVIDIA),
    ("ResNet-50", 2470.0, 224, "A100 80 GB", NVIDIA),
)
"""Network, training images per second in mixed precision on one GPU, pixels per side, GPU, source.
Figures at other sizes are scaled by the number of pixels."""


def feeding_rows(scratch: Path, images: int = 512) -> list[Row]:
    """Measure batches of 32 images of 224 px, augmented on the CPU and as bytes for a GPU."""
    shape = (images, SIZE, SIZE)
    store = np.lib.format.open_memmap(scratch / "store.npy", "w+", np.uint8, shape)
    store[:] = np.random.default_rng(0).integers(0, 255, shape)
    targets = np.zeros((images, 14), np.float32)
    loader = Loader(store, np.arange(images), targets, BATCH, "full", shuffle=True)

    def augmented() -> None:
        for _ in loader.epoch():
            pass

    def as_bytes() -> None:
        read = loader.reader()
        for index in range(len(loader)):
            read(index)

    cores = available_cores()
    work = {"augmented on the CPU": augmented, "as bytes, augmented by the GPU": as_bytes}
    rows = []
    for what, piece in work.items():
        one, every = _rate(piece, images, 1), _rate(piece, images, cores)
        rows.append(Row(f"loader at {SIZE} px, {what}: one core", "images/s", one))
        rows += [_against(f"loader at {SIZE} px, {what}: {cores} cores", every, *published)
                 for published in PUBLISHED]  # fmt: skip
    return rows


def _rate(piece: Callable[[], None], images: int, threads: int) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return rates({"loader": piece}, {"loader": images})["loader"]
    finally:
        torch.set_num_threads(before)


def _against(what: str, rate: float, network: str, published: float, size: int, *where: str) -> Row:
    needed = published * (size / SIZE) ** 2
    gpu, source = where
    scaled = "" if size == SIZE else f", {published:.0f} at {size} px"
    waits = "the GPU waits" if rate < needed else "the GPU does not wait"
    against = f"training {network} on {gpu}{scaled} ({source}): {waits}"
    return Row(what, "images/s", rate, needed, against, ">= 1")
