"""Measure batches per second, and the speed of building the image cache.

In: a dozen PNG images of 1024 px. Out: rows of the table.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.timing import Row, rates
from lib.datasets.cache import open_cache
from lib.models.batches import Loader
from lib.phantoms.write import write_phantoms

SIZE = 224
BATCH = 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def films_of_1024(scratch: Path) -> tuple[list[Path], str]:
    """Return original images if CXR_REAL_DATA has them, else phantoms; and which of the two."""
    real = os.environ.get("CXR_REAL_DATA")
    if real and (Path(real) / "originals").is_dir():
        return sorted((Path(real) / "originals").glob("*.png")), "real films"
    folder = write_phantoms(scratch / "phantoms", patients=6, size=1024, progress=False)
    return sorted((folder / "dataset_full" / "images").glob("*.png"))[:12], "phantoms"


class UsualWay(Dataset):
    """What most training code does for every image in every epoch."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self.transform = transforms.Compose(
            [
                transforms.Resize((SIZE, SIZE)),
                transforms.RandomRotation(20),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def batch_row(paths: list[Path], kind: str, scratch: Path) -> Row:
    """Measure augmented, normalised batches (16, 3, 224, 224) from the image cache.

    They are compared with the usual way, with one worker.
    """
    many, few = 1536, 96
    store = open_cache(_frame(paths), SIZE, folder=scratch / "store", progress=False)
    rows = np.arange(many) % len(paths)
    loader = Loader(store, rows, np.zeros((many, 14), np.float32), BATCH, "rotate", shuffle=True)
    usual = DataLoader(
        UsualWay([paths[i % len(paths)] for i in range(few)]),
        BATCH,
        shuffle=True,
        num_workers=1,
        persistent_workers=True,
    )
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)

    def ours() -> None:
        for images, _ in loader.epoch():
            assert ((images - mean) / std).shape[1:] == (3, SIZE, SIZE)

    def theirs() -> None:
        for images in usual:
            assert images.shape[1:] == (3, SIZE, SIZE)

    speed = rates({"ours": ours, "theirs": theirs}, {"ours": many, "theirs": few})
    what = f"augmented {SIZE} px batches from the image cache, {kind}"
    usual_way = "PIL 1024 px PNG, RGB, resize, rotate, normalise; DataLoader, one worker"
    return Row(what, "images/s", speed["ours"], speed["theirs"], usual_way, ">= 20")


def store_row(paths: list[Path], kind: str, scratch: Path, copies: int = 8) -> Row:
    """Measure building the image cache in one process, against only decoding the same files."""
    folder = scratch / "copies"
    folder.mkdir()
    files = [folder / f"{n}_{path.name}" for n in range(copies) for path in paths]
    for file in files:
        shutil.copy(paths[files.index(file) % len(paths)], file)
    frame = _frame(files)

    def build() -> None:
        open_cache(frame, SIZE, folder=scratch / "built", workers=1, progress=False)
        shutil.rmtree(scratch / "built")

    def decode() -> None:
        for file in files:
            Image.open(file).load()

    speed = rates({"build": build, "decode": decode}, {"build": len(files), "decode": len(files)})
    against = "decoding the same PNGs with Pillow, nothing else"
    return Row(
        f"building the image cache, {kind}",
        "images/s/core",
        speed["build"],
        speed["decode"],
        against,
        ">= 0.8",
    )


def _frame(paths: list[Path]) -> pd.DataFrame:
    return pd.DataFrame(
        {"image": [p.name for p in paths], "path": [str(p) for p in paths], "source": "bench"}
    )
