"""In: the configs of a study's runs. Out: their datasets and splits, each read once.

All of it is known before anything trains: folders without a dataset, rows that cannot be used,
what is odd about a dataset, and which patients a run would hold out.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from lib.config import PHANTOMS, Config, resolve
from lib.datasets.prepare import split_rows
from lib.datasets.tables import Dataset, read_dataset

Views = str | tuple[str, ...]
SPLIT_FIELDS = ("seed", "split_by", "val_fraction", "test_fraction", "folds")


class StudyData:
    """Datasets by their folders, splits by config."""

    def __init__(self) -> None:
        self._datasets: dict[tuple[str, tuple[Path, ...], Views], Dataset] = {}
        self._splits: dict[str, pd.DataFrame] = {}

    def dataset(self, config: Config) -> Dataset:
        """What `config` names. Raises DatasetError as `read_dataset`."""
        return self._read(config.data_folders, config.on_bad, config.views)

    def _read(
        self,
        folders: Sequence[Path],
        on_bad: Literal["raise", "skip"] = "raise",
        views: Views = "frontal",
    ) -> Dataset:
        key = (on_bad, tuple(folders), views)
        if key not in self._datasets:
            self._datasets[key] = read_dataset(folders, on_bad=on_bad, views=views)
        return self._datasets[key]

    def splits(self, config: Config) -> pd.DataFrame:
        """image, patient, split. Raises DatasetError, and SplitError as `assign_splits`."""
        fields = {"data_root", "data_dir", "hold_out", "on_bad", "findings", *SPLIT_FIELDS, "views"}
        fields |= {"fold", "train_fraction"}
        key = config.model_dump_json(include=fields)
        if key not in self._splits:
            frame = self.dataset(config).frame
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the run itself warns of what is odd
                frame = frame.assign(split=split_rows(frame, config, self._read))
            self._splits[key] = frame[["image", "patient", "split"]]
        return self._splits[key]

    def notes(self) -> Iterator[tuple[str, str]]:
        """(folders, what is odd about the dataset there) of all that were read."""
        for (_, folders, _), dataset in self._datasets.items():
            names = ", ".join(folder.name for folder in folders)
            for note in dataset.warnings:
                yield names, note
            if len(dataset.bad_rows):
                yield (
                    names,
                    (
                        f"{len(dataset.bad_rows):,} rows cannot be used and are left out (on_bad=skip); "
                        "each run lists them in bad_rows.csv"
                    ),
                )


def is_drawn_later(config: Config) -> bool:
    """Whether the phantoms that `config` asks for are not there yet: its run draws them."""
    return config.data_root == PHANTOMS and not resolve(config.data_root).exists()
