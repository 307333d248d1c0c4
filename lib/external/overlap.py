"""In: films of another set, and the runs behind a model. Out: the films that none of these runs has
met, and sentences about what could not be checked.

A film is left out where its patient is one that a run, or an earlier stage of it, was trained on or
validated with; where its id is that of such an image, in the same population; and where it shows the
same radiograph (`datasets.duplicates`). So is one of the runs' own test set: internal and external
scores are compared as those of two independent samples. Phantoms are numbered anew in every folder, so
for them the radiograph alone decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config import REPO_ROOT, Config, resolve
from lib.datasets.cache import open_cache
from lib.datasets.duplicates import copies_between
from lib.datasets.prepare import read_rows
from lib.exceptions import DatasetError, RunError
from lib.external.films import NIH_SETS, Films
from lib.files import read_json
from lib.runs.record import checked_config

TRAINED = ("train", "val")
TRAINED_ON, TESTED_INSIDE = "the model was trained on it", "in the model's own test set"
PHANTOM = "phantom"


@dataclass
class Met:
    """What the runs behind a model have met: images and patients by their role (trained or tested),
    and the folders of data with the images of each role. notes: what is not known."""

    trained: set[str] = field(default_factory=set)
    tested: set[str] = field(default_factory=set)
    trained_patients: set[str] = field(default_factory=set)
    tested_patients: set[str] = field(default_factory=set)
    configs: dict[tuple, Config] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def populations(self) -> set[str]:
        return {patient.partition(":")[0] for patient in self.trained_patients}


def met_by(folders: Sequence[Path]) -> Met:
    """What the runs in `folders` and their earlier stages have met, from their `splits.csv`."""
    met = Met()
    for folder in folders:
        for stage in [folder, *_earlier(folder, met)]:
            if not (stage / "splits.csv").exists():
                raise RunError(
                    f"{stage / 'splits.csv'} is missing: which films the model was trained on is not known; "
                    "run the study again"
                )
            splits = pd.read_csv(stage / "splits.csv", dtype=str)
            seen = splits[splits["split"].isin(TRAINED)]
            met.trained |= set(seen["image"])
            met.trained_patients |= set(seen["patient"])
            if stage == folder:
                own = splits[splits["split"] == "test"]
                met.tested |= set(own["image"])
                met.tested_patients |= set(own["patient"])
            made = stage / "config.json"
            config = checked_config(read_json(made), made)
            met.configs[(tuple(config.data_folders), config.on_bad, config.views)] = config
    return met


def runs_of_file(card: dict[str, Any], runs_dir: Path = REPO_ROOT / "runs") -> list[Path]:
    """The folders of the runs that a file was exported from, where they are still here: same study,
    name and parameters."""
    made = card.get("run") or {}
    rows = card.get("members") or [made]
    found = []
    for row in rows:
        folder = runs_dir / str(made.get("study")) / str(row.get("run"))
        record = folder / "record.json"
        if record.exists() and read_json(record).get("config_hash") == row.get("config_hash"):
            found.append(folder)
    return found if len(found) == len(rows) else []


def without_met(films: Films, store: np.ndarray, met: Met) -> tuple[Films, list[str]]:
    """The films that the runs have not met, and notes on what could not be checked.

    store: the image cache (N, S, S) of the films, in which radiographs are compared.
    """
    notes = list(met.notes)
    copies, unread = _copies(films, store, met, store.shape[1])
    notes += unread
    for reason, images, people in (
        (TRAINED_ON, met.trained, met.trained_patients),
        (TESTED_INSIDE, met.tested, met.tested_patients),
    ):
        patients, ids = films.frame["patient"], films.frame["image"]
        population = patients.str.partition(":")[0]
        real = (population != PHANTOM).to_numpy()
        same = population.isin(met.populations).to_numpy()
        shown = [sorted(copies.get(name, set()) & images) for name in ids]
        copied = np.array([bool(names) for names in shown], bool)
        alike = np.array([f"as {names[0]}" if names else "" for names in shown], object)
        marks = {  # the surest last: it is the one that is noted
            "radiograph": (copied, alike),
            "image id": (ids.isin(images).to_numpy() & same & real, ids.to_numpy(object)),
            "patient": (patients.isin(people).to_numpy() & real, patients.to_numpy(object)),
        }
        by, details = (np.full(len(ids), "", object) for _ in range(2))
        for name, (rows, text) in marks.items():
            by, details = np.where(rows, name, by), np.where(rows, text, details)
        films = films.without(by != "", reason, details, by)
    return films, notes


def same_hospital(films: Films, populations: set[str]) -> str:
    """A sentence where the films are of the hospital whose films trained the model, else empty."""
    shared = films.populations & populations
    if films.populations & set(NIH_SETS) and populations & set(NIH_SETS):
        return (
            "These films are the NIH's, as are those that the model was trained on: other patients of the same "
            "hospital, which is no external validation in the strict sense."
        )
    if PHANTOM in shared:
        return "Both sets are phantoms, drawn by one program: this shows how it works, and nothing else."
    if shared:
        return (
            f"These films are of the population {', '.join(sorted(shared))}, which the model was trained on too: "
            "this is no external validation in the strict sense."
        )
    return ""


def _earlier(folder: Path, met: Met) -> list[Path]:
    """The earlier stages of a run: where its config says, or beside it; one that is not there is
    noted."""
    stages: list[Path] = []
    start = read_json(folder / "config.json").get("init_from")
    while start:
        named = Path(start)
        places = [folder.parent / named.name, resolve(start)]
        stage = next((place for place in places if (place / "splits.csv").exists()), None)
        if stage is None:
            met.notes.append(
                f"The earlier stage {start} of {folder.name} is not there: whether it was trained on these films "
                "was not checked."
            )
            break
        stages.append(stage)
        start = read_json(stage / "config.json").get("init_from")
    return stages


def _copies(
    films: Films, store: np.ndarray, met: Met, size: int
) -> tuple[dict[str, set[str]], list[str]]:
    """image -> the images that a run has met and that show the same radiograph; and notes on sets that
    cannot be read."""
    copies: dict[str, set[str]] = {}
    notes: list[str] = []
    ids = films.frame["image"].to_numpy(str)
    for config in met.configs.values():
        try:
            frame = read_rows(config)[1]
            known = open_cache(
                frame, size, progress=False
            )  # that of the training, at the same size
        except (DatasetError, OSError):
            names = ", ".join(path.name for path in config.data_folders)
            notes.append(
                f"The films of {names}, which trained the model, cannot be read here: copies of them under other names "
                "were not looked for."
            )
            continue
        images = frame["image"].to_numpy(str)
        for ours, theirs in copies_between(store, known):
            copies.setdefault(ids[ours], set()).add(str(images[theirs]))
    return copies, notes
