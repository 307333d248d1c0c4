"""Make one model of the runs of an arm.

In: the folders of complete runs that differ in their seed. Out: a `Source` whose network answers
with their mean, with the card and the test scores of that mean, from the stored predictions.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.exceptions import ExportError
from lib.export.source import Source, read_source
from lib.files import json_values
from lib.inference.card import make_card, read_calibration
from lib.inference.teaching import taught_by
from lib.metrics.bootstrap import bootstrap_interval
from lib.metrics.calibration import Calibration
from lib.metrics.ensemble import ensemble_probs
from lib.metrics.predictions import Predictions, read_predictions
from lib.metrics.scores import MACRO, evaluate
from lib.metrics.thresholds import apply_thresholds

SHARED = ("findings", "image_size", "backbone")
"""In these the members must agree: they decide the shapes of what comes in and goes out."""


def read_ensemble(folders: Sequence[Path]) -> Source:
    """Return the ensemble of the runs in `folders`, in the order of their names.

    Its probabilities are the mean of the members' calibrated ones, its thresholds the mean of the
    members' calibrated thresholds. Images and embedding are those of the first member. Raises
    ExportError for fewer than two runs, and for runs that differ in SHARED or in their test
    images.
    """
    if len(folders) < 2:
        raise ExportError(
            f"an ensemble needs two runs or more, and there is only {', '.join(map(str, folders))}: "
            "export that run itself, or train more seeds"
        )
    folders = sorted((folder.resolve() for folder in folders), key=_by_number)
    members = tuple(read_source(one, images=one == folders[0]) for one in folders)
    for key in SHARED:
        _check_same(folders, key, [member.card[key] for member in members])
    mean = mean_predictions(folders, [member.card for member in members])
    exported = [make_card("", member.card, member.record["metrics"]) for member in members]
    thresholds = np.mean([card["thresholds"] for card in exported], axis=0)
    rules = zip(*(card["thresholds_from"] for card in exported), strict=True)
    scored = (mean.targets, mean.probs)
    metrics = evaluate(
        *scored, mean.findings, thresholds, [_joined(one) for one in rules], mean.patients
    ).merge(bootstrap_interval(*scored, mean.patients, mean.findings, thresholds))
    card = _ensemble_card(members, exported, thresholds, mean)
    study, arm = folders[0].parent.name, _arm(folders)
    record = {"study": study, "run": arm, "git": members[0].record.get("git")}
    record["metrics"] = json_values(metrics.to_dict("records"))
    first = members[0]
    return replace(first, name=f"{study}-{arm}", card=card, record=record, members=members)


def mean_predictions(folders: Sequence[Path], cards: Sequence[dict[str, Any]]) -> Predictions:
    """Return the test predictions of an ensemble: the mean of the calibrated probabilities (N, F).

    They come from the runs' stored predictions. Raises ExportError when two runs were not tested on
    the same images with the same labels.
    """
    tested = [read_predictions(folder / "predictions.parquet") for folder in folders]
    first = tested[0]
    for folder, other in zip(folders[1:], tested[1:], strict=True):
        if not (
            np.array_equal(first.images, other.images)
            and np.array_equal(first.targets, other.targets, equal_nan=True)
        ):
            raise ExportError(
                f"{folders[0].name} and {folder.name} were not tested on the same images: "
                "the ensemble would be scored on images that one of them was trained on"
            )
    maps = [_calibration(card) for card in cards]
    return replace(first, probs=ensemble_probs([one.probs for one in tested], maps))


def describe_members(members: Sequence[Source]) -> list[dict[str, Any]]:
    """Return what the card says of each member: run, seed, config, test score, first weights."""
    return [
        {
            "run": member.record["run"],
            "seed": member.record["config"].get("seed"),
            "config_hash": member.record["config_hash"],
            "auroc": next(
                (row.get("auroc") for row in member.record["metrics"] if row["finding"] == MACRO),
                None,
            ),
            "weights": member.card.get("weights"),
        }
        for member in members
    ]


def _ensemble_card(
    members: Sequence[Source],
    exported: Sequence[dict[str, Any]],
    thresholds: np.ndarray,
    mean: Predictions,
) -> dict[str, Any]:
    """Return the card of an ensemble, as that of a run whose probabilities need no calibration."""
    first, count = members[0].card, len(mean.findings)
    return {key: first[key] for key in (*SHARED, "head", "data")} | {
        "weights": _weights([member.card for member in members]),
        "widths": _widths([member.card for member in members]),
        "thresholds": thresholds.tolist(),
        "operating_points": _points(exported, mean),
        "calibration": {
            "method": ["members"] * count,
            "slope": [1.0] * count,
            "intercept": [0.0] * count,
        },
    }


def _weights(cards: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the texts about the members' first weights, and all runs that taught any of them."""
    texts = dict.fromkeys((card.get("weights") or {}).get("text") for card in cards)
    words = "; ".join(filter(None, texts))
    runs = list(dict.fromkeys(run for card in cards for run in taught_by(card)))
    return {"text": words, **({"taught_by": runs} if runs else {})} if words else None


def _widths(cards: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Return the share of channels that was removed from every member; None where they differ in
    it."""
    shares = {(card.get("widths") or {}).get("share") for card in cards}
    share = shares.pop()
    return None if shares or share is None else {"share": share}


def _points(exported: Sequence[dict[str, Any]], mean: Predictions) -> list[dict[str, Any]]:
    """Return the operating points that all members have: mean thresholds, and what they do on
    test."""
    rows = pd.DataFrame([row for card in exported for row in card["operating_points"]])
    if rows.empty:
        return []
    grouped = rows.groupby(["finding", "rule"], sort=False)
    chosen = grouped.agg(threshold=("threshold", "mean"), source=("source", _joined))
    chosen = chosen[grouped.size() == len(exported)].reset_index()
    columns = [mean.findings.index(name) for name in dict.fromkeys(chosen["finding"])]
    if not columns:
        return []
    scored = apply_thresholds(
        chosen, mean.targets[:, columns], mean.probs[:, columns], mean.patients
    )
    return json_values(scored.to_dict("records"))


def _calibration(card: dict[str, Any]) -> Calibration:
    """Return the calibration of a run's card, which changes nothing where the card has none."""
    return Calibration.from_maps(card["findings"], **read_calibration(card))


def _check_same(folders: Sequence[Path], key: str, values: Sequence[Any]) -> None:
    other = next((i for i, value in enumerate(values) if value != values[0]), None)
    if other is not None:
        raise ExportError(
            f"{folders[0].name} and {folders[other].name} differ in {key} ({values[0]} and "
            f"{values[other]}): the runs of an ensemble need the same"
        )


def _arm(folders: Sequence[Path]) -> str:
    """Return what the runs' names have in common but for the seed: `direct-s1-f2` -> direct-f2."""
    names = {re.sub(r"-s\d+(?=$|-f\d+$)", "", folder.name) for folder in folders}
    return names.pop() if len(names) == 1 else "ensemble"


def _by_number(folder: Path) -> list[tuple[int, str]]:
    """Sort s10 after s9."""
    parts = re.split(r"(\d+)", folder.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _joined(sources: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(sources))
