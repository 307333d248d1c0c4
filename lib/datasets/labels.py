"""In: what a listing says of each image. Out: targets (1, 0, NaN), the labels that are in doubt, and
what is trained on.

A label is in doubt where the set calls it uncertain (-1) or its readers disagree (a share). What is
made of it decides about training alone: validation and test images keep certain labels and the
majority of readers, so that runs that differ in it are scored on the same labels.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.config import FINDINGS, NO_FINDING, Config
from lib.datasets.layouts import Row, canonical_finding
from lib.datasets.splits import unit_hash

DOUBT_COLUMNS = ["image", "finding", "value"]
UNCERTAIN = -1.0
SMOOTH = (0.55, 0.85)
"""Between these lies the target of an uncertain label that is smoothed (Pham et al. 2021)."""
SMOOTH_SEED = 0


def parse_labels(text: str | None) -> tuple[frozenset[str] | None, str, str]:
    """'Mass|Nodule' -> (its findings, '', ''); None for no label; with a kind and a detail where it
    is wrong."""
    if text is None:
        return None, "", ""
    names = [canonical_finding(part) for part in text.split("|")]
    if None in names:
        unknown = [part for part, name in zip(text.split("|"), names, strict=True) if name is None]
        return frozenset(), "unknown finding", "|".join(map(repr, unknown))
    if NO_FINDING in names and len(set(names)) > 1:
        return frozenset(), "contradictory labels", repr(text)
    return frozenset(name for name in names if name and name != NO_FINDING), "", ""


def targets_of(rows: Sequence[Row], complete: bool) -> np.ndarray:
    """(N, 14) of 1, 0 and NaN. A source that is not complete annotates only the findings that it
    names. An uncertain label is NaN; where readers disagree, at least one half of them decide."""
    parsed = {text: parse_labels(text)[0] for text in {row.labels for row in rows}}
    named = (
        set(FINDINGS) if complete else set().union(*(found for found in parsed.values() if found))
    )
    texts = {
        text: [
            np.nan if found is None or name not in named else float(name in found)
            for name in FINDINGS
        ]
        for text, found in parsed.items()
    }
    targets = [
        texts[row.labels]
        if row.values is None
        else [row.values.get(name, np.nan) for name in FINDINGS]
        for row in rows
    ]
    array = np.array(targets, dtype=float).reshape(-1, len(FINDINGS))
    array[array == UNCERTAIN] = np.nan
    return np.where(np.isnan(array), np.nan, array >= 0.5)


def doubtful_labels(rows: Sequence[Row]) -> pd.DataFrame:
    """image, finding and value (-1 uncertain, or the share of readers) of the labels in doubt."""
    doubts = [
        (row.image, name, value)
        for row in rows
        for name, value in (row.values or {}).items()
        if value not in (0.0, 1.0)
    ]
    types = {"image": pd.StringDtype(na_value=np.nan), "finding": str, "value": float}
    return pd.DataFrame(doubts, columns=DOUBT_COLUMNS).astype(types)


def training_labels(frame: pd.DataFrame, doubts: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The frame with the labels of its training rows that `uncertain` and `readers` ask for.

    frame: with a column split; doubts: of `doubtful_labels`. `zeros` and `ones` are Irvin et al.'s
    (2019) U-Zeros and U-Ones, `ignore` their U-Ignore; `smooth` is a target between 0.55 and 0.85
    (U-Ones with label smoothing, Pham et al. 2021), a hash of image and finding, the same in every
    run. With `readers: share` the target is the share of readers who see the finding. A label that
    another source is certain of is kept.
    """
    rows = pd.Index(frame["image"]).get_indexer(doubts["image"])
    trained = frame["split"].isin(["train", "unused"]).to_numpy()
    frame = frame.copy()
    for name, part in doubts.assign(row=rows)[rows >= 0].groupby("finding"):
        part = part[trained[part["row"]]]
        values, old = part["value"].to_numpy(), frame[name].to_numpy()[part["row"]]
        unsure = (values == UNCERTAIN) & np.isnan(old)
        shared = (values != UNCERTAIN) & (old == (values >= 0.5)) & (config.readers == "share")
        new = np.where(shared, values, old)
        new[unsure] = [_uncertain(config, name, image) for image in part["image"][unsure]]
        frame.iloc[part["row"], frame.columns.get_loc(name)] = new
    return frame


def _uncertain(config: Config, finding: str, image: str) -> float:
    rules = config.uncertain
    rule = rules if isinstance(rules, str) else rules.get(finding, "ignore")
    if rule == "smooth":
        low, high = SMOOTH
        return low + (high - low) * unit_hash(SMOOTH_SEED, f"uncertain {finding}", image)
    return {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}[rule]
