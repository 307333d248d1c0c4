"""In: the plan of a film. Out: the plan with one thing changed that is no sign of any finding.

The plain film that all changes start from is upright, without markers, devices and borders. Places
vary a little from chest to chest.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lib.phantoms.draw import FilmPlan, as_portable
from lib.phantoms.film import PACEMAKER, Stroke, electrode, letter_l, tube

Change = Callable[[FilmPlan, np.random.Generator], FilmPlan]


@dataclass(frozen=True)
class Nuisance:
    """A change that should not matter; `kind` is marker, device, view or exposure."""

    name: str
    kind: str
    change: Change


def plain_plan(plan: FilmPlan) -> FilmPlan:
    """The same body and exposure without markers, devices and borders."""
    return _with_technique(plan, markers=(), devices=(), border=(0.0,) * 4)


def _with_technique(plan: FilmPlan, **changes) -> FilmPlan:
    return replace(plan, technique=replace(plan.technique, **changes))


def _letter_l(plan: FilmPlan, rng: np.random.Generator) -> FilmPlan:
    """An L beside the patient's left shoulder, larger and bolder than phantoms usually have it."""
    letter = letter_l(rng.uniform(455, 475), rng.uniform(20, 45), rng.uniform(30, 38), width=9)
    return _with_technique(plan, markers=letter)


def _letter_r(plan: FilmPlan, rng: np.random.Generator) -> FilmPlan:
    """An R beside the patient's right shoulder."""
    x, y, tall = rng.uniform(30, 50), rng.uniform(20, 45), rng.uniform(30, 38)
    right, middle = x + 0.55 * tall, y + 0.5 * tall
    stem = Stroke("line", (x, y, x, y + tall), 255, 9)
    bowl = Stroke("line", (x, y, right, y, right, middle, x, middle), 255, 8)
    leg = Stroke("line", (x + 0.2 * tall, middle, right, y + tall), 255, 9)
    return _with_technique(plan, markers=(stem, bowl, leg))


def _tag(across: float, down: float) -> Change:
    """A bright rectangular label around (across, down), in shares of the side."""

    def change(plan: FilmPlan, rng: np.random.Generator) -> FilmPlan:
        x, y = 512 * across + rng.uniform(-12, 12), 512 * down + rng.uniform(-12, 12)
        half_width, half_height = rng.uniform(26, 36), rng.uniform(13, 18)
        corners = (x - half_width, y - half_height, x + half_width, y + half_height)
        return _with_technique(plan, markers=(Stroke("box", corners),))

    return change


def _electrodes(plan: FilmPlan, rng: np.random.Generator) -> FilmPlan:
    strokes = [
        stroke
        for _ in range(3)
        for stroke in electrode(
            rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.7), rng.uniform(0, 1), rng.normal(0, 0.1)
        )
    ]
    return _with_technique(plan, devices=tuple(strokes))


def _tube(plan: FilmPlan, rng: np.random.Generator) -> FilmPlan:
    line = tube(float(rng.choice((0.42, 0.5, 0.57))), rng.uniform(0.4, 0.9), rng.normal(0, 0.02))
    return _with_technique(plan, devices=(line,))


def _pacemaker(plan: FilmPlan, _rng: np.random.Generator) -> FilmPlan:
    return _with_technique(plan, devices=(PACEMAKER,))


def _portable(plan: FilmPlan, _rng: np.random.Generator) -> FilmPlan:
    return as_portable(plan)


def _exposure(low: float, span: float) -> Change:
    """Moves black by `low` and multiplies the range from black to white by `span`."""

    def change(plan: FilmPlan, _rng: np.random.Generator) -> FilmPlan:
        technique = plan.technique
        return _with_technique(plan, low=technique.low + low, span=technique.span * span)

    return change


def _border(plan: FilmPlan, rng: np.random.Generator) -> FilmPlan:
    return _with_technique(plan, border=tuple(rng.uniform(0.03, 0.06, 4).tolist()))


NUISANCES = (
    Nuisance("letter L", "marker", _letter_l),
    Nuisance("letter R", "marker", _letter_r),
    Nuisance("tag, top left", "marker", _tag(0.13, 0.08)),
    Nuisance("tag, top right", "marker", _tag(0.80, 0.08)),
    Nuisance("tag, bottom left", "marker", _tag(0.13, 0.92)),
    Nuisance("tag, bottom right", "marker", _tag(0.87, 0.92)),
    Nuisance("electrodes", "device", _electrodes),
    Nuisance("tube", "device", _tube),
    Nuisance("pacemaker", "device", _pacemaker),
    Nuisance("portable view", "view", _portable),
    Nuisance("darker", "exposure", _exposure(0.05, 1.13)),
    Nuisance("lighter", "exposure", _exposure(-0.05, 0.87)),
    Nuisance("narrow field", "exposure", _border),
)
"""The exposures are two standard deviations of those of phantoms away: black by 0.05, the range by
13 %."""
