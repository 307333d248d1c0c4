"""In: what reaches the film, and how the film is taken. Out: the film: exposure, scatter, grain,
devices, markers and collimation.

`Technique` holds everything by which two films of the same body differ, so that a film can be drawn
again with one thing changed.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from lib.phantoms.anatomy import Array

_CANVAS = 512  # devices and markers are drawn on this grid, then reduced
_PORTABLE_LOW, _PORTABLE_SPAN = 0.05, 1.12
_SCATTER = (0.08, 0.18)  # upright, portable


@dataclass(frozen=True)
class Stroke:
    """One thing drawn with PIL on a 512 px canvas: `kind` is line, ellipse, box or ring; `points`
    are x, y, x, y, ... in pixels."""

    kind: str
    points: tuple[float, ...]
    fill: int = 255
    width: int = 0


@dataclass(frozen=True)
class Technique:
    """How one film is taken. Grey = 1 - exp(-1.65 ((shadow - low) / span)^gamma)."""

    low: float  # attenuation that is black
    span: float  # attenuation from black to white
    gamma: float
    scatter: float  # share of the shadow that is smeared out
    blur: float  # in shares of the side
    grain: float  # deviation, in grey from 0 to 1
    grain_seed: int
    border: tuple[float, ...]  # top, bottom, left, right, in shares of the side
    devices: tuple[Stroke, ...]
    markers: tuple[Stroke, ...]


def choose_technique(rng: np.random.Generator, *, portable: bool) -> Technique:
    """A technique at random; portable films are flatter and show more devices and borders."""
    low = rng.normal(0.09, 0.025) - (_PORTABLE_LOW if portable else 0.0)
    span = rng.normal(0.92, 0.06) * (_PORTABLE_SPAN if portable else 1.0)
    devices = _choose_devices(rng, 0.75 if portable else 0.10)
    gamma = rng.normal(1.15, 0.08)
    blur = abs(rng.normal(0, 0.0009))
    grain_seed = int(rng.integers(2**32))
    grain = rng.uniform(0.006, 0.016)
    border = 0.06 * rng.random(4) * (rng.random(4) < (0.5 if portable else 0.2))
    return Technique(
        low=low,
        span=span,
        gamma=gamma,
        scatter=_SCATTER[portable],
        blur=blur,
        grain=grain,
        grain_seed=grain_seed,
        border=tuple(border.tolist()),
        devices=devices,
        markers=_choose_letter(rng),
    )


def portable_technique(technique: Technique) -> Technique:
    """The grey levels and the scatter of a portable film in place of those of an upright one."""
    low, span = technique.low - _PORTABLE_LOW, technique.span * _PORTABLE_SPAN
    return replace(technique, low=low, span=span, scatter=_SCATTER[True])


def expose(shadow: Array, technique: Technique, size: int) -> Array:
    """The film (size, size) uint8 of the attenuation `shadow` (size, size) float32."""
    scatter = ndimage.gaussian_filter(shadow, 0.06 * size, truncate=2.5)
    shadow = shadow + technique.scatter * (scatter - shadow)
    shadow = shadow + _drawn(technique.devices, size) / 255 * 0.45
    grey = np.clip((shadow - technique.low) / technique.span, 0, None)
    grey = 1 - np.exp(-1.65 * grey**technique.gamma)
    blur = technique.blur * size
    grey = ndimage.gaussian_filter(grey, blur) if blur > 0.2 else grey
    fine = np.random.default_rng(technique.grain_seed)
    grey = grey + technique.grain * fine.standard_normal(grey.shape, dtype=np.float32)
    grey = grey / 0.86
    top, bottom, left, right = (np.array(technique.border) * size).astype(int)
    grey[:top], grey[size - bottom :] = 0.0, 0.0
    grey[:, :left], grey[:, size - right :] = 0.0, 0.0
    grey = np.maximum(grey, _drawn(technique.markers, size) / 255)
    return (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)


def electrode(
    x: float, y: float, end: float, bend: float = 0.0, *, below: bool = True
) -> tuple[Stroke, Stroke]:
    """An electrode at (x, y), in shares of the side, and its wire, which leaves the film below or
    above, at x = `end`."""
    t = np.linspace(0, 1, 40)
    xs = x + (end - x) * t + bend * np.sin(np.pi * t)
    ys = y + (1.02 - y) * t if below else y * (1 - t) - 0.02
    round_ = (x * _CANVAS - 6, y * _CANVAS - 6, x * _CANVAS + 6, y * _CANVAS + 6)
    return Stroke("line", _points(xs, ys), 110, 2), Stroke("ellipse", round_, 150)


def tube(start: float, tip: float, drift: float = 0.0) -> Stroke:
    """A tube or line from above, at x = `start`, down the middle to y = `tip`."""
    t = np.linspace(0, 1, 40)
    xs = start + (0.5 - start) * t + drift * np.sin(3 * t)
    return Stroke("line", _points(xs, tip * t), 90, 4)


PACEMAKER = Stroke("box", (358, 120, 400, 158))


def letter_l(
    x: float, y: float, tall: float, *, width: int = 4, ring: bool = False
) -> tuple[Stroke, ...]:
    """The letter L, for the patient's left; all in pixels of the 512 px canvas."""
    letter = Stroke("line", (x, y, x, y + tall, x + 0.6 * tall, y + tall), 255, width)
    around = (x - 0.6 * tall, y - 0.35 * tall, x + 1.1 * tall, y + 1.35 * tall)
    return (letter, Stroke("ring", around, 255, 3)) if ring else (letter,)


def _choose_devices(rng: np.random.Generator, share: float) -> tuple[Stroke, ...]:
    """Wires, electrodes and tubes: what patients in bed wear."""
    strokes: list[Stroke] = []
    if rng.random() < share:
        for _ in range(int(rng.integers(1, 4))):
            x, y = rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.7)
            end, bend = rng.uniform(-0.05, 1.05), rng.normal(0, 0.15)
            strokes += electrode(x, y, end, bend, below=bool(rng.random() < 0.5))
    if rng.random() < 0.6 * share:
        start, drift = float(rng.choice((0.5, 0.42, 0.57))), rng.normal(0, 0.02)
        strokes.append(tube(start, rng.uniform(0.3, 0.9), drift))
    if rng.random() < 0.03:
        strokes.append(PACEMAKER)
    return tuple(strokes)


def _choose_letter(rng: np.random.Generator) -> tuple[Stroke, ...]:
    x, y, tall = rng.uniform(450, 485), rng.uniform(28, 60), rng.uniform(16, 26)
    if rng.random() >= 0.85:
        return ()
    return letter_l(x, y, tall, ring=bool(rng.random() < 0.3))


def _points(xs: Array, ys: Array) -> tuple[float, ...]:
    return tuple(float(v * _CANVAS) for pair in zip(xs, ys, strict=True) for v in pair)


def _drawn(strokes: tuple[Stroke, ...], size: int) -> Array:
    """The strokes on black, (size, size) float32 from 0 to 255."""
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(canvas)
    for stroke in strokes:
        if stroke.kind == "line":
            pen.line(stroke.points, fill=stroke.fill, width=stroke.width)
        elif stroke.kind == "ellipse":
            pen.ellipse(stroke.points, fill=stroke.fill)
        elif stroke.kind == "ring":
            pen.ellipse(stroke.points, outline=stroke.fill, width=stroke.width)
        else:
            pen.rounded_rectangle(stroke.points, 10, fill=stroke.fill)
    resample = Image.Resampling.BOX if size < _CANVAS else Image.Resampling.BICUBIC
    return np.asarray(canvas.resize((size, size), resample), np.float32)
