"""In: heat maps and boxes drawn by radiologists. Out: whether the maps point into the boxes, against a fixed guess."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from lib.intervals import patient_codes, resample_counts
from lib.models import load_model
from lib.served import closed_form

CELLS = 64  # a side of the maps that are scored
MEASURES = ("pointing", "energy")
BOX_PIXELS = 1024  # BBox_List_2017.csv counts in pixels of the originals, 1024 a side


@torch.inference_mode()
def heat_maps(folder: Path, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """Heat maps (N, F, 64, 64) of a run's model: images (N, S, S) uint8; those of `lib.served`, enlarged bilinearly."""
    model, _ = load_model(folder)
    answer = closed_form(model, images.shape[-1])
    maps = []
    for start in range(0, len(images) or 1, batch):  # no film is a batch too
        grey = torch.from_numpy(images[start : start + batch]).unsqueeze(1).float() / 255  # (B, 1, S, S)
        coarse = answer((grey - model.mean) / model.std)[1]  # (B, F, h, w)
        maps.append(F.interpolate(coarse, (CELLS, CELLS), mode="bilinear").numpy())
    return np.concatenate(maps)


def box_scores(maps: np.ndarray, boxes: np.ndarray) -> pd.DataFrame:
    """How well heat maps (N, h, w), >= 0, meet boxes (N, 4): left, top, width, height as shares of the film's sides.

    pointing: 1 where the maximum lies in the box, 0 elsewhere (the pointing game, Zhang et al. 2016; several equal
    maxima count by their share). energy: the share of the map's sum inside the box (Wang et al. 2020). Both weigh
    cells that the box covers partly by the covered part. NaN where a map is 0 everywhere. centre_pointing and
    centre_energy are those of a fixed guess, a Gaussian at the centre of the film, a quarter of a side wide.
    """
    height, width = maps.shape[1:]
    inside = (
        _coverage(boxes[:, 1], boxes[:, 3], height)[:, :, None] * _coverage(boxes[:, 0], boxes[:, 2], width)[:, None]
    )
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in (height, width))
    centre = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 0.25**2))
    table = {}
    for prefix, each in (("", maps), ("centre_", np.broadcast_to(centre, maps.shape))):
        highest = each == each.max(axis=(1, 2), keepdims=True)
        whole = each.sum(axis=(1, 2))
        some = whole > 0
        table[f"{prefix}pointing"] = np.where(
            some, (highest * inside).sum(axis=(1, 2)) / highest.sum(axis=(1, 2)), np.nan
        )
        table[f"{prefix}energy"] = np.where(some, (each * inside).sum(axis=(1, 2)) / np.where(some, whole, 1), np.nan)
    return pd.DataFrame(table)


def pointing_table(scores: pd.DataFrame, findings: Sequence[str], n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Means of `box_scores` per finding and over all boxes, with 95 % intervals from resampled patients.

    `scores` also has the columns finding and patient. A row a finding with boxes, then `all` (no row without a box):
    boxes, patients, and for each of MEASURES the mean, _low, _high, centre_ (the fixed guess), gain_low and gain_high
    (of the difference).
    """
    rows = []
    for name in [name for name in findings if (scores["finding"] == name).any()] + ["all"] * (len(scores) > 0):
        part = scores if name == "all" else scores[scores["finding"] == name]
        codes, count = patient_codes(part["patient"], len(part))
        weights = resample_counts(count, n, seed)[:, codes] if count > 1 else np.full((1, len(part)), np.nan)
        row = {"finding": name, "boxes": len(part), "patients": count}
        for measure in MEASURES:
            ours, centre = part[measure].fillna(0).to_numpy(), part[f"centre_{measure}"].to_numpy()
            low, high = _limits(weights, ours)
            gain = _limits(weights, ours - centre)
            row |= {measure: ours.mean(), f"{measure}_low": low, f"{measure}_high": high}
            row |= {f"centre_{measure}": centre.mean(), f"{measure}_gain_low": gain[0], f"{measure}_gain_high": gain[1]}
        rows.append(row)
    return pd.DataFrame(rows)


def _limits(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.quantile(weights @ values / weights.sum(axis=1), [0.025, 0.975])


def _coverage(start: np.ndarray, length: np.ndarray, cells: int) -> np.ndarray:
    """The covered part of each of `cells` cells of a side by boxes (N,) in shares of that side: (N, cells)."""
    edges = np.arange(cells + 1) / cells
    low = np.maximum(start[:, None], edges[:-1])
    high = np.minimum((start + length)[:, None], edges[1:])
    return np.clip(high - low, 0, None) * cells
