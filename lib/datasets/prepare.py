"""In: a config and its run's folder. Out: `PreparedData`: the dataset, the split of every image,
the pixels."""

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config import FINDINGS, PHANTOMS, Config, resolve
from lib.datasets.cache import open_cache, without_undecodable
from lib.datasets.duplicates import check_duplicates
from lib.datasets.folds import divide_patients
from lib.datasets.labels import training_labels
from lib.datasets.splits import (
    SPLITS,
    assign_splits,
    check_inherited,
    crossing_patients,
    official_test,
)
from lib.datasets.tables import Dataset, read_dataset
from lib.datasets.unlabelled import UNLABELLED, add_films, split_films
from lib.exceptions import RunError
from lib.files import read_json, write_json, write_table
from lib.images.pixels import decode_grey


@dataclass(frozen=True)
class PreparedData:
    """What a run works on: `frame` is the dataset's with a column `split`; `store` (N, S, S) uint8
    in its order."""

    data: Dataset
    frame: pd.DataFrame
    bad_rows: pd.DataFrame
    store: np.ndarray
    split_warnings: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Of the image ids, splits and labels."""
        return _fingerprint(self.frame)

    @cached_property
    def test_fingerprint(self) -> str:
        """Of those of the test images."""
        return _fingerprint(self.frame[self.frame["split"] == "test"])


def prepare_data(config: Config, folder: Path) -> PreparedData:
    """Reads, splits and decodes what `config` names; writes `splits.csv` and `bad_rows.csv` into
    the run's `folder`.

    The phantoms are drawn first where `data_root` asks for them and they are not there. Raises
    DatasetError and SplitError, also when an earlier stage of `init_from` trained, or chose its
    epoch, on what is held out here, when a teacher did on who is tested here, or when one
    radiograph stands in two splits under the names of two patients.
    """
    data, frame, bad_rows = read_rows(config)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = split_and_label(data, frame, config)
    split_warnings = tuple(str(warning.message) for warning in caught)
    for stage in earlier_stages(config):
        check_inherited(pd.read_csv(stage / "splits.csv", dtype=str), frame, config.split_by)
    tested = frame[frame["split"] != "val"]  # teachers of other seeds trained on who validates here
    for stage in taught_by(config):
        check_inherited(pd.read_csv(stage / "splits.csv", dtype=str), tested, config.split_by)
    store = open_cache(frame, config.image_size)
    films = PreparedData(data, frame, bad_rows, store, split_warnings)
    check_duplicates(frame, films.store)
    _drop_stale_checkpoint(folder, films.fingerprint)
    write_table(folder / "splits.csv", frame[["image", "patient", "split"]])
    write_table(folder / "bad_rows.csv", bad_rows)
    write_json(folder / "data.json", describe_data(films))
    return films


def read_rows(config: Config) -> tuple[Dataset, pd.DataFrame, pd.DataFrame]:
    """The dataset that `config` names, its rows that can be used, and those that cannot; missing
    phantoms are drawn."""
    root = resolve(config.data_root)
    if config.data_root == PHANTOMS and not root.exists():
        from lib.phantoms.write import write_phantoms  # scipy, only where films are drawn

        write_phantoms(root)
    data = read_dataset(config.data_folders, on_bad=config.on_bad, views=config.views)
    frame, bad_rows = data.frame, data.bad_rows
    if config.distil_data:
        frame, more = add_films(frame, config)
        bad_rows = pd.concat([bad_rows, more], ignore_index=True)
    if config.on_bad == "skip":
        frame, undecodable = without_undecodable(frame, config.image_size)
        bad_rows = pd.concat([bad_rows, undecodable], ignore_index=True)
    return data, frame, bad_rows


def split_and_label(data: Dataset, frame: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The rows with their split, and in training the labels that `uncertain` and `readers` ask
    for."""
    if config.distil_data:
        labelled = frame[frame["image"].isin(data.frame["image"])]
        split = split_films(frame, split_rows(labelled, config))
    else:
        split = split_rows(frame, config)
    return training_labels(frame.assign(split=split), data.doubts, config)


def split_rows(
    frame: pd.DataFrame, config: Config, read: Callable[..., Dataset] = read_dataset
) -> pd.Series:
    """`assign_splits` of a dataset's rows, with what `config.hold_out` names left out.

    With `config.folds`, the patients of this stage and of those that it holds out are divided
    together, so that both stages have the same folds. `read` reads folders as `read_dataset` does.
    """
    folds = None
    if config.folds:
        folders = sorted({*config.data_folders, *config.held_out_folders})
        folds = divide_patients(
            read(folders, on_bad="skip", views=config.views).frame, config.folds
        )
    if not config.hold_out:
        return assign_splits(frame, config, folds=folds)
    held = read(config.held_out_folders, on_bad="skip", views=config.views).frame
    later = held_out(held, config, folds)
    return assign_splits(frame, config, later, folds)


def held_out(frame: pd.DataFrame, config: Config, folds: pd.Series | None = None) -> pd.DataFrame:
    """The rows of a later stage with their splits, which it chooses by this config's seed and
    fractions.

    All findings count: a stage of some of them tests on these patients or on fewer. All of its
    training patients count too, whatever share of them it uses.
    """
    changes = {"findings": FINDINGS, "hold_out": (), "train_fraction": 1.0}
    later = config.model_copy(update=changes)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the later stage itself warns of what is odd about its splits
        return frame.assign(split=assign_splits(frame, later, folds=folds))


def load_images(data: Dataset, images: Sequence[str], size: int) -> np.ndarray:
    """Some films of a dataset by their ids, decoded anew: (N, size, size) uint8; raises KeyError
    for an unknown id."""
    paths = data.frame.set_index("image")["path"].loc[list(images)]
    films = [decode_grey(str(path), size) for path in paths]
    return np.stack(films) if films else np.zeros((0, size, size), np.uint8)


def _drop_stale_checkpoint(folder: Path, fingerprint: str) -> None:
    """Sets aside the checkpoint of a broken run whose images, labels or splits were others: it is
    not continued."""
    described, checkpoint = folder / "data.json", folder / "last.ckpt"
    if (
        described.exists()
        and checkpoint.exists()
        and read_json(described)["fingerprint"] != fingerprint
    ):
        stamp = time.strftime("%Y%m%dT%H%M%S")
        aside = checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}.of_other_data-{stamp}"))
        print(
            f"the data changed since this run began: it begins anew, and its old checkpoint is kept in {aside}"
        )


def earlier_stages(config: Config) -> list[Path]:
    """The folders of the stages that a run starts from, the nearest first."""
    return _chain(config.init_from, "init_from")


def taught_by(config: Config) -> list[Path]:
    """The folders of the teachers of a run, of the stages before it too, each followed by the
    stages that it started from."""
    made = [read_json(stage / "config.json") for stage in earlier_stages(config)]
    names = [*config.teacher, *(name for one in made for name in one.get("teacher", ()))]
    found: list[Path] = []
    for name in dict.fromkeys(names):
        found += _chain(name, "teacher")
    return list(dict.fromkeys(found))


def _chain(start: str | None, field: str) -> list[Path]:
    stages: list[Path] = []
    while start:
        folder = resolve(start)
        if not (folder / "record.json").exists():
            raise RunError(f"{field}: {folder} holds no complete run; run that stage first")
        stages.append(folder)
        start = read_json(folder / "config.json")["init_from"]
    return stages


def describe_data(films: PreparedData, loaders: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the record says of the data: layouts, phantom or not, rows left out, counts per split,
    fingerprint.

    `loaders`, of `make_loaders`, say how many images of each split are annotated and used. A
    fingerprint changes with any image id, split or label; runs compare when their
    `test_fingerprint` is the same.
    """
    frame = films.frame
    splits = (*SPLITS, UNLABELLED) if "answered" in frame else SPLITS
    used = (
        {"used": {split: len(loader.rows) for split, loader in loaders.items()}} if loaders else {}
    )
    return {
        **used,
        "layouts": films.data.layouts,
        "phantom": films.data.phantom,
        "populations": sorted(frame["patient"].str.partition(":")[0].unique()),
        "bad_rows": len(films.bad_rows),
        "undecodable": len(films.bad_rows) - len(films.data.bad_rows),
        "images": {split: int((frame["split"] == split).sum()) for split in splits},
        "patients": frame.groupby("split")["patient"].nunique().to_dict(),
        "on_both_official_lists": _crossing(frame),
        "fingerprint": films.fingerprint,
        "test_fingerprint": films.test_fingerprint,
        "warnings": list(films.data.warnings),
        "split_warnings": list(films.split_warnings),
    }


def _crossing(frame: pd.DataFrame) -> dict[str, int]:
    """The patients, by their names, who are on both sides of the official division, with the number
    of their images that are not on the test list."""
    crossing = crossing_patients(frame)
    images = int((crossing & ~official_test(frame)).sum())
    return {"patients": frame.loc[crossing, "patient"].nunique(), "images": images}


def data_text(facts: Mapping[str, Any]) -> str:
    """What a person should know of `describe_data`'s facts: images, layouts, warnings, by line."""
    counts = facts.get("used", facts["images"])
    lines = ["images used: " + ", ".join(f"{split} {count:,}" for split, count in counts.items())]
    lines += [f"{Path(folder).name}: {layout}" for folder, layout in facts["layouts"].items()]
    if facts["bad_rows"]:
        lines.append(f"{facts['bad_rows']:,} rows cannot be used and were left out: bad_rows.csv")
    return "\n".join([*lines, *facts["warnings"], *facts["split_warnings"]])


def data_fingerprint(config: Config) -> str:
    """The fingerprint that a run of `config` would record: of the image ids, labels and splits.
    Decodes no image."""
    data, frame, _ = read_rows(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself says what is odd about its splits
        return _fingerprint(split_and_label(data, frame, config))


def _fingerprint(frame: pd.DataFrame) -> str:
    text = frame[["image", "split", *FINDINGS]].sort_values("image").to_csv(index=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
