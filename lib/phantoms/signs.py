"""In: a healthy synthetic chest and a finding's name. Out: the same chest with that finding's
visible sign.

`reshape` changes the measures before drawing (an enlarged heart, a flat diaphragm); `add_sign`
draws into the layers. Each sign follows what a radiologist looks for; strength runs from 0
(invisible) to 1 (plain).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from lib.phantoms.anatomy import Anatomy, Array, Chest, bell, noise, smooth

AIR = 0.42  # attenuation that a full thickness of air takes away
Sign = Callable[[Chest, np.random.Generator, float], Array | None]


def reshape(anatomy: Anatomy, finding: str, rng: np.random.Generator, strength: float) -> Anatomy:
    """The measures of a chest with `finding`; the same measures where the finding has no effect on
    them."""
    left, right = anatomy.dome
    if finding == "Cardiomegaly":
        return replace(anatomy, heart=anatomy.heart * (1.10 + 0.38 * strength))
    if finding == "Emphysema":
        lower = 0.03 + 0.045 * strength
        return replace(
            anatomy,
            dome=(min(left + lower, 0.86), min(right + lower, 0.87)),
            dome_curve=anatomy.dome_curve * (1 - 0.75 * strength),
            half_width=anatomy.half_width * (1 + 0.04 * strength),
            heart=anatomy.heart * (1 - 0.18 * strength),
            rib_spacing=anatomy.rib_spacing * (1 + 0.08 * strength),
        )
    if finding == "Atelectasis":  # lost volume: the diaphragm comes up and the heart moves over
        side, rise = _side(rng), 0.03 + 0.06 * strength
        dome = (left - rise, right) if side < 0 else (left, right - rise)
        return replace(
            anatomy, dome=dome, heart_shift=anatomy.heart_shift + 0.015 * side * strength
        )
    if finding == "Edema":
        return replace(anatomy, heart=anatomy.heart * (1 + 0.07 * strength))
    if finding == "Fibrosis":
        return replace(anatomy, dome=(left - 0.03 * strength, right - 0.03 * strength))
    return anatomy


def add_sign(chest: Chest, finding: str, rng: np.random.Generator, strength: float) -> Array | None:
    """Draws the sign of `finding` into `chest`; the (S, S) region it fills, None where it cannot be
    boxed."""
    return _SIGNS[finding](chest, rng, strength)


def _side(rng: np.random.Generator) -> int:
    return -1 if rng.random() < 0.5 else 1


def _half(chest: Chest, side: int) -> Array:
    """1 on one side of the chest; -1 is the image's left."""
    return (chest.x * side > 0).astype(np.float32)


def _fill(chest: Chest, region: Array, density: float) -> None:
    """Fluid, pus or scar instead of air: takes air out of `region` and hides the vessels in it."""
    chest.opacity = chest.opacity + density * region * (AIR * chest.air + 0.02 * chest.lung)
    chest.markings = chest.markings * (1 - min(1.0, density) * region)


def _place(chest: Chest, rng: np.random.Generator, side: int, margin: float) -> tuple[float, float]:
    """(x, y) inside the lung of `side`, at least `margin` from its edges where the lung is that
    wide."""
    anatomy = chest.anatomy
    dome = anatomy.dome[0 if side < 0 else 1]
    y = rng.uniform(anatomy.apex + 0.11 + margin, dome - 0.02 - margin)
    wall = anatomy.half_width * min(1.0, 0.60 + 1.1 * (y - anatomy.apex - 0.08))
    inner = (
        0.09 if side < 0 else 0.09 + 0.75 * anatomy.heart * float(smooth(np.float64(y), 0.45, 0.62))
    )
    return side * rng.uniform(min(inner + margin, wall - margin - 0.03), wall - margin), y


def _atelectasis(chest: Chest, rng: np.random.Generator, strength: float) -> Array:
    side = _side(rng)  # the first draw, as in `reshape`: same side
    dome = chest.anatomy.dome[0 if side < 0 else 1]
    cx, cy = side * rng.uniform(0.17, 0.24), dome - rng.uniform(0.035, 0.07)
    slope, region = side * rng.uniform(-0.35, 0.25), np.zeros_like(chest.x)
    for plate in range(1 + int(rng.integers(0, 2))):
        off = (
            chest.y
            - cy
            + rng.uniform(0.03, 0.06) * plate
            - (slope + rng.normal(0, 0.12)) * (chest.x - cx)
        )
        thick = rng.uniform(0.008, 0.015)
        region = np.maximum(
            region, bell(off, thick) * (1 - smooth(np.abs(chest.x - cx), 0.07, 0.13))
        )
    base = (
        0.55
        * (1 - smooth(chest.height, 0.0, 0.08))
        * (1 - smooth(np.abs(chest.x - 0.75 * cx), 0.10, 0.17))
    )
    region = np.maximum(region, base) * _half(chest, side) * chest.lung
    _fill(chest, region, 0.35 + 0.55 * strength)
    return region


def _cardiomegaly(chest: Chest, _rng: np.random.Generator, _strength: float) -> Array:
    return chest.heart * smooth(chest.y, 0.42, 0.50) * (chest.height > -0.04)


def _effusion(chest: Chest, rng: np.random.Generator, strength: float) -> Array:
    sides = (-1, 1) if rng.random() < 0.35 else (_side(rng),)
    region = np.zeros_like(chest.x)
    for side in sides:
        level = 0.025 + (0.05 + 0.20 * rng.random()) * strength**1.3
        climb = (0.10 + 0.05 * strength) * np.exp(
            -np.clip(chest.rim, 0, None) / (0.02 + 0.02 * strength)
        )  # meniscus
        medial = 0.03 * bell(np.abs(chest.x) - 0.06, 0.05)
        dome = chest.anatomy.dome[0 if side < 0 else 1]
        above = (dome + 0.055 - chest.y) - (level + climb + medial)
        region = np.maximum(
            region,
            (1 - smooth(above, 0.0, 0.018)) * _half(chest, side) * smooth(chest.rim, 0, 0.01),
        )
    region = region * smooth(chest.height, -0.02, 0.0)
    _fill(chest, region, 1.0)
    chest.opacity = chest.opacity + 0.08 * region * (1 - 0.9 * chest.heart)
    return region


def _infiltration(chest: Chest, rng: np.random.Generator, strength: float) -> Array:
    region = np.zeros_like(chest.x)
    for side in (-1, 1) if rng.random() < 0.45 else (_side(rng),):
        cx, cy = _place(chest, rng, side, 0.05)
        spread = bell(np.hypot((chest.x - cx) / 0.8, chest.y - cy), rng.uniform(0.12, 0.19))
        patches = 0.35 + 0.65 * smooth(
            noise(rng, 20, len(chest.x)) + 0.7 * noise(rng, 44, len(chest.x)), -1.2, 1.6
        )
        region = np.maximum(region, spread * patches * chest.lung)
    _fill(chest, region, 0.28 + 0.42 * strength)
    return region


def _disc(chest: Chest, rng: np.random.Generator, side: int, radius: float) -> Array:
    """A round shadow with a slightly uneven edge, denser in its middle."""
    cx, cy = _place(chest, rng, side, 0.8 * radius)
    dx, dy = chest.x - cx, (chest.y - cy) * rng.uniform(0.85, 1.15)
    angle = np.arctan2(dy, dx)
    lobes = 1 + sum(
        rng.normal(0, 0.03) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5)
    )
    off = np.hypot(dx, dy) / (radius * lobes)
    return (1 - smooth(off, 0.70, 1.10)) * (0.6 + 0.4 * np.sqrt(np.clip(1 - off * off, 0, None)))


def _mass(chest: Chest, rng: np.random.Generator, strength: float) -> Array:
    region = _disc(chest, rng, _side(rng), 0.046 + 0.040 * strength * rng.uniform(0.6, 1.2))
    chest.opacity = chest.opacity + (0.10 + 0.13 * strength) * region
    return region


def _nodule(chest: Chest, rng: np.random.Generator, strength: float) -> Array:
    count = int(rng.choice((1, 1, 1, 2, 3)))
    discs = [
        _disc(chest, rng, _side(rng), 0.018 + 0.015 * strength * rng.uniform(0.5, 1.1))
        for _ in range(count)
    ]
    chest.opacity = chest.opacity + (0.10 + 0.15 * strength) * sum(discs)
    return discs[0]


def _lobe(chest: Chest, rng: np.random.Generator, side: int) -> Array:
    """One lobe, bounded by a fissure that slopes a little: upper, middle or lower zone."""
    zone = int(rng.integers(0, 3))
    dome = chest.anatomy.dome[0 if side < 0 else 1]
    fissure = (
        chest.y
        - (0.45 + rng.uniform(-0.02, 0.03))
        - side * rng.uniform(-0.05, 0.20) * (chest.x - side * 0.2)
    )
    if zone == 0:
        return (
            (1 - smooth(fissure, -0.006, 0.010)) * smooth(chest.y, 0.2, 0.34) * _half(chest, side)
        )
    if zone == 1:
        fade = bell(np.clip(chest.y - 0.48, 0, None), 0.13) * bell(
            np.clip(np.abs(chest.x) - 0.12, 0, None), 0.16
        )
        return smooth(fissure, -0.010, 0.006) * fade * _half(chest, side)
    fade = smooth(chest.y, dome - 0.24, dome - 0.06) * bell(
        np.clip(0.14 - np.abs(chest.x), 0, None), 0.06
    )
    return fade * _half(chest, side)


def _pneumonia(chest: Chest, rng: np.random.Generator, strength: float) -> Array:
    """A soft lobar shadow in which air-filled bronchi stay dark."""
    side, size = _side(rng), len(chest.x)
    region = (
        _lobe(chest, rng, side) * chest.lung * np.clip(0.8 + 0.16 * noise(rng, 10, size), 0, 1.2)
    )
    bronchi = _bronchi(rng, size, side) * region
    _fill(chest, region, 0.36 + 0.36 * strength)
    chest.opacity = chest.opacity - (0.03 + 0.06 * strength) * bronchi
    return region


def _bronchi(rng: np.random.Generator, size: int, side: int) -> Array:
    """Straight branching tubes, fanning out of one hilum."""
    canvas = Image.new("L", (512, 512))
    pen = ImageDraw.Draw(canvas)
    for angle in np.linspace(-1.3, 1.4, 12) + rng.normal(0, 0.06, 12):
        x, y, width = 0.5 + side * 0.07, 0.43, 0.013
        for _ in range(5):
            nx, ny = x + side * 0.05 * np.cos(angle), y + 0.05 * np.sin(angle)
            pen.line(
                (x * 512, y * 512, nx * 512, ny * 512), fill=255, width=max(2, round(width * 512))
            )
            x, y, width, angle = nx, ny, width * 0.85, angle + rng.normal(0, 0.22)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255


def _pneumothorax(chest: Chest, rng: np.random.Generator, strength: float) -> Array:
    side = _side(rng)
    apical = 1 - smooth(chest.y, 0.20, 0.62)
    gap = (
        (0.020 + 0.055 * strength)
        * (0.55 + 1.35 * apical)
        * np.clip(1 + 0.06 * noise(rng, 6, len(chest.x)), 0.8, 1.2)
    )
    top = chest.anatomy.apex + (0.03 + 0.09 * strength) * (
        0.6 + 0.4 * np.cos(8 * (np.abs(chest.x) - 0.12))
    )
    inside = np.minimum(chest.rim - gap, (chest.y - top))  # depth inside the shrunken lung
    space = (1 - smooth(inside, -0.004, 0.002)) * _half(chest, side) * chest.lung
    edge = bell(inside, 0.0045) * _half(chest, side) * chest.lung
    chest.markings = chest.markings * (1 - space)
    shrunk = _half(chest, side) * chest.lung * (1 - space)
    chest.opacity = (
        chest.opacity - (0.05 + 0.07 * strength) * space + 0.055 * edge + 0.05 * strength * shrunk
    )
    return space


def _consolidation(chest: Chest, rng: np.random.Generator, strength: float) -> Array:
    region = np.clip(1.15 * _lobe(chest, rng, _side(rng)), 0, 1) * chest.lung
    _fill(chest, region, 0.66 + 0.30 * strength)
    return region


def _edema(chest: Chest, rng: np.random.Generator, strength: float) -> Array:
    size = len(chest.x)
    wing = bell(np.hypot((np.abs(chest.x) - 0.13) / 0.85, (chest.y - 0.47) / 1.15), 0.14)
    haze = wing * np.clip(0.85 + 0.20 * noise(rng, 18, size), 0, 1.4) * chest.lung
    chest.markings = chest.markings * (1 + 0.6 * strength * (1 - wing))  # full vessels
    kerley = (
        smooth(np.sin(chest.y * 230), 0.55, 1.0)
        * bell(chest.rim - 0.015, 0.018)
        * bell(chest.height - 0.10, 0.09)
    )
    chest.opacity = (
        chest.opacity + 0.04 * strength * kerley * chest.lung + (0.05 * strength) * chest.lung
    )
    _fill(chest, haze, 0.36 + 0.50 * strength)
    return haze


def _emphysema(chest: Chest, rng: np.random.Generator, strength: float) -> None:
    chest.markings = chest.markings * (1 - 0.55 * strength)
    bulla = smooth(noise(rng, 7, len(chest.x)), 0.6, 1.6) * (1 - smooth(chest.y, 0.3, 0.5))
    chest.opacity = chest.opacity - chest.lung * (0.035 + 0.075 * strength) * (1 + 0.5 * bulla)


def _fibrosis(chest: Chest, rng: np.random.Generator, strength: float) -> Array:
    size = len(chest.x)
    net = np.maximum(
        bell(noise(rng, 26, size), 0.24), 0.8 * bell(noise(rng, 50, size), 0.25)
    )  # ridges make a mesh
    base = bell(np.clip(chest.height - 0.03, 0, None), 0.17)
    region = np.maximum(
        base, 0.6 * bell(np.clip(chest.rim - 0.02, 0, None), 0.05) * smooth(chest.y, 0.2, 0.4)
    )
    region = region * chest.lung
    chest.opacity = chest.opacity + (0.07 + 0.12 * strength) * region * (net + 0.25)
    return region


def _pleural_thickening(chest: Chest, rng: np.random.Generator, strength: float) -> Array:
    region = np.zeros_like(chest.x)
    for side in (-1, 1) if rng.random() < 0.3 else (_side(rng),):
        top, bottom = rng.uniform(0.12, 0.30), rng.uniform(0.55, 0.72)
        along = smooth(chest.y, top, top + 0.06) * (1 - smooth(chest.y, bottom, bottom + 0.08))
        depth = (0.013 + 0.018 * strength) * np.clip(
            1 + 0.25 * noise(rng, 12, len(chest.x)), 0.4, 1.7
        )
        rind = 1 - smooth(chest.rim, depth - 0.004, depth + 0.006)
        region = np.maximum(region, rind * along * _half(chest, side) * chest.lung)
    chest.opacity = chest.opacity + (0.13 + 0.14 * strength) * region
    return region


def _hernia(chest: Chest, rng: np.random.Generator, strength: float) -> Array:
    """Stomach behind the heart: a round wall, air above and fluid below a level line."""
    radius = 0.048 + 0.030 * strength * rng.uniform(0.7, 1.2)
    cx, cy = rng.uniform(-0.02, 0.06), max(chest.anatomy.dome) - 0.035 - radius
    off = np.hypot((chest.x - cx) / 1.15, chest.y - cy) / radius
    disc = 1 - smooth(off, 0.95, 1.05)
    level = smooth(chest.y - (cy + radius * rng.uniform(-0.1, 0.35)), -0.003, 0.003)
    wall = bell(off - 0.97, 0.09)
    chest.opacity = chest.opacity + (0.5 + 0.5 * strength) * (
        0.09 * wall + disc * (0.10 * level - 0.17 * (1 - level)) + 0.05 * disc
    )
    return disc


_SIGNS: dict[str, Sign] = {
    "Atelectasis": _atelectasis,
    "Cardiomegaly": _cardiomegaly,
    "Effusion": _effusion,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Emphysema": _emphysema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
}
