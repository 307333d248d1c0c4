"""Read the images of a complete run.

In: the folder of the run. Out: its training, validation and test images; the folder stays
unchanged.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config import Config
from lib.datasets.cache import open_cache
from lib.datasets.labels import training_labels
from lib.datasets.prepare import PreparedData, describe_data, read_rows
from lib.exceptions import DatasetError
from lib.files import read_json
from lib.metrics.scores import prevalence
from lib.models.batches import Loader, make_loaders

TRAIN_FILMS = 2000
VAL_FILMS = 5000


@dataclass(frozen=True)
class CalibrationImages:
    """Images (N, S, S) uint8 of a run, with targets (N, F) and patients (N,).

    `train` and `val` of large sets are random subsets of at most TRAIN_FILMS and VAL_FILMS images,
    in a fixed random order. `test` holds all test images, read from disk on demand. `prevalence`
    (F,) is that of all training images.
    """

    train: np.ndarray
    prevalence: np.ndarray
    val: np.ndarray
    val_targets: np.ndarray
    val_patients: np.ndarray
    test: "Stored"
    test_targets: np.ndarray
    test_patients: np.ndarray


@dataclass(frozen=True)
class Stored:
    """Rows (N,) of a store; a slice of it is an array (n, S, S) uint8 in memory."""

    store: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.store[self.rows[part]]


def read_run_films(folder: Path, card: dict[str, Any]) -> CalibrationImages:
    """Read the images of the run in `folder`, whose model has the card `card`.

    Phantoms are drawn again if they are missing. Raises DatasetError when images are missing, or
    when images, labels or splits differ from those that the run was trained on.
    """
    config = Config(**read_json(folder / "config.json"))
    data, frame, bad_rows = read_rows(config)
    splits = pd.read_csv(folder / "splits.csv", dtype=str).set_index("image")["split"]
    frame = training_labels(frame.assign(split=frame["image"].map(splits)), data.doubts, config)
    films = PreparedData(data, frame, bad_rows, open_cache(frame, config.image_size))
    if describe_data(films)["fingerprint"] != card["data"]["fingerprint"]:
        folders = ", ".join(str(path) for path in config.data_folders)
        raise DatasetError(
            f"the images, labels or splits in {folders} differ from those that {folder} was trained on"
        )
    loaders = make_loaders(frame, films.store, config)
    train, val = _some(loaders["train"], TRAIN_FILMS), _some(loaders["val"], VAL_FILMS)
    patients = {
        split: frame["patient"].to_numpy(str)[loaders[split].rows] for split in ("val", "test")
    }
    return CalibrationImages(
        train=_pixels(loaders["train"], train),
        prevalence=prevalence(loaders["train"].targets),
        val=_pixels(loaders["val"], val),
        val_targets=loaders["val"].targets[val],
        val_patients=patients["val"][val],
        test=Stored(films.store, loaders["test"].rows),
        test_targets=loaders["test"].targets,
        test_patients=patients["test"],
    )


def _some(loader: Loader, count: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(len(loader.rows))[:count]


def _pixels(loader: Loader, picked: np.ndarray) -> np.ndarray:
    rows = loader.rows[picked]
    order = np.argsort(rows)  # reading a memory map in order is faster
    films = np.empty((len(rows), *loader.store.shape[1:]), np.uint8)
    films[order] = loader.store[rows[order]]
    return films
