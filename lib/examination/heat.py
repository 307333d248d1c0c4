"""In: heat maps of a chest without a sign, with it, and with it elsewhere. Out: how much of each map
lies in the sign's box.

A map that always lies where a sign tends to be meets its box, too. So a box is compared with itself:
the same box of the same chest, with the sign in it, without any, and with the sign elsewhere.
"""

from typing import Any

import numpy as np
import pandas as pd

from lib.comparison.significance import holm
from lib.examination.chests import FilmKey, Films, Place
from lib.examination.intervals import mean_interval, named, p_mean
from lib.metrics.bootstrap import ALPHA
from lib.metrics.error_analysis import MEASURES, box_scores


def heat_rows(chest: int, films: Films, maps: dict[FilmKey, np.ndarray]) -> list[dict[str, Any]]:
    """A row per finding whose sign has a box: chest, finding, area (share of the film in the box),
    moved (whether the sign has another place), empty (how many of the maps are 0 everywhere).

    For each measure of `box_scores`, energy and pointing: _there (the box with the sign in it),
    _none (the same box, no sign); after the move _after (the new box with the sign in it) and
    _elsewhere (each box while the sign is in the other one, on average), NaN without a move. A map
    that is 0 everywhere has nothing in any box.
    """
    rows = []
    for finding, box in films.boxes.items():
        there, none = maps[FilmKey(finding, "")], maps[FilmKey(finding, "without")]
        other = films.moved.get(finding)
        used = [none, there]
        row: dict[str, Any] = {"chest": chest, "finding": finding, "area": box[2] * box[3]}
        row |= {"moved": other is not None}
        row |= _shares("there", there, box) | _shares("none", none, box)
        row |= {
            f"{measure}_{part}": np.nan for measure in MEASURES for part in ("after", "elsewhere")
        }
        if other is not None:
            after = maps[FilmKey(finding, "moved")]
            used.append(after)
            row |= _shares("after", after, other)
            old, new = _shares("elsewhere", after, box), _shares("elsewhere", there, other)
            row |= {name: (old[name] + new[name]) / 2 for name in old}
        rows.append(row | {"empty": sum(not one.any() for one in used)})
    return rows


def _shares(part: str, heat: np.ndarray, box: Place) -> dict[str, float]:
    scores = box_scores(heat[None].astype(np.float64), np.array([box])).fillna(0.0).iloc[0]
    return {f"{measure}_{part}": float(scores[measure]) for measure in MEASURES}


def heat_table(heat: pd.DataFrame, drawn: tuple[str, ...]) -> pd.DataFrame:
    """One row per finding of `drawn`: means of the columns of `heat_rows` over chests, where the
    sign has another place over those in which it was moved.

    Columns: finding, chests (with a box), moved (chests whose sign could be moved), empty, area;
    for energy and pointing _there, _none, _after, _elsewhere (means); _gain: there - none; _follow:
    the mean of there and after, less elsewhere; both with _low and _high (Student, 95 %). 0 is
    chance in both. p and p_holm: Student's test of energy_follow, or of energy_gain where the sign
    has one place only (`moves` is False); follows: p_holm < 0.05, and it rises. NaN without boxes.
    """
    table = pd.DataFrame([_mean_row(heat, finding) for finding in drawn])
    table["p_holm"] = holm(table["p"])
    better = table["energy_follow"].where(table["moves"], table["energy_gain"])
    table["follows"] = (table["p_holm"] < ALPHA) & (better > 0)
    return table


def _mean_row(heat: pd.DataFrame, finding: str) -> dict[str, Any]:
    part = heat[heat["finding"] == finding] if len(heat) else pd.DataFrame()
    row: dict[str, Any] = {"finding": finding, "chests": len(part), "moved": 0, "empty": 0}
    row |= {"moves": False, "area": np.nan, "p": np.nan}
    for measure in MEASURES:
        row |= {f"{measure}_{name}": np.nan for name in ("there", "none", "after", "elsewhere")}
        row |= {f"{measure}_{name}": np.nan for name in ("gain", "follow")}
    if part.empty:
        return row
    row |= {"moved": int(part["moved"].sum()), "empty": int(part["empty"].sum())}
    row |= {"moves": row["moved"] > 1, "area": part["area"].mean()}
    part = part[part["moved"]] if row["moves"] else part
    tested = {}
    for measure in MEASURES:
        for name in ("there", "none", "after", "elsewhere"):
            row[f"{measure}_{name}"] = part[f"{measure}_{name}"].mean()
        gain = (part[f"{measure}_there"] - part[f"{measure}_none"]).to_numpy()
        both = (part[f"{measure}_there"] + part[f"{measure}_after"]) / 2
        follow = (both - part[f"{measure}_elsewhere"]).to_numpy()[: row["moved"]]
        row |= named(f"{measure}_gain", mean_interval(gain))
        row |= named(f"{measure}_follow", mean_interval(follow))
        tested[measure] = follow if row["moves"] else gain
    return row | {"p": p_mean(tested["energy"])}
