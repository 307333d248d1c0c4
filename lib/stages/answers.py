"""In: a run and the test set of another stage. Out: the run's predictions there, computed once and
kept beside it in `evaluations/<run of the test set>/`."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from lib.comparison.arms import RunPredictions, read_run_predictions
from lib.datasets.cache import open_cache
from lib.datasets.prepare import PreparedData, read_rows
from lib.exceptions import RunError
from lib.files import model_files, read_json, write_json
from lib.metrics.predictions import Predictions, read_predictions, write_predictions
from lib.models.batches import Loader
from lib.models.predicting import predict
from lib.models.quantized import load_network
from lib.runs.study import read_run

BATCH = 64
KEPT_VERSION = 1
"""Increase this when the same model answers the same films otherwise: kept answers are then
computed again."""


class Films:
    """The films of runs: each dataset is read once, each image cache opened once."""

    def __init__(self) -> None:
        self._read: dict[tuple, tuple] = {}
        self._stores: dict[tuple, np.ndarray] = {}

    def of(self, folder: Path, size: int) -> PreparedData:
        """What the complete run in `folder` worked on, with pixels (N, size, size).

        Writes nothing into the run's folder. Raises DatasetError where its dataset cannot be
        read, and RunError where images or test labels are not those that the run had.
        """
        config, record = read_run(folder)
        folders = (*config.data_folders, config.distil_data)
        key = (config.on_bad, config.views, config.image_size, folders)
        if key not in self._read:
            self._read[key] = read_rows(config)
        data, frame, bad_rows = self._read[key]
        if (*key, size) not in self._stores:
            self._stores[(*key, size)] = open_cache(frame, size, progress=False)
        used = read_splits(folder).set_index("image")["split"]
        films = PreparedData(
            data,
            frame.assign(split=frame["image"].map(used)),
            bad_rows,
            self._stores[(*key, size)],
        )
        if len(used) != len(frame) or films.test_fingerprint != record.data.test_fingerprint:
            now = ", ".join(map(str, config.data_folders))
            raise RunError(
                f"{folder.name} had other images or labels than {now} holds now: "
                "run the study again"
            )
        return films


def read_splits(folder: Path) -> pd.DataFrame:
    """image, patient and split of the run in `folder`, as text."""
    path = folder / "splits.csv"
    if not path.exists():
        raise RunError(f"{path} is missing; run the study again to make it")
    return pd.read_csv(path, dtype=str)


def patients_seen(folders: Iterable[Path]) -> set[str]:
    """The patients whom any of these runs trained on, or chose its epoch and thresholds by."""
    seen: set[str] = set()
    for folder in folders:
        splits = read_splits(folder)
        seen |= set(splits.loc[splits["split"].isin(["train", "val", "unlabelled"]), "patient"])
    return seen


def patients_tested(folder: Path) -> set[str]:
    """The test patients of the run in `folder`."""
    return set(read_splits(folder).query("split == 'test'")["patient"])


class Answerer:
    """One run that is to answer several test sets: its model is loaded when it is first needed."""

    def __init__(self, folder: Path, films: Films) -> None:
        self.folder, self.films = folder, films
        self.computed = 0

    @cached_property
    def own(self) -> RunPredictions:
        """What the run answered for its own test set."""
        return read_run_predictions(self.folder)

    def answers(self, test: Path) -> RunPredictions | None:
        """The run's predictions for the test images of the run in the folder `test`, sorted by
        image; None where that set annotates none of its findings.

        They are read from `evaluations/` where they were computed by the same model for the same
        images and labels. Raises DatasetError and RunError where the images cannot be read, or
        are others than the run `test` was tested on.
        """
        if test == self.folder:
            return self.own
        place = self.folder / "evaluations" / test.name
        note = place / "key.json"
        key = self._key(test)
        if not note.exists() or read_json(note)["key"] != key:
            note.unlink(missing_ok=True)
            images = self._compute(test, place / "predictions.parquet")
            write_json(note, {"key": key, "images": images, "test_set_of": test.name})
        if not read_json(note)["images"]:
            return None
        kept = read_predictions(place / "predictions.parquet")
        about = {"fingerprint": "", "scored": None, "folder": place}
        return replace(self.own, **vars(kept), **about)

    def _key(self, test: Path) -> str:
        """Changes with the model, and with the images, labels and splits of the test set."""
        digest = blake2b(f"{KEPT_VERSION} {self._model_digest}".encode(), digest_size=12)
        digest.update(read_run(test)[1].data.test_fingerprint.encode())
        digest.update((test / "splits.csv").read_bytes())
        return digest.hexdigest()

    @cached_property
    def _model_digest(self) -> str:
        content = [path.read_bytes() for path in model_files(self.folder)]
        return blake2b(b"".join(content), digest_size=12).hexdigest()

    @cached_property
    def _model(self) -> nn.Module:
        return load_network(self.folder)

    def _compute(self, test: Path, path: Path) -> int:
        """Writes the predictions; returns for how many images."""
        config = read_run(self.folder)[0]
        films, findings = self.films.of(test, config.image_size), list(config.findings)
        annotated = films.frame[findings].notna().any(axis=1)
        where = np.flatnonzero((films.frame["split"] == "test") & annotated)
        if not len(where):
            return 0
        rows = films.frame.iloc[where]
        targets = rows[findings].to_numpy(np.float32)  # (N, F)
        ids = {"images": rows["image"].to_numpy(str), "patients": rows["patient"].to_numpy(str)}
        loader = Loader(films.store, where, targets, BATCH, **ids)
        probs = predict(self._model, loader, config)  # (N, F)
        answered = Predictions(config.findings, targets=targets, probs=probs, **ids)
        write_predictions(path, {"test": answered}, films.frame)
        self.computed += 1
        return len(where)
