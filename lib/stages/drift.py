"""In: the stages of an arm. Out: how far every depth of the backbone moved in each of them.

How alike a depth is before and after a stage is the linear CKA (Kornblith et al. 2019,
`metrics.linear_cka`) of its activations for the same images: those that the arm's last stage
validates on, for every transition, so that transitions compare. No stage of the chain trains on
them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.config import Config
from lib.exceptions import CxrError
from lib.files import read_json
from lib.metrics.similarity import alignment, unit_gram
from lib.models.classifier import Classifier, build_model, load_model
from lib.models.predicting import make_fabric
from lib.stages.answers import Films
from lib.stages.chains import Chain, Stages, direct_runs, read_stages
from lib.stages.depths import depth_activations, depth_names

IMAGES = 128
"""Images of the validation split at most; each gives 16 examples."""
START = "start weights"
COLUMNS = ["transition", "before", "after", "depth", "part", "cka", "least", "most", "chance"]
COLUMNS += ["trainings", "images"]


@dataclass(frozen=True)
class Drift:
    """table: a row per transition and depth (1 is the stem, as in `freeze: 1`), columns COLUMNS:
    cka is the mean over trainings, least and most are their ends; chance is what activations of
    unrelated images have there: those of each image before all stages beside the next image's
    after them. notes: what is missing, and why.
    """

    stages: Stages
    table: pd.DataFrame
    notes: tuple[str, ...]

    def sentences(self) -> list[str]:
        """One per transition: where it moved most, and how far the stem did; then the notes."""
        text = []
        for transition, rows in self.table.groupby("transition", sort=False):
            moved, stem = rows.loc[rows["cka"].idxmin()], rows.iloc[0]
            text.append(
                f"How far the layers moved, {transition}: most at depth {moved['depth']} of "
                f"{len(rows)} ({moved['part']}), linear CKA {moved['cka']:.2f} "
                f"(unrelated images: {moved['chance']:.2f}); "
                f"at the stem {stem['cka']:.2f}."
            )
        return [*text, *self.notes]


def stage_drift(folder: Path, arm: str | None = None, images: int = IMAGES) -> Drift:
    """How far each depth moved in every stage of an arm (by default the reference), over all of
    them, and without the earlier ones, where the study has such an arm.

    Chains of the first fold alone, all seeds: other folds say the same for much more time. Without
    complete chains of at least two stages the table is empty. Raises RunError as `read_stages`.
    """
    stages = read_stages(folder, arm)
    notes, rows = stages.notes(), []
    first = min((chain.fold for chain in stages.chains), default=0)
    chains = [chain for chain in stages.chains if chain.fold == first]
    shared = Films()
    for chain in chains if len(stages.names) > 1 else ():
        try:
            pixels = _validation_images(folder / chain.runs[-1], images, shared)
            rows += _chain_moves(stages, chain, pixels)
        except CxrError as error:
            notes.append(f"How far the layers of seed {chain.seed} moved is not known: {error}")
    return Drift(stages, _means(rows), tuple(notes))


def _validation_images(folder: Path, most: int, films: Films) -> np.ndarray:
    """At most so many images that the run in `folder` validates on, evenly spaced by their names:
    (N, S, S) uint8."""
    config = Config(**read_json(folder / "config.json"))
    data = films.of(folder, config.image_size)
    rows = np.flatnonzero(data.frame["split"] == "val")
    rows = rows[np.argsort(data.frame["image"].to_numpy(str)[rows], kind="stable")]
    spaced = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
    return np.asarray(data.store[np.sort(rows[spaced])])


def _chain_moves(stages: Stages, chain: Chain, pixels: np.ndarray) -> list[dict[str, Any]]:
    """A row per transition and depth of one chain: what `_means` averages."""
    folders = [stages.folder / run for run in chain.runs]
    config = Config(**read_json(folders[0] / "config.json"))
    start = build_model(config)
    parts, device = depth_names(start), make_fabric(config, start).device
    held = [_activations(start, pixels, device)]
    held += [_activations(load_model(folder)[0], pixels, device) for folder in folders]
    names = [START, *(f"after the {name}" for name in stages.names)]
    moves = [
        (stages.names[i], names[i], names[i + 1], held[i], held[i + 1]) for i in range(len(folders))
    ]
    moves.append((f"all {len(folders)} stages together", START, names[-1], held[0], held[-1]))
    arm, runs = direct_runs(stages)
    if run := runs.get((chain.seed, chain.fold)):
        direct = _activations(load_model(stages.folder / run)[0], pixels, device)
        moves.append((f"{arm} (no stage before)", START, f"after {arm}", held[0], direct))
    chance = [_chance(x, y, len(pixels)) for x, y in zip(held[0], held[-1], strict=True)]
    return [
        {"transition": transition, "before": before, "after": after, "depth": depth + 1}
        | {"part": parts[depth], "cka": alignment(old[depth], new[depth])}
        | {"chance": chance[depth], "images": len(pixels)}
        for transition, before, after, old, new in moves
        for depth in range(len(parts))
    ]


def _activations(model: Classifier, pixels: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """Of each depth (N * fields, C), as `alignment` takes them."""
    return [unit_gram(one) for one in depth_activations(model, pixels, device)]


def _chance(x: np.ndarray, y: np.ndarray, images: int) -> float:
    """The CKA of activations (images * fields, C) of each image with those of the next."""
    return alignment(x, np.roll(y, len(y) // images, axis=0))


def _means(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Over trainings: one row per transition and depth, in the order of the rows."""
    if not rows:
        return pd.DataFrame(columns=COLUMNS)
    keys = ["transition", "before", "after", "depth", "part"]
    table = pd.DataFrame(rows).groupby(keys, sort=False, as_index=False)
    means = table.agg(
        least=("cka", "min"),
        most=("cka", "max"),
        chance=("chance", "mean"),
        trainings=("cka", "size"),
        images=("images", "first"),
        cka=("cka", "mean"),
    )
    return means[COLUMNS]
