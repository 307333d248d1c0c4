"""In: an examination. Out: its sentences in Markdown: one per finding, and what phantoms can and
cannot say."""

import numpy as np
import pandas as pd

from lib.examination.chests import STRENGTH
from lib.examination.examine import Examination
from lib.examination.shortcuts import LIMIT
from lib.examination.signs import chance_of_rising

_OF_FILMS = (
    "This model was not trained on phantoms, but on {data}. A drawn sign is not the sign of a "
    "patient: **a model of films that does not react to it is not shown to be wrong**, and one that "
    "reacts is not shown to be right. A reaction to a marker, a device, the view or the exposure is "
    "a warning worth a look at the model's own films, and its absence is no proof."
)
_OF_PHANTOMS = (
    "This model was trained on phantoms, so the signs are those that it was shown. What is found "
    "holds for phantoms. Among those that it was trained on, some findings come with a view or with "
    "devices more often than others: a model may have learned that, and is caught with reason."
)
_UNKNOWN = "films that its card does not name"


def examination_text(found: Examination) -> str:
    """What was done, what it can say for this model, and one sentence per finding."""
    rows = {row["finding"]: row for row in found.signs.to_dict("records")}
    heat = {row["finding"]: row for row in found.heat.to_dict("records")}
    lines = [
        _sentence(rows[name], heat[name], found.shortcuts[found.shortcuts["finding"] == name])
        for name in heat
    ]
    if found.undrawn:
        lines.append(f"Not examined, since phantoms do not show it: {', '.join(found.undrawn)}.")
    head = (
        f"Phantoms of {found.chests} people, drawn with seed {found.seed}: the same chest with and "
        f"without a sign (strength {STRENGTH:g}), fainter, larger, elsewhere, and with another "
        f"marker, device, view or exposure. In brackets: 95 % intervals over chests. A nuisance is "
        f"caught where it moves the logit significantly further than {LIMIT:g} times what the sign "
        f"does, and than {LIMIT:g} times what chests differ by "
        f"(p < 0.05, corrected over {len(found.shortcuts)} comparisons)."
    )
    parts = [f"# Examination of {found.card['name']}", head, _scope(found), _unlike(found)]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in lines)]) + "\n"


def of_phantoms(found: Examination) -> bool:
    """Whether the model's card says that it was trained on phantoms."""
    return bool((found.card.get("data") or {}).get("phantom", False))


def _scope(found: Examination) -> str:
    if of_phantoms(found):
        return _OF_PHANTOMS
    data = found.card.get("data") or {}
    named = data.get("about") or ", ".join(map(str, data.get("layouts", {}).values()))
    return _OF_FILMS.format(data=named.rstrip(".") or _UNKNOWN)


def _unlike(found: Examination) -> str:
    if np.isnan(found.unlikeness).all():
        return "The model's card cannot say how unlike its training images these phantoms are."
    limit = found.card["familiarity"]["threshold"]
    return (
        f"Out-of-distribution scores of the plain phantoms: median {np.median(found.unlikeness):.2f} "
        f"({found.unlikeness.min():.2f} to {found.unlikeness.max():.2f}); the card's threshold is "
        f"{limit:.2f}, and {int(found.unlike.sum())} of {found.chests} are over it."
    )


def _sentence(row: dict, heat: dict, shortcuts: pd.DataFrame) -> str:
    return f"**{row['finding']}**: {_reaction(row)} {_nuisances(shortcuts)} {_heat(heat)}"


def _reaction(row: dict) -> str:
    prob = _numbers(row, "prob_change", "+.3f")
    logit = _numbers(row, "logit_change", "+.2f")
    if row["reacts"]:
        verb = "the sign raises the answer"
    elif row["p_holm"] < 0.05:
        verb = "the sign lowers the answer"
    else:
        verb = "no reaction to the sign can be told from chance"
    rises = ", ".join(
        f"{ladder} in {row[f'{ladder}_rises']:.0%} of chests "
        f"({row[f'{ladder}_rises_low']:.0%} to {row[f'{ladder}_rises_high']:.0%}; "
        f"chance {chance_of_rising(ladder):.1%})"
        for ladder in ("contrast", "strength")
    )
    if row["spread"] > 0:
        logit += f", {row['logit_change'] / row['spread']:.2f} times what chests differ by"
    return f"{verb}, probability {prob}, logit {logit}; it rises at every step of {rises}."


def _nuisances(rows: pd.DataFrame) -> str:
    caught = rows[rows["caught"]].sort_values("logit_change", key=np.abs, ascending=False)
    if caught.empty:
        worst = rows.loc[rows["logit_change"].abs().idxmax()].to_dict()
        return f"No nuisance is caught; the largest change of the logit is that of {_named(worst)}."
    names = "; ".join(_named(row) for row in caught.head(3).to_dict("records"))
    more = f"; and {len(caught) - 3} more" if len(caught) > 3 else ""
    return f"**Caught: {names}{more}.**"


def _named(row: dict) -> str:
    change = f"{row['nuisance']} {row['sign']} the sign, {_numbers(row, 'logit_change', '+.2f')}"
    if np.isnan(row["score"]):
        return change
    return f"{change}, {_numbers(row, 'score', '.2f')} times the sign"


def _heat(row: dict) -> str:
    if np.isnan(row["p_holm"]):
        return "Its sign has no box to compare the heat map with."
    empty = f" {row['empty']} of these maps are 0 everywhere." if row["empty"] else ""
    word = "follows the sign" if row["follows"] else "is not shown to follow the sign"
    if row["moves"]:
        both = (row["energy_there"], row["energy_after"])
        return (
            f"The heat map {word}: {both[0]:.0%} of it lies in the box, {both[1]:.0%} after the move, "
            f"{row['energy_elsewhere']:.0%} in a box that the sign has left "
            f"(difference {_numbers(row, 'energy_follow', '+.0%')}; {row['moved']} chests).{empty}"
        )
    return (
        f"The heat map {word}, which has one place: {row['energy_there']:.0%} of it lies in the box, "
        f"{row['energy_none']:.0%} without the sign "
        f"(difference {_numbers(row, 'energy_gain', '+.0%')}).{empty}"
    )


def _numbers(row: dict, name: str, kind: str) -> str:
    return f"{row[name]:{kind}} ({row[f'{name}_low']:{kind}} to {row[f'{name}_high']:{kind}})"
