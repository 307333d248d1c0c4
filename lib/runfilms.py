"""In: the folder of a complete run. Out: its training and validation films again; nothing in the folder changes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config import Config
from lib.exceptions import DatasetError
from lib.films import Films, describe_films, read_rows
from lib.loaders import Loader, make_loaders
from lib.results import read_json
from lib.store import open_store

TRAIN_FILMS = 2000
VAL_FILMS = 5000


@dataclass(frozen=True)
class RunFilms:
    """Films (N, S, S) uint8 that the run trained on, and those (M, S, S) that it chose with, and their targets (M, F).

    Of large sets a random part: at most TRAIN_FILMS and VAL_FILMS, in a random order that is always the same.
    """

    train: np.ndarray
    val: np.ndarray
    val_targets: np.ndarray


def read_run_films(folder: Path, card: dict[str, Any]) -> RunFilms:
    """The films of the run in `folder`, whose model has the card `card`.

    Phantoms are drawn again where they are missing. Raises DatasetError when films are missing, or when images, labels
    or splits are no longer those that the run was trained on.
    """
    config = Config(**read_json(folder / "config.json"))
    data, frame, bad_rows = read_rows(config)
    splits = pd.read_csv(folder / "splits.csv", dtype=str).set_index("image")["split"]
    frame = frame.assign(split=frame["image"].map(splits))
    films = Films(data, frame, bad_rows, open_store(frame, config.image_size))
    if describe_films(films)["fingerprint"] != card["data"]["fingerprint"]:
        folders = ", ".join(str(path) for path in config.data_folders)
        raise DatasetError(f"the images, labels or splits in {folders} are not those that {folder} was trained on")
    loaders = make_loaders(frame, films.store, config)
    train, val = _some(loaders["train"], TRAIN_FILMS), _some(loaders["val"], VAL_FILMS)
    return RunFilms(_pixels(loaders["train"], train), _pixels(loaders["val"], val), loaders["val"].targets[val])


def _some(loader: Loader, count: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(len(loader.rows))[:count]


def _pixels(loader: Loader, picked: np.ndarray) -> np.ndarray:
    rows = loader.rows[picked]
    order = np.argsort(rows)  # a memory map is read in its own order
    films = np.empty((len(rows), *loader.store.shape[1:]), np.uint8)
    films[order] = loader.store[rows[order]]
    return films
