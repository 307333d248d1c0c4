"""In: the measures of one synthetic chest. Out: its layers (air, tissue, bone, vessels), before any
finding.

Coordinates: x from -0.5 to 0.5 (image left to right; the patient's left is positive), y from 0
(top) to 1 (bottom); 1 is about 40 cm. A layer is an X-ray attenuation: layers add up, air
subtracts, and the film turns the sum into grey.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Array = np.ndarray
# vessels and wires are drawn on this grid, then reduced, so that every size shows the same ones
_CANVAS = 1024


@dataclass(frozen=True)
class Anatomy:
    """The measures of one chest on one film, in units of 40 cm; pairs are (image left, image
    right)."""

    half_width: float  # of the rib cage inside
    apex: float  # y of the lung tops
    dome: tuple[float, float]  # y of the top of each half of the diaphragm
    dome_curve: float  # how far the diaphragm falls towards the chest wall
    heart: float  # half width of the left ventricle
    heart_shift: float
    aorta: float  # radius of the aortic knob
    rib_spacing: float
    rib_density: float
    breast: float  # 0 none
    fat: float  # 0 slim, 1 stout
    bubble: float  # radius of the stomach's air bubble, 0 none
    seed: tuple[int, ...]  # of vessels and texture


@dataclass
class Chest:
    """The layers of one chest, each (S, S) float32; the findings draw into `air`, `markings` and
    `opacity`."""

    x: Array
    y: Array
    rim: Array  # distance to the chest wall, positive inside
    height: Array  # height above the diaphragm, positive inside
    lung: Array  # 1 in a lung, 0 elsewhere, soft edge
    air: Array  # thickness of air
    heart: Array  # thickness of heart and great vessels
    tissue: Array  # the rest: wall, abdomen, spine, ribs, clavicles, shoulders
    vessels: Array
    markings: Array  # what is left of the vessels; 1 everywhere in a healthy chest
    opacity: Array  # what findings add
    anatomy: Anatomy


def build_chest(anatomy: Anatomy, size: int, vessels: Array) -> Chest:
    """The healthy layers of `anatomy` on a `size` x `size` grid, with `draw_vessels` of the
    person."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    y, x = np.meshgrid(axis, axis - 0.5, indexing="ij")  # (S, S) each
    rim = _rib_cage(anatomy, y) - np.abs(x)
    height = diaphragm(anatomy, x) - y
    hilum = 0.032 + 0.05 * np.exp(
        -np.maximum(y - anatomy.apex, 0) / 0.035
    )  # medial edge of the lungs
    pixel = 1.0 / size
    lung = (
        smooth(rim, 0, 0.008 + pixel)
        * smooth(height, 0, 0.006 + pixel)
        * smooth(np.abs(x) - hilum, 0, 0.012 + pixel)
    )
    air = (
        lung
        * (0.45 + 0.55 * np.sqrt(np.clip(rim / 0.16, 0, 1)))
        * np.clip(0.55 + 0.6 * (y - anatomy.apex) / 0.3, 0.5, 1)
    )
    heart = _heart(anatomy, x, y)
    air = air * (1 - 0.45 * heart)
    tissue = (
        _soft_tissue(anatomy, x, y, height)
        + _spine(x, y)
        + _ribs(anatomy, x, y, rim) * (0.45 + 0.55 * lung)
        + _shoulders(anatomy, x, y)
    )
    vessels = vessels * lung
    one = np.ones_like(x)
    return Chest(
        x, y, rim, height, lung, air, heart, tissue, vessels, one, np.zeros_like(x), anatomy
    )


def smooth(value: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, a smooth step between (3t^2 - 2t^3)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bell(value: Array, width: float) -> Array:
    """exp(-(value/width)^2)."""
    return np.exp(-np.square(value / width))


def noise(rng: np.random.Generator, cells: int, size: int) -> Array:
    """(size, size) smooth noise, mean 0 and deviation about 1, with `cells` bumps across, whatever
    the size."""
    grid = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    field = np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))
    return field / 0.7


def diaphragm(anatomy: Anatomy, x: Array) -> Array:
    """y of the diaphragm above each x: two domes, steep towards the chest wall."""
    top = anatomy.dome[0] + (anatomy.dome[1] - anatomy.dome[0]) * (x >= 0).astype(np.float32)
    across = np.abs(x) / anatomy.half_width - 0.45
    outer = np.clip(across / 0.55, 0, None)
    inner = np.clip(-across / 0.45, 0, None)
    return (
        top
        + anatomy.dome_curve * (0.35 * outer**2 + 0.65 * outer**5)
        + 0.35 * anatomy.dome_curve * inner**2
    )


def _rib_cage(anatomy: Anatomy, y: Array) -> Array:
    depth = np.clip((y - anatomy.apex) / 0.68, 0, 1)
    shape = (1 - (1 - depth) ** 2.6) ** 0.50 - 0.05 * np.clip(depth - 0.75, 0, None)
    return np.where(y < anatomy.apex, -1.0, anatomy.half_width * shape)


def _ellipse(
    x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float], tilt: float = 0.0
) -> Array:
    """Thickness of an ellipsoid seen from the front: 1 in its middle, 0 at and beyond its edge."""
    dx, dy = x - centre[0], y - centre[1]
    c, s = np.cos(tilt), np.sin(tilt)
    u, v = (c * dx + s * dy) / radii[0], (c * dy - s * dx) / radii[1]
    return np.sqrt(np.clip(1 - u * u - v * v, 0, None))


def _heart(anatomy: Anatomy, x: Array, y: Array) -> Array:
    w, low, dx = anatomy.heart, max(anatomy.dome), anatomy.heart_shift
    left = _ellipse(x, y, (0.035 + 0.2 * w + dx, low - 0.10), (1.25 * w, 0.85 * w), 0.7)
    right = _ellipse(x, y, (-0.03 + dx, low - 0.11), (0.035 + 0.40 * w, 0.62 * w + 0.04))
    waist = _ellipse(x, y, (0.03 + dx, low - 0.25), (0.062 + 0.1 * w, 0.13))
    knob = 0.75 * _ellipse(x, y, (0.045 + 0.5 * dx, 0.33), (anatomy.aorta + 0.01, anatomy.aorta))
    edge = np.square((x - 0.3 * dx - 0.006) / (0.066 - 0.012 * np.cos(9 * y)))
    band = 0.72 * np.sqrt(np.clip(1 - edge, 0, None)) * smooth(y, 0.08, 0.24)
    aorta = (
        0.5
        * np.sqrt(np.clip(1 - np.square((x - 0.045 - 0.5 * dx) / 0.034), 0, None))
        * smooth(y, 0.33, 0.38)
    )
    hila = [
        0.36 * bell(np.hypot(x - k * 0.072, 0.62 * (y - 0.455 + 0.012 * k)), 0.032) for k in (-1, 1)
    ]
    return np.maximum.reduce([left, 0.92 * right, 0.85 * waist, knob, band, aorta, *hila]).astype(
        np.float32
    )


def _soft_tissue(anatomy: Anatomy, x: Array, y: Array, height: Array) -> Array:
    ax = np.abs(x)
    wall = anatomy.half_width + 0.035 + 0.05 * anatomy.fat
    flank = (
        wall
        + 0.015
        + 0.015 * np.cos(7 * y)
        + 0.03 * y
        + 0.75 * np.clip(0.56 - y, 0, None) ** 1.5
        + 0.06 * anatomy.fat * smooth(y, 0.6, 1.0)
    )
    neck = np.maximum(0.10 + 0.03 * anatomy.fat - ax, y + 0.03 - 0.24 * np.clip(ax - 0.1, 0, 0.5))
    body = smooth(flank - ax, 0, 0.07) * smooth(neck, 0, 0.08)
    chord = np.sqrt(np.clip(1 - np.square(x / (wall + 0.16)), 0, None))
    thickness = body * (0.52 + 0.14 * anatomy.fat + 0.06 * chord)
    abdomen = smooth(-height, -0.004, 0.012) * smooth(wall - ax, -0.02, 0.05)
    thickness = thickness + abdomen * (0.12 + 0.22 * np.clip(-height / 0.25, 0, 1)) * chord
    for side in (-1, 1):  # breasts: soft discs whose lower edge shows
        disc = _ellipse(
            x,
            y,
            (side * 0.62 * anatomy.half_width, anatomy.dome[0] - 0.06),
            (0.14, 0.13),
            side * 0.3,
        )
        thickness = thickness + anatomy.breast * 0.13 * disc * smooth(
            y, anatomy.dome[0] - 0.22, anatomy.dome[0]
        )
    if anatomy.bubble:
        centre = (0.55 * anatomy.half_width, anatomy.dome[1] + 0.035 + anatomy.bubble)
        gas = _ellipse(x, y, centre, (1.5 * anatomy.bubble, anatomy.bubble), -0.2)
        thickness = thickness - 0.24 * smooth(gas, 0, 0.7)
    return thickness


def _spine(x: Array, y: Array) -> Array:
    column = smooth(0.055 + 0.012 * y - np.abs(x), 0, 0.024)
    disc = bell(
        np.sin(np.pi * (y * (17 - 4 * y))), 0.30
    )  # gaps between vertebrae, wider further down
    spinous = bell(x, 0.009) * (1 - bell(np.sin(np.pi * (y * (17 - 4 * y)) + 1.2), 0.7))
    trachea = smooth(0.024 - np.abs(x - 0.004), 0, 0.012) * (1 - smooth(y, 0.34, 0.40))
    bronchi = bell(y - 0.37 - 0.55 * np.abs(x), 0.011) * smooth(0.10 - np.abs(x), 0, 0.04)
    return column * (0.068 - 0.05 * disc) + 0.02 * spinous - 0.12 * trachea - 0.07 * bronchi


def _ribs(anatomy: Anatomy, x: Array, y: Array, rim: Array) -> Array:
    """Back ribs rise from the spine and turn down at the wall, front ribs come back down to the
    middle, fainter."""
    t = np.clip(np.abs(x) / anatomy.half_width, 0, 1.15)
    gap = anatomy.rib_spacing
    depth = np.clip((y - 0.1) / 0.7, 0, 1)
    back = (
        0.14
        - 0.085 * np.sin(2.4 * np.clip(t, 0, 1)) * (1 - 0.55 * depth)
        + (0.13 + 0.10 * depth) * t**3
    )
    front = 0.20 + 0.235 * np.clip(1 - t, 0, 1) ** 0.9 - 0.06 * depth
    inside = smooth(rim, -0.022, 0.0) * smooth(np.abs(x), 0.03, 0.06)
    tubes = _tubes((y - back) / gap, 0, 9.6, 0.23) * inside
    faint = _tubes((y - front) / gap, -0.4, 6.4, 0.27) * inside * smooth(t, 0.36, 0.62)
    return anatomy.rib_density * (tubes + 0.55 * faint) + 0.05 * bell(rim, 0.012) * smooth(
        y, 0.12, 0.25
    )


def _tubes(phase: Array, first: float, last: float, half: float) -> Array:
    """Parallel tubes centred on whole phases from `first` to `last`; hollow bone: the edges are
    brighter."""
    off = np.abs(phase - np.round(phase)) / half
    tube = (1 - smooth(off, 0.75, 1.1)) * (0.62 + 0.38 * smooth(off, 0.3, 0.85))
    return tube * smooth(phase, first - 0.6, first - 0.4) * (1 - smooth(phase, last, last + 1.2))


def _shoulders(anatomy: Anatomy, x: Array, y: Array) -> Array:
    ax = np.abs(x)
    line = 0.225 - 0.21 * ax - 0.035 * np.sin(ax * 13.0)  # clavicle
    clavicle = (
        _tubes((y - line) / 0.1, 0, 0, 0.13)
        * smooth(ax, 0.025, 0.045)
        * (1 - smooth(ax, 0.40, 0.43))
    )
    humerus = _ellipse(ax, y, (0.49, 0.195), (0.058, 0.058))
    blade_edge = anatomy.half_width + 0.035 - 0.16 * (y - 0.20)  # scapula
    blade = smooth(ax - blade_edge, 0, 0.012) * (1 - smooth(ax - blade_edge, 0.07, 0.12))
    blade = blade * smooth(y, 0.17, 0.21) * (1 - smooth(y + 0.5 * ax, 0.60, 0.68))
    border = (
        bell(ax - blade_edge - 0.012, 0.008) * smooth(y, 0.2, 0.24) * (1 - smooth(y, 0.38, 0.45))
    )
    return 0.13 * clavicle + 0.16 * humerus + 0.055 * blade + 0.05 * border


def draw_vessels(rng: np.random.Generator, size: int) -> Array:
    """(size, size) float32 0..1: vessels branching from both hila, thick and bright near them."""
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(canvas)
    strokes: list[tuple[float, list[float]]] = []
    for side in (-1, 1):
        for angle in np.linspace(-1.45, 1.5, 9) + rng.normal(0, 0.16, 9):
            start = (side * 0.068, 0.445 + 0.03 * angle)
            _branch(rng, strokes, side, start, float(angle), 0.0085 * rng.uniform(0.75, 1.2), 0)
    for width, line in sorted(strokes, key=lambda stroke: stroke[0]):
        bright = min(255, round(60 + 22000 * width))
        pen.line(
            [value * _CANVAS for value in line], fill=bright, width=max(2, round(width * _CANVAS))
        )
    canvas = canvas.resize(
        (size, size), Image.Resampling.BOX if size <= _CANVAS else Image.Resampling.BICUBIC
    )
    return np.asarray(canvas, np.float32) / 255


def _branch(
    rng: np.random.Generator,
    strokes: list,
    side: int,
    at: tuple[float, float],
    angle: float,
    width: float,
    order: int,
) -> None:
    """One vessel, bending at random, tapering, and leaving two or three thinner ones on its way."""
    x, y = at
    steps = 7 - order
    turns = np.cumsum(rng.normal(0, 0.20, steps)).tolist()
    strides = rng.uniform(0.022, 0.038, steps).tolist()
    forks = (rng.random(steps) < 0.55).tolist()
    for step in range(steps):
        bend = angle + turns[step]
        nx, ny = x + side * strides[step] * math.cos(bend), y + strides[step] * math.sin(bend)
        strokes.append((width, [x + 0.5, y, nx + 0.5, ny]))
        x, y, width = nx, ny, width * 0.84
        if order < 3 and step > 0 and forks[step]:
            turn = math.copysign(rng.uniform(0.4, 0.9), rng.random() - 0.5)
            _branch(rng, strokes, side, (x, y), bend + turn, width * 0.75, order + 1)
        if width < 0.0012:
            return
